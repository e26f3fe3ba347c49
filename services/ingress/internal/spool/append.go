package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// feed gives an appender its records.
type feed interface {
	// ready has a value when take may have become able to give something.
	ready() <-chan struct{}
	// take gives the next record to publish, or nil. inFlight is the number of records that are not yet
	// acknowledged, bytes their size: with some in flight a feed may rather wait, and pack more into the next.
	take(ctx context.Context, inFlight, bytes int) *record
}

// appender is the one writer of one stream. It publishes the records of its feed in order, each with the sequence
// that it must get, several at once. When anything goes wrong with one (no acknowledgement, a refusal, a lost
// connection) it stops publishing and settles the fate of every record in flight, one by one: what is found at its
// sequence was stored; what is not there is published again with the same Msg-Id and expected sequence, so that a
// late first copy and the repeat cannot both be stored; when something else is there, another owner has taken over.
type appender struct {
	wire  wire
	feed  feed
	log   *slog.Logger
	clock Clock
	// ackTimeout bounds one repeat and one reading back.
	ackTimeout time.Duration
	// pause is waited between repeats that got no answer.
	pause time.Duration

	last uint64
	// oldest is when the oldest record in flight was published, in nanoseconds since start; 0 if there is none.
	start  time.Time
	oldest atomic.Int64
}

type flight struct {
	rec *record
	tkt ticket // nil: could not be sent
	at  time.Time
}

// run publishes until ctx ends, which gives ctx.Err(), or another owner is found, which gives ErrFenced.
func (a *appender) run(ctx context.Context) error {
	var flights []flight
	bytes := 0
	next := a.last
	for {
		for {
			rec := a.feed.take(ctx, len(flights), bytes)
			if rec == nil {
				break
			}
			rec.after = next
			next++
			f := flight{rec: rec, at: a.clock.Now()}
			f.tkt, _ = a.wire.send(rec) // without a ticket it goes straight to repair
			flights = append(flights, f)
			bytes += len(rec.data)
			if f.tkt == nil {
				break
			}
		}
		if len(flights) == 0 {
			a.oldest.Store(0)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-a.feed.ready():
			}
			continue
		}
		head := flights[0]
		a.oldest.Store(int64(head.at.Sub(a.start)) + 1)
		if err := a.await(ctx, head); errors.Is(err, errMore) {
			continue
		} else if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			a.log.Warn("spool: an append has no good answer; reading back", "after", head.rec.after, "in_flight", len(flights), "err", err)
			for _, f := range flights {
				if err := a.repair(ctx, f.rec); err != nil {
					return err
				}
				a.confirm(f.rec)
			}
			flights, bytes = nil, 0
			continue
		}
		a.confirm(head.rec)
		bytes -= len(head.rec.data)
		flights[0] = flight{}
		flights = flights[1:]
	}
}

// errMore: there may be more to publish while the head waits.
var errMore = errors.New("spool: more to publish")

// waited is the age of the oldest record in flight.
func (a *appender) waited() time.Duration {
	at := a.oldest.Load()
	if at == 0 {
		return 0
	}
	return a.clock.Now().Sub(a.start) - time.Duration(at)
}

func (a *appender) await(ctx context.Context, f flight) error {
	if f.tkt == nil {
		return errors.New("not sent")
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case ack := <-f.tkt.Ok():
		if fenced && ack.Sequence != f.rec.after+1 {
			return fmt.Errorf("stored at %d, expected %d", ack.Sequence, f.rec.after+1)
		}
		return nil
	case err := <-f.tkt.Err():
		return outOfTurn(err)
	case <-a.feed.ready():
		return errMore
	}
}

func (a *appender) confirm(r *record) {
	a.last = r.after + 1
	r.done(a.last)
}

// repair returns when r is stored; ErrFenced when it can never be.
func (a *appender) repair(ctx context.Context, r *record) error {
	for try := 0; ; try++ {
		if try > 0 {
			if err := a.clock.Sleep(ctx, a.pause); err != nil {
				return err
			}
		}
		stored, err := a.lookBack(ctx, r)
		if stored || errors.Is(err, ErrFenced) {
			return err
		}
		if err == nil {
			err = a.again(ctx, r)
			if err == nil {
				return nil
			}
			if errors.Is(err, errOutOfTurn) {
				// Either the first copy landed meanwhile, or it is another's turn: the next look tells.
				stored, err = a.lookBack(ctx, r)
				if stored || errors.Is(err, ErrFenced) {
					return err
				}
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if try == 0 || try%20 == 0 {
			a.log.Warn("spool: repeating an append", "after", r.after, "try", try+1, "err", err)
		}
	}
}

func (a *appender) again(ctx context.Context, r *record) error {
	ctx, cancel := context.WithTimeout(ctx, a.ackTimeout)
	defer cancel()
	seq, err := a.wire.repeat(ctx, r)
	if err == nil && seq != r.after+1 {
		return errOutOfTurn
	}
	return err
}

// lookBack says whether r stands at its sequence. Something else there, or a stream that has gone on without r
// being there (it was purged by who owns the stream now), is ErrFenced.
func (a *appender) lookBack(ctx context.Context, r *record) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, a.ackTimeout)
	defer cancel()
	id, _, err := a.wire.read(ctx, r.after+1)
	if err == nil {
		if id == r.id {
			return true, nil
		}
		return false, fmt.Errorf("%w: the record at %d is not ours", ErrFenced, r.after+1)
	}
	if !errors.Is(err, errAbsent) {
		return false, err
	}
	last, err := a.wire.last(ctx)
	if err != nil {
		return false, err
	}
	if last == r.after {
		return false, nil
	}
	// It may have landed between the two questions.
	if id, _, err := a.wire.read(ctx, r.after+1); err == nil && id == r.id {
		return true, nil
	} else if err != nil && !errors.Is(err, errAbsent) {
		return false, err
	}
	return false, fmt.Errorf("%w: the stream is at %d, not at %d", ErrFenced, last, r.after)
}
