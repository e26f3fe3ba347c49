package spool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Adopter takes over the shards of other instances whose lease has run out, to run them down. A lease has run out
// when it was not renewed for its whole time while our own connection to NATS stood: whoever was cut off himself
// proves nothing.
type Adopter struct {
	// Options of the adopted shards; Instance and Holder are ours, Process too.
	Options Options
	// Run is called, in a goroutine of its own, for each shard that was adopted, and ends with it: Close when Wanted
	// or ctx says so, Remove when it is empty. The shard is watched for again afterwards.
	Run func(ctx context.Context, s *Shard, r *Recovered)
}

type seen struct {
	rev   uint64
	since time.Time
}

// Watch looks for shards to adopt until ctx ends, which is its error; then it waits for every Run.
func (a *Adopter) Watch(ctx context.Context) error {
	o := a.Options
	if err := o.complete(); err != nil {
		return err
	}
	js, err := o.jetStream()
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	var mu sync.Mutex
	ours := make(map[string]bool)
	own := namesOf(o.Instance).lease()
	found := make(map[string]seen)
	reconnects, looked := o.Conn.Stats().Reconnects, o.Clock.Now()
	for {
		if err := o.Clock.Sleep(ctx, o.Times.Renew); err != nil {
			return err
		}
		now := o.Clock.Now()
		step, cancel := context.WithTimeout(ctx, o.Times.Ack)
		revs, err := o.leaseRevs(step, js)
		cancel()
		if n := o.Conn.Stats().Reconnects; err != nil || n != reconnects || o.Conn.Status() != nats.CONNECTED {
			if err != nil && ctx.Err() == nil {
				o.Logger.Warn("spool: looking at the leases", "err", err)
			}
			reconnects = n
			clear(found)
			continue
		}
		// A gap between two looks is no proof either: this process, or the server, was paused.
		if now.Sub(looked) > o.Times.Lease/4 {
			clear(found)
		}
		looked = now
		for subject, rev := range revs {
			if old, known := found[subject]; !known || old.rev != rev {
				found[subject] = seen{rev, now}
			}
		}
		for subject, f := range found {
			mu.Lock()
			skip := ours[subject]
			mu.Unlock()
			if _, there := revs[subject]; !there {
				delete(found, subject)
				continue
			}
			if subject == own || skip || now.Sub(f.since) < o.Times.Lease {
				continue
			}
			delete(found, subject)
			s, rec, err := a.adopt(ctx, js, o, subject, f.rev)
			if err != nil {
				if ctx.Err() == nil {
					o.Logger.Warn("spool: adopting", "lease", subject, "err", err)
				}
				continue
			}
			mu.Lock()
			ours[subject] = true
			mu.Unlock()
			running.Go(func() {
				a.Run(ctx, s, rec)
				mu.Lock()
				delete(ours, subject)
				mu.Unlock()
			})
		}
	}
}

func (a *Adopter) adopt(ctx context.Context, js jetstream.JetStream, o Options, subject string, rev uint64) (*Shard, *Recovered, error) {
	stream, err := js.Stream(ctx, leases)
	if err != nil {
		return nil, nil, fmt.Errorf("spool: leases: %w", err)
	}
	l, at, err := readLease(ctx, stream, subject)
	if err != nil {
		return nil, nil, err
	}
	if l == nil || at != rev {
		return nil, nil, fmt.Errorf("%w: renewed at the last moment", ErrOwned)
	}
	if namesOf(l.Instance).lease() != subject {
		return nil, nil, fmt.Errorf("spool: the lease at %s names another instance, %q", subject, l.Instance)
	}
	o.Logger.Warn("spool: adopting the shard of an instance that is gone", "instance", l.Instance, "process", l.Process)
	o.Holder, o.Instance, o.rev, o.ExclusiveOwner = o.Instance, l.Instance, rev, false
	return Open(ctx, o)
}

// leaseRevs gives the revision of every lease.
func (o *Options) leaseRevs(ctx context.Context, js jetstream.JetStream) (map[string]uint64, error) {
	stream, err := js.Stream(ctx, leases)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = o.leaseStream(ctx, js)
	}
	if err != nil {
		return nil, fmt.Errorf("spool: leases: %w", err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter("lease.>"))
	if err != nil {
		return nil, fmt.Errorf("spool: leases: %w", err)
	}
	revs := make(map[string]uint64, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		if !strings.HasPrefix(subject, "lease.") {
			continue
		}
		m, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("spool: leases: %w", err)
		}
		revs[subject] = m.Sequence
	}
	return revs, nil
}
