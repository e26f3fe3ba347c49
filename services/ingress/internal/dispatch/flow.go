package dispatch

import (
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// startFlow runs what is parked before gates that are open, if there may be any.
func (d *Dispatcher) startFlow() {
	d.mu.Lock()
	if !d.flow || d.flowing || d.closing {
		d.mu.Unlock()
		return
	}
	changed := d.changed
	d.flow, d.flowing, d.changed = false, true, false
	d.runs.Go(func() {
		whole := d.flowOn(changed)
		d.mu.Lock()
		d.flowing = false
		d.flow = d.flow || !whole
		d.changed = d.changed || changed && !whole
		d.mu.Unlock()
		d.poke()
	})
	d.mu.Unlock()
}

// flowOn looks at everything that is parked once, after a change of the configuration also at what a stage failed on,
// and says whether it came to the end.
func (d *Dispatcher) flowOn(changed bool) (whole bool) {
	view := d.o.Log.Waiting()
	f := depot.Filter{Rooms: []depot.Room{spool.Park}, Limit: page}
	if changed {
		f.Rooms = nil
	}
	for {
		list, next := view.List(f)
		for _, m := range list {
			pick := func(w *spool.Wait) bool {
				return w.Room == spool.Park && d.mayPass(m.ID, w) || changed && d.stageFailed(m.ID, w)
			}
			if !slices.ContainsFunc(m.Groups, func(w spool.Wait) bool { return pick(&w) }) {
				continue
			}
			if !d.slot() {
				return false
			}
			if _, ok := d.mayStart(); !ok {
				<-d.slots
				return false
			}
			due := view.Wake(m.ID, pick)
			if len(due) == 0 {
				<-d.slots
			}
			for i, g := range due {
				if i > 0 && !d.slot() {
					return false
				}
				d.wakeGroup(d.ctx, g, nil)
			}
		}
		if next == "" {
			return true
		}
		f.After = next
	}
}

// stageFailed says that a group waits for its next try at a stage.
func (d *Dispatcher) stageFailed(id string, w *spool.Wait) bool {
	return w.Room == spool.Retry && !w.Open && w.Last.Kind == chain.Deferred && w.Last.Concern == chain.AboutHop && !d.mayRunFrom(id).After(d.o.Now())
}

// slot waits for a free slot; false: there will be none.
func (d *Dispatcher) slot() bool {
	select {
	case d.slots <- struct{}{}:
		return true
	case <-d.stopping:
	case <-d.o.Log.Done():
	}
	return false
}

// mayPass says that a parked group need not wait: nothing keeps it, or its chain does not lead there any more. While its
// route is paused it waits for that alone; one that waits for something else is to be put there, so that it does not
// stand in the way of those that probe a hop.
func (d *Dispatcher) mayPass(id string, w *spool.Wait) bool {
	if w.Last.Concern == chain.AboutRecipient { // held until resume
		return true
	}
	if d.mayRunFrom(id).After(d.o.Now()) {
		return false
	}
	k := key{w.Last.Concern, w.Last.About}
	c := d.o.Policy.View().Config().ChainNamed(w.Chain)
	if c != nil && d.routePaused(c.Deliver) {
		return k != key{chain.AboutRoute, c.Deliver}
	}
	return c == nil || !needs(c, k) || !d.gates.holds(k, id)
}
