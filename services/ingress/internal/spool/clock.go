package spool

import (
	"context"
	"time"
)

// Clock is the time a shard lives by. Intervals are measured with its monotonic readings; a real clock that is
// set back or forward changes no lease.
type Clock interface {
	Now() time.Time
	// Sleep waits for d, or gives ctx's error.
	Sleep(ctx context.Context, d time.Duration) error
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
