package ingress

import (
	"context"
	"errors"
	"time"

	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// emptyLook is how often an adopted shard is looked at whether it has run down.
const emptyLook = time.Second

// adopt takes over the shards of instances that are gone, until ctx ends.
func (in *Ingress) adopt(ctx context.Context) {
	a := &spool.Adopter{Options: in.options(in.o.Instance), Run: in.runDown}
	for ctx.Err() == nil {
		if err := a.Watch(ctx); err != nil && ctx.Err() == nil {
			in.o.Logger.Error("looking for shards to adopt", "error", err)
			pause(ctx, reopen)
		}
	}
}

// runDown works on an adopted shard until it is empty, its instance wants it back, or ctx ends.
func (in *Ingress) runDown(ctx context.Context, log *spool.Shard, found *spool.Recovered) {
	s := in.work(log, found)
	in.mu.Lock()
	in.adopted[s] = struct{}{}
	in.mu.Unlock()
	in.applyPause(s)
	defer func() {
		in.mu.Lock()
		delete(in.adopted, s)
		in.mu.Unlock()
	}()
	tick := time.NewTicker(emptyLook)
	defer tick.Stop()
	for {
		select {
		case <-log.Done():
			s.abandon()
			return
		case <-ctx.Done():
			in.finish(s)
			return
		case <-log.Wanted():
			in.o.Logger.Info("an adopted shard is given back", "instance", log.Instance())
			in.finish(s)
			return
		case <-tick.C:
			if !log.Empty() {
				continue
			}
			if err := log.Remove(ctx); err != nil && !errors.Is(err, context.Canceled) {
				in.o.Logger.Warn("an adopted shard that is empty could not be removed yet", "instance", log.Instance(), "error", err)
				continue
			}
			s.abandon()
			in.o.Logger.Info("an adopted shard has run down and is removed", "instance", log.Instance())
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
