package dispatch

import (
	"errors"
	"time"

	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// Recover runs what a former owner left under way, not before Options.NotBefore: leave for a final dot may have been
// given just before the takeover.
func (d *Dispatcher) Recover(left []*spool.Accepted) {
	d.spawn(func() {
		if !d.pause(d.o.NotBefore.Sub(d.o.Now())) {
			return
		}
		for _, a := range left {
			for !d.o.Log.MayGo() {
				if !d.pause(leaseLook) {
					return
				}
			}
			if !d.recover(a) {
				return
			}
		}
	})
}

// pause waits; false: the dispatcher or its shard is at its end.
func (d *Dispatcher) pause(wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-d.stopping:
	case <-d.o.Log.Done():
	}
	return false
}

func (d *Dispatcher) recover(a *spool.Accepted) (more bool) {
	if !d.slot() {
		return false
	}
	release := func() { <-d.slots; d.poke() }
	content, err := d.o.Log.Content(d.ctx, a.ID, a.Body)
	switch {
	case err == nil:
		defer content.Release()
		d.start(a, content, nil, release)
	case errors.Is(err, spool.ErrCorrupt):
		release()
		for _, s := range a.Starts {
			d.damaged(a.ID, spool.Wait{Recipients: s.Recipients, Chain: s.Chain, Done: s.Done, Since: d.o.Now()}, err)
		}
	default:
		release()
		d.o.Logger.Error("a message that was under way could not be loaded; it is tried again", "id", a.ID, "error", err)
		d.spawn(func() {
			if d.pause(time.Minute) {
				d.recover(a)
			}
		})
	}
	return true
}
