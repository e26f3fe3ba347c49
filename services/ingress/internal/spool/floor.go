package spool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// gauge is what the last look at the limits found.
type gauge struct {
	full   atomic.Pointer[string] // why intake is stopped
	filled atomic.Uint64          // bits of a float64: the part of its limit that the fullest stream has
	sizes  atomic.Pointer[[]Size]
	purged uint64 // of the floor's loop alone
}

// floors purges the log up to the floor and looks at the limits, about once a second.
func (s *Shard) floors(ctx context.Context) error {
	for {
		if err := s.opts.Clock.Sleep(ctx, s.opts.Times.Floor); err != nil {
			return err
		}
		if err := s.purge(ctx); err != nil && ctx.Err() == nil {
			s.opts.Logger.Warn("spool: purging the log", "err", err)
		}
		if err := s.measure(ctx); err != nil && ctx.Err() == nil {
			s.opts.Logger.Warn("spool: looking at the limits", "err", err)
		}
	}
}

// purge drops the records below the floor: the oldest one whose message is unsettled, or whose change of the depot
// or end in the trail is not acknowledged.
func (s *Shard) purge(ctx context.Context) error {
	floor := s.ledger.floor()
	if floor <= s.gauge.purged || !s.MayGo() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Times.Ack)
	defer cancel()
	if err := s.spool.Purge(ctx, jetstream.WithPurgeSequence(floor)); err != nil {
		return fmt.Errorf("spool: purging below %d: %w", floor, err)
	}
	s.gauge.purged = floor
	return nil
}

// intakePercent of a limit stops intake.
const intakePercent = 80

func (s *Shard) measure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Times.Ack)
	defer cancel()
	var why string
	var filled float64
	var sizes []Size
	for _, stream := range []jetstream.Stream{s.spool, s.bodies, s.depots} {
		info, err := stream.Info(ctx)
		if err != nil {
			return fmt.Errorf("spool: %w", err)
		}
		filled = max(filled, float64(info.State.Bytes)/float64(info.Config.MaxBytes))
		sizes = append(sizes, Size{info.Config.Name, info.State.Bytes, uint64(info.Config.MaxBytes)})
		if limit := uint64(info.Config.MaxBytes); info.State.Bytes > limit/100*intakePercent {
			why = fmt.Sprintf("%s holds %d of %d bytes", info.Config.Name, info.State.Bytes, limit)
		}
	}
	s.gauge.filled.Store(math.Float64bits(filled))
	s.gauge.sizes.Store(&sizes)
	if s.opts.FreeSpace != nil {
		free, err := s.opts.FreeSpace()
		if err != nil {
			return fmt.Errorf("spool: free space: %w", err)
		}
		if free < s.opts.Limits.MinFree {
			why = fmt.Sprintf("the disk has %d bytes left, %d are wanted", free, s.opts.Limits.MinFree)
		}
	}
	was := s.gauge.full.Load()
	if why == "" {
		s.gauge.full.Store(nil)
		if was != nil {
			s.opts.Logger.Info("spool: intake goes on", "instance", s.opts.Instance)
		}
		return nil
	}
	s.gauge.full.Store(&why)
	if was == nil {
		s.opts.Logger.Error("spool: intake is stopped", "instance", s.opts.Instance, "why", why)
	}
	return nil
}

// Filled is the part of its limit, 0 to 1, that the fullest of the shard's streams had at the last look, about a second
// ago. Intake stops at 0.8.
func (s *Shard) Filled() float64 { return math.Float64frombits(s.gauge.filled.Load()) }

// Size is how much a stream of the shard holds, and may hold, in bytes.
type Size struct {
	Stream      string
	Used, Limit uint64
}

// Sizes are those of the shard's streams at the last look, about a second ago.
func (s *Shard) Sizes() []Size {
	if p := s.gauge.sizes.Load(); p != nil {
		return *p
	}
	return nil
}

// Ready says, at once, whether mail can be accepted: nil, or an error that wraps ErrFull (452 at MAIL), or ErrDown,
// ErrFenced, ErrClosed (451).
func (s *Shard) Ready() error {
	if err := s.Err(); err != nil {
		return err
	}
	if st := s.opts.Conn.Status(); st != nats.CONNECTED {
		return fmt.Errorf("%w: the connection is %s", ErrDown, st)
	}
	if !s.MayGo() {
		return fmt.Errorf("%w: the lease could not be renewed", ErrDown)
	}
	if age := s.logger.waited(); age > s.opts.Times.Stall {
		return fmt.Errorf("%w: an append has waited for %s", ErrDown, age.Round(time.Millisecond))
	}
	if why := s.gauge.full.Load(); why != nil {
		return fmt.Errorf("%w: %s", ErrFull, *why)
	}
	return nil
}

// fullOr makes the refusal of a stream that is full ErrFull.
func fullOr(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == codeStoreFailed || api.ErrorCode == codeStorage || api.ErrorCode == codeResources) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
