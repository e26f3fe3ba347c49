package spool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	spoolv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/spool/v1"
)

// leases is the stream that holds the last value of every instance's lease.
const leases = "LEASES"

// lease says which process owns a shard. It decides who may begin; the fence of the log decides who may go on. Its
// age is never read from a clock on the wire: who waits for it to run out watches it not being renewed.
type lease struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	opts   *Options
	names  names

	// writing is held through a renewal; mu is not, so that asking for the last renewal never waits for one.
	writing  sync.Mutex
	renewal  uint64
	released bool

	mu  sync.Mutex
	rev uint64 // sequence of our last value
	// last is when the last renewal that succeeded was sent.
	last time.Time
}

func (o *Options) leaseStream(ctx context.Context, js jetstream.JetStream) (jetstream.Stream, error) {
	spec := streamSpec(leases, []string{"lease.*"}, o.Replicas, 64<<20)
	spec.MaxMsgsPerSubject = 1
	return o.ensureStream(ctx, js, spec)
}

var errReleased = errors.New("spool: the lease was given up")

// acquire takes the lease, or gives ErrOwned.
func (l *lease) acquire(ctx context.Context) error {
	for {
		cur, rev, err := l.read(ctx)
		if err != nil {
			return err
		}
		switch {
		case l.opts.rev != 0:
			// An adoption: this very revision was seen to run out.
			if rev != l.opts.rev {
				return fmt.Errorf("%w: %s was renewed", ErrOwned, l.opts.Instance)
			}
		case cur == nil, cur.Released, cur.Process == l.opts.Process, l.opts.ExclusiveOwner:
		default:
			if rev, err = l.watch(ctx, cur, rev); err != nil {
				return err
			}
		}
		l.stands(rev, time.Time{})
		err = l.write(ctx, &spoolv1.Lease{})
		if errors.Is(err, errOutOfTurn) {
			continue
		}
		return err
	}
}

// watch returns, with the last revision, when nobody renews the lease, or it is given up.
func (l *lease) watch(ctx context.Context, cur *spoolv1.Lease, rev uint64) (uint64, error) {
	l.opts.Logger.Info("spool: the lease is held; watching whether it is renewed", "instance", l.opts.Instance, "process", cur.Process)
	var asked time.Time
	for start := l.opts.Clock.Now(); ; {
		if err := l.opts.Clock.Sleep(ctx, min(l.opts.Times.Watch/8, 200*time.Millisecond)); err != nil {
			return 0, fmt.Errorf("spool: watching the lease: %w", err)
		}
		now, nrev, err := l.read(ctx)
		if err != nil {
			return 0, err
		}
		if now == nil || now.Released {
			return nrev, nil
		}
		waited := l.opts.Clock.Now().Sub(start)
		switch {
		case nrev == rev:
			if asked.IsZero() && waited >= l.opts.Times.Watch {
				return nrev, nil
			}
		case now.Holder == l.opts.Instance:
			return 0, fmt.Errorf("%w: %q is run by process %s; give this one another instance name, or stop the other",
				ErrOwned, l.opts.Instance, now.Process)
		}
		if now.Holder != l.opts.Instance {
			// Adopted while we were away. Its holder gives it back when it has nothing under way; if it does not,
			// it is fenced.
			if asked.IsZero() {
				asked = l.opts.Clock.Now()
			}
			if l.opts.Clock.Now().Sub(asked) >= l.opts.Times.Lease {
				return nrev, nil
			}
			if err := l.opts.Conn.Publish(l.names.wanted(), []byte(l.opts.Process)); err != nil {
				return 0, fmt.Errorf("spool: asking for the shard: %w", err)
			}
		}
	}
}

// read gives the lease as it stands, nil if there is none.
func (l *lease) read(ctx context.Context) (*spoolv1.Lease, uint64, error) {
	return readLease(ctx, l.stream, l.names.lease())
}

func readLease(ctx context.Context, s jetstream.Stream, subject string) (*spoolv1.Lease, uint64, error) {
	m, err := s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("spool: reading the lease: %w", err)
	}
	p := &spoolv1.Lease{}
	if err := proto.Unmarshal(m.Data, p); err != nil {
		return nil, 0, fmt.Errorf("spool: lease %s: %w", subject, err)
	}
	return p, m.Sequence, nil
}

// write stores p over the revision that was last known; errOutOfTurn if that is not the last one. A lost answer is
// cleared up by reading back.
func (l *lease) write(ctx context.Context, p *spoolv1.Lease) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.released {
		return errReleased
	}
	l.released = p.Released
	l.mu.Lock()
	rev := l.rev
	l.mu.Unlock()
	l.renewal++
	p.Version, p.Instance, p.Process, p.Holder, p.Renewal = format, l.opts.Instance, l.opts.Process, l.opts.Holder, l.renewal
	data, err := proto.Marshal(p)
	if err != nil {
		return fmt.Errorf("spool: lease: %w", err)
	}
	sent := l.opts.Clock.Now()
	try, cancel := context.WithTimeout(ctx, l.opts.Times.Ack)
	defer cancel()
	ack, err := l.js.PublishMsg(try, &nats.Msg{Subject: l.names.lease(), Data: data},
		jetstream.WithExpectStream(leases), jetstream.WithExpectLastSequencePerSubject(rev), jetstream.WithRetryAttempts(0))
	if err == nil {
		l.stands(ack.Sequence, sent)
		return nil
	}
	cause := outOfTurn(err)
	check, cancel := context.WithTimeout(ctx, l.opts.Times.Ack)
	defer cancel()
	cur, at, rerr := readLease(check, l.stream, l.names.lease())
	if rerr != nil {
		return fmt.Errorf("spool: renewing the lease: %w", errors.Join(cause, rerr))
	}
	if cur != nil && cur.Process == l.opts.Process {
		if cur.Renewal == l.renewal {
			l.stands(at, sent)
			return nil
		}
		l.stands(at, l.lastRenewal())
		// An earlier renewal whose answer was lost: the next one stands on it.
		return fmt.Errorf("spool: renewing the lease: %w", err)
	}
	if errors.Is(cause, errOutOfTurn) {
		return cause
	}
	return fmt.Errorf("spool: renewing the lease: %w", err)
}

func (l *lease) stands(rev uint64, sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rev, l.last = rev, sent
}

// renew keeps the lease until ctx ends; ErrFenced when another has taken it.
func (l *lease) renew(ctx context.Context) error {
	failing := false
	for {
		if err := l.opts.Clock.Sleep(ctx, l.opts.Times.Renew); err != nil {
			return err
		}
		err := l.write(ctx, &spoolv1.Lease{})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errReleased):
			<-ctx.Done() // the shard is being closed
			return ctx.Err()
		case fenced && errors.Is(err, errOutOfTurn):
			cur, _, rerr := l.read(ctx)
			if rerr == nil && (cur == nil || cur.Process != l.opts.Process) {
				return fmt.Errorf("%w: process %q has the lease of %s", ErrFenced, cur.GetProcess(), l.opts.Instance)
			}
		case err != nil && !failing:
			l.opts.Logger.Warn("spool: the lease cannot be renewed; nothing is started until it is", "instance", l.opts.Instance, "err", err)
		case err == nil && failing:
			l.opts.Logger.Info("spool: the lease is renewed again", "instance", l.opts.Instance)
		}
		failing = err != nil
	}
}

// release gives the lease up; idle says that no outcome is open.
func (l *lease) release(ctx context.Context, idle bool) error {
	return l.write(ctx, &spoolv1.Lease{Released: true, Idle: idle})
}

func (l *lease) lastRenewal() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}
