package spool

import (
	"context"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

// shelf writes the depot: the last value of every message that waits, after the entry that made it wait, and once,
// before the first value, its bytes. Its writes go through an appender of their own, so that the values of an
// owner that was taken over from are refused as its entries are.
type shelf struct {
	shard    *Shard
	appender *appender
	ids      recordIDs

	mu     sync.Mutex
	queued []*tracked
	// next is the value whose bytes were given out just now.
	next   *record
	flying int
	wake   chan struct{}
}

func newShelf(s *Shard) *shelf {
	return &shelf{shard: s, ids: recordIDs{prefix: s.opts.Process + "-d"}, wake: make(chan struct{}, 1)}
}

// put is called by the ledger, with its lock held.
func (f *shelf) put(t *tracked) {
	f.mu.Lock()
	f.queued = append(f.queued, t)
	f.mu.Unlock()
	f.poke()
}

func (f *shelf) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *shelf) dry() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.queued) == 0 && f.next == nil && f.flying == 0
}

func (f *shelf) ready() <-chan struct{} { return f.wake }

func (f *shelf) take(ctx context.Context, inFlight, bytes int) *record {
	if inFlight >= window || bytes >= windowBytes {
		return nil
	}
	for ctx.Err() == nil {
		f.mu.Lock()
		if r := f.next; r != nil {
			f.next = nil
			f.mu.Unlock()
			return r
		}
		if len(f.queued) == 0 {
			f.mu.Unlock()
			return nil
		}
		t := f.queued[0]
		f.queued[0] = nil
		f.queued = f.queued[1:]
		f.flying++
		f.mu.Unlock()
		r, err := f.value(ctx, t)
		if err != nil {
			// Its entries stay in the log until this succeeds.
			f.shard.opts.Logger.Error("spool: a waiting message cannot be stored", "id", t.msg.ID, "err", err)
			f.later(t)
			return nil
		}
		if r != nil {
			return r
		}
		f.landed()
	}
	return nil
}

// later puts t back after a pause.
func (f *shelf) later(t *tracked) {
	f.shard.wg.Go(func() {
		err := f.shard.opts.Clock.Sleep(f.shard.ctx, f.shard.opts.Times.Pause)
		f.mu.Lock()
		f.flying--
		if err == nil {
			f.queued = append(f.queued, t)
		}
		f.mu.Unlock()
		f.poke()
	})
}

func (f *shelf) landed() {
	f.mu.Lock()
	f.flying--
	f.mu.Unlock()
}

// value makes the record of t as it stands now. A message that is over is given to the sweeper instead.
func (f *shelf) value(ctx context.Context, t *tracked) (*record, error) {
	s := f.shard
	l := s.ledger
	l.mu.Lock()
	t.again = false
	m, inline, haveBytes := t.msg, t.inline, t.bytesStored || t.msg.Body.Chunks > 0
	l.mu.Unlock()
	if m.Over() {
		s.sweep.add(sweep{stream: s.depots, subject: s.names.shelf(m.ID), then: func() { l.deleted(t) }})
		return nil, nil
	}
	if m.Trimmed() {
		full, err := s.stored(ctx, m.ID)
		if err != nil {
			return nil, err
		}
		if m = m.Restore(full); m.Trimmed() {
			return nil, fmt.Errorf("spool: the stored value of %s lacks a group", m.ID)
		}
	}
	p := encodeWaiting(m)
	if err := shrink(p, p.Done, EntryLimit); err != nil {
		return nil, err
	}
	data, err := proto.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("spool: encoding %s: %w", m.ID, err)
	}
	val := &record{subject: s.names.waiting(m.ID), id: f.ids.next(), data: data, done: func(uint64) {
		if l.written(t, m.Seq) {
			s.sweep.add(sweep{stream: s.depots, subject: s.names.waiting(m.ID), keep: 1})
		}
		f.landed()
	}}
	if haveBytes {
		return val, nil
	}
	if inline == nil && m.Body.Size > 0 {
		if inline, err = s.fetch(ctx, m.ID, m.Body); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	f.next = val
	f.mu.Unlock()
	return &record{subject: s.names.bytes(m.ID), id: f.ids.next(), data: inline, done: func(uint64) {
		l.mu.Lock()
		t.bytesStored = true
		l.mu.Unlock()
	}}, nil
}

// stored reads the depot's value of a message.
func (s *Shard) stored(ctx context.Context, id string) (*depot.Message, error) {
	m, err := s.depots.GetLastMsgForSubject(ctx, s.names.waiting(id))
	if err != nil {
		return nil, fmt.Errorf("spool: reading %s from the depot: %w", id, err)
	}
	return decodeWaiting(m.Data)
}

// Load gives a message that waits with all of its hops done, edits included. Load it before it is run or settled
// again; the View's own value may come without.
func (s *Shard) Load(ctx context.Context, id string) (*depot.Message, error) {
	t := s.ledger.get(id)
	if t == nil {
		return nil, fmt.Errorf("%w: %s", ErrUnknownMessage, id)
	}
	s.ledger.mu.Lock()
	m := t.msg
	s.ledger.mu.Unlock()
	if !m.Trimmed() {
		return m, nil
	}
	full, err := s.stored(ctx, id)
	if err != nil {
		return nil, err
	}
	return m.Restore(full), nil
}

// sweepers is the number of deletions at once; each costs the server one sync.
const sweepers = 4

// sweep is a subject to purge.
type sweep struct {
	stream  jetstream.Stream
	subject string
	// keep is how many of the last values stay.
	keep uint64
	then func()
}

// sweeper deletes what is over. What it deletes has ended in the log, so that a late deletion does no harm; still
// an owner whose lease is not fresh deletes nothing.
type sweeper struct {
	shard *Shard

	mu     sync.Mutex
	jobs   []sweep
	flying int
	wake   chan struct{}
}

func newSweeper(s *Shard) *sweeper { return &sweeper{shard: s, wake: make(chan struct{}, 1)} }

func (w *sweeper) add(j sweep) {
	w.mu.Lock()
	w.jobs = append(w.jobs, j)
	w.mu.Unlock()
	w.poke()
}

func (w *sweeper) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *sweeper) dry() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.jobs) == 0 && w.flying == 0
}

func (w *sweeper) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		}
		for {
			w.mu.Lock()
			if len(w.jobs) == 0 {
				w.mu.Unlock()
				break
			}
			j := w.jobs[0]
			w.jobs[0] = sweep{}
			w.jobs = w.jobs[1:]
			w.flying++
			w.mu.Unlock()
			w.poke() // for the next sweeper
			if err := w.purge(ctx, j); err != nil {
				return err
			}
			w.mu.Lock()
			w.flying--
			w.mu.Unlock()
		}
	}
}

func (w *sweeper) purge(ctx context.Context, j sweep) error {
	o := &w.shard.opts
	for try := 0; ; try++ {
		if w.shard.MayGo() {
			step, cancel := context.WithTimeout(ctx, o.Times.Ack)
			what := []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject(j.subject)}
			if j.keep > 0 {
				what = append(what, jetstream.WithPurgeKeep(j.keep))
			}
			err := j.stream.Purge(step, what...)
			cancel()
			if err == nil {
				if j.then != nil {
					j.then()
				}
				return nil
			}
			if try%20 == 0 {
				o.Logger.Warn("spool: deleting what is over", "subject", j.subject, "err", err)
			}
		}
		if err := o.Clock.Sleep(ctx, o.Times.Pause); err != nil {
			return err
		}
	}
}
