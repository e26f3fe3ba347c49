// Package load sends mail: as fast as it is taken (closed loop), or at a fixed rate whatever becomes of it (open loop).
package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stagecoachmail/stagecoach/test/bench/internal/corpus"
	"github.com/stagecoachmail/stagecoach/test/bench/internal/ledger"
)

const (
	// perSession is how many messages go over one connection.
	perSession = 20
	// afterDeferral is how long a client waits after a 4xx before it sends the message again.
	afterDeferral = 50 * time.Millisecond
)

// Load is clients of one target.
type Load struct {
	Target Target
	Corpus *corpus.Corpus
	Ledger *ledger.Ledger
	// Sessions is how many there are at once.
	Sessions int
	// Rate is the number of messages per second over all sessions, at equal distances; 0: each session sends one after
	// the other without a pause. When all sessions are busy a message is late, and its time counts from when it was due.
	Rate float64
	// Most is how many bytes are sent at most, whatever the time, but for what has begun; 0: any number.
	Most int64
}

// Run sends for that long, and returns when every message that was begun has had its answer. An error is a session that
// broke, or an answer that nobody may give: not a 4xx, after which the message is sent again, or a 5xx, which is in the ledger.
func (l *Load) Run(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{Load: l, start: time.Now(), d: d}
	var wg sync.WaitGroup
	for range l.Sessions {
		wg.Go(func() {
			if err := r.client(ctx); err != nil {
				cancel(err) // the first one counts; the others follow from it
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// run is one Run.
type run struct {
	*Load
	start time.Time
	d     time.Duration
	slots atomic.Int64
	bytes atomic.Int64
}

// next waits until a message is due; false: there is none any more.
func (r *run) next(ctx context.Context) (due time.Time, ok bool) {
	due = time.Now()
	if r.Rate > 0 {
		due = r.start.Add(time.Duration(float64(r.slots.Add(1)-1) / r.Rate * float64(time.Second)))
	}
	if due.Sub(r.start) >= r.d || r.Most > 0 && r.bytes.Load() >= r.Most {
		return due, false
	}
	return due, pause(ctx, time.Until(due))
}

// client is one session after the other.
func (r *run) client(ctx context.Context) error {
	var s *session
	for n := 0; ; n++ {
		due, ok := r.next(ctx)
		if s != nil && (!ok || n%perSession == 0) {
			if err := s.quit(); err != nil {
				return fmt.Errorf("QUIT: %w", err)
			}
			s = nil
		}
		if !ok {
			return nil
		}
		if s == nil {
			var err error
			if s, err = dial(ctx, r.Target); err != nil {
				return err
			}
		}
		if err := r.message(ctx, s, due); err != nil {
			s.close()
			return err
		}
	}
}

// message sends one message until it is accepted, refused for good, or the time is over.
func (r *run) message(ctx context.Context, s *session, due time.Time) error {
	number := r.Ledger.Open(func(n int) int { return r.Corpus.At(n).Size() })
	m := r.Corpus.At(number)
	r.bytes.Add(int64(m.Size()))
	began := func(t time.Time) {
		if r.Rate > 0 {
			t = due
		}
		r.Ledger.Began(number, t)
	}
	for {
		err := s.send(m, r.Ledger.Token(number), began)
		answer, refused := errors.AsType[*reply](err)
		switch {
		case err == nil:
			r.Ledger.Accepted(number, time.Now())
			return nil
		case !refused:
			return fmt.Errorf("message %s: %w", r.Ledger.Token(number), err)
		case answer.code/100 != 4:
			r.Ledger.Refused(number, answer.Error())
			return nil
		}
		r.Ledger.Deferred()
		if !pause(ctx, afterDeferral) || time.Since(r.start) >= r.d {
			return nil
		}
	}
}

// pause waits; false: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
