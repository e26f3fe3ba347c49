package spool

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

// Kill drops the shard as a crash would: nothing is written, nothing is given up.
func (s *Shard) Kill() {
	s.cancel()
	s.wg.Wait()
}

// TrailDry says that the trail has everything.
func (s *Shard) TrailDry() bool { return s.trails.dry() }

// Floor is where the log is needed from.
func (s *Shard) Floor() uint64 { return s.ledger.floor() }

// LastSeq is the last confirmed sequence of the log. Only for a shard at rest.
func (s *Shard) LastSeq() uint64 { return s.logger.last }

// Wire is the seam to a stream; tests put faults there.
type Wire = wire

// WithWire makes a shard talk to its streams through f.
func (o Options) WithWire(f func(Wire) Wire) Options {
	o.wire = f
	return o
}

// Unfenced is a wire that never says which sequence an append must get: the deliberately broken build without a
// fence. Reading back always finds its own.
func Unfenced(w Wire) Wire { return &unfenced{w.(*streamWire)} }

type unfenced struct{ *streamWire }

func (u *unfenced) send(r *record) (ticket, error) {
	ack := make(chan *jetstream.PubAck, 1)
	errs := make(chan error, 1)
	if _, err := u.js.Publish(context.Background(), r.subject, r.data); err != nil {
		errs <- err
	} else {
		ack <- &jetstream.PubAck{Sequence: r.after + 1}
	}
	return &tickets{ack, errs}, nil
}

// Hasty is a wire that acknowledges before it appends: the deliberately broken build of a lying ack. What is in
// its hands when the process dies is lost.
func Hasty(w Wire) Wire { return &hasty{streamWire: w.(*streamWire), later: make(chan *record, 1<<16)} }

type hasty struct {
	*streamWire
	later chan *record
	busy  bool
}

func (h *hasty) send(r *record) (ticket, error) {
	if !h.busy {
		h.busy = true
		go func() {
			for r := range h.later {
				_, _ = h.js.Publish(context.Background(), r.subject, r.data)
			}
		}()
	}
	h.later <- r
	ack := make(chan *jetstream.PubAck, 1)
	ack <- &jetstream.PubAck{Sequence: r.after + 1}
	return &tickets{ack, nil}, nil
}

type tickets struct {
	ok  chan *jetstream.PubAck
	err chan error
}

func (t *tickets) Ok() <-chan *jetstream.PubAck { return t.ok }
func (t *tickets) Err() <-chan error            { return t.err }

// LostAcks is a wire that loses every n-th acknowledgement of a send, and every n-th send before it is stored.
func LostAcks(n int) func(Wire) Wire {
	return func(w Wire) Wire { return &lossy{wire: w, n: n} }
}

type lossy struct {
	wire
	n, count int
}

func (l *lossy) send(r *record) (ticket, error) {
	l.count++
	switch l.count % l.n {
	case 0:
		_, _ = l.wire.repeat(context.Background(), r)
	case l.n / 2:
	default:
		return l.wire.send(r)
	}
	errs := make(chan error, 1)
	errs <- context.DeadlineExceeded
	return &tickets{make(chan *jetstream.PubAck), errs}, nil
}

// Stuck is a wire whose sends, after Hold, are answered by nobody until Release: they are then neither stored nor
// acknowledged, and have to be repeated.
type Stuck struct {
	mu      sync.Mutex
	held    bool
	release chan struct{}
}

func NewStuck() *Stuck { return &Stuck{release: make(chan struct{})} }

func (s *Stuck) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
}

func (s *Stuck) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = false
	close(s.release)
}

func (s *Stuck) Wrap(w Wire) Wire { return &stuck{wire: w, s: s} }

type stuck struct {
	wire
	s *Stuck
}

func (w *stuck) send(r *record) (ticket, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if !w.s.held {
		return w.wire.send(r)
	}
	errs := make(chan error, 1)
	go func() {
		<-w.s.release
		errs <- context.DeadlineExceeded
	}()
	return &tickets{make(chan *jetstream.PubAck), errs}, nil
}
