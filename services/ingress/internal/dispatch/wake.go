package dispatch

import (
	"context"
	"slices"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// idle is how long the dispatcher sleeps when nothing is due.
const idle = time.Minute

// Run wakes what waits until ctx ends or the shard is lost. What parked before finds its gates again, shut, and is
// not probed before the time given.
func (d *Dispatcher) Run(ctx context.Context, notBefore time.Time) {
	d.regate(notBefore)
	d.mu.Lock()
	paused := d.paused
	d.mu.Unlock()
	if !paused {
		d.letGo()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.o.Log.Done():
			return
		case <-d.kick:
		case <-timer.C:
		}
		timer.Reset(d.wake(ctx))
	}
}

// wake starts what is due and tells how long to sleep.
func (d *Dispatcher) wake(ctx context.Context) time.Duration {
	d.mu.Lock()
	stopped := d.paused || d.closing
	d.mu.Unlock()
	if stopped {
		return idle
	}
	for d.o.Log.MayGo() {
		free := cap(d.slots) - len(d.slots)
		if free == 0 {
			return idle // the end of a run pokes
		}
		due := d.o.Log.Waiting().Due(d.o.Now(), free)
		for _, g := range due {
			d.slots <- struct{}{}
			d.wakeGroup(ctx, g, nil)
		}
		if len(due) < free {
			break
		}
	}
	for _, k := range d.gates.due() {
		d.probe(ctx, k)
	}
	sleep := idle
	if at, ok := d.o.Log.Waiting().Next(); ok {
		sleep = min(sleep, at.Sub(d.o.Now()))
	}
	if at, ok := d.gates.nextDue(); ok {
		sleep = min(sleep, at.Sub(d.o.Now()))
	}
	return max(sleep, 20*time.Millisecond)
}

// wakeGroup runs a woken group in a slot that was taken for it.
func (d *Dispatcher) wakeGroup(ctx context.Context, g depot.Due, probe *key) {
	release := func() { <-d.slots; d.poke() }
	giveBack := func(err error) {
		d.o.Logger.Error("a waiting message could not be loaded", "id", g.ID, "error", err)
		time.AfterFunc(time.Second, func() { d.o.Log.Waiting().Rest(g.ID, g.Wait.Recipients...); d.poke() })
		if probe != nil {
			d.probed(*probe, g.ID, false)
		}
		release()
	}
	started := d.spawn(func() {
		full, content, err := d.load(ctx, g.ID)
		if err != nil {
			giveBack(err)
			return
		}
		// The stored value has the edits; it may have gone on meanwhile, but not for recipients that are woken.
		g.Wait = withEdits(full.Groups, g.Wait)
		d.mu.Lock()
		delete(d.notBefore, g.ID)
		d.mu.Unlock()
		m := mail.Message{ID: full.ID, Received: full.Received, Envelope: full.Envelope, Content: content}
		d.launch(&job{message: m, group: g.Wait, probe: probe, ended: release})
	})
	if !started {
		release()
	}
}

// load brings back a message that waits, with its original bytes.
func (d *Dispatcher) load(ctx context.Context, id string) (*depot.Message, mail.Content, error) {
	full, err := d.o.Log.Load(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	content, err := d.o.Log.Content(ctx, id, full.Body)
	return full, content, err
}

// probe sends one message through the gate k.
func (d *Dispatcher) probe(ctx context.Context, k key) {
	select {
	case d.slots <- struct{}{}:
	default:
		d.gates.postpone(k, 100*time.Millisecond)
		return
	}
	view := d.o.Log.Waiting()
	parked := func(w *spool.Wait) bool {
		return w.Room == spool.Park && w.Last.Concern == k.concern && w.Last.About == k.about
	}
	try := func(id string) bool {
		d.mu.Lock()
		early := d.notBefore[id].After(d.o.Now())
		d.mu.Unlock()
		if early {
			return false
		}
		due := view.Wake(id, parked)
		if len(due) == 0 {
			return false
		}
		d.gates.probeWith(k, id)
		d.wakeGroup(ctx, due[0], &k)
		for _, more := range due[1:] {
			view.Rest(more.ID, more.Wait.Recipients...)
		}
		return true
	}
	suspects, after := d.gates.candidate(k)
	for _, id := range suspects {
		if m, ok := view.Get(id); !ok || !slices.ContainsFunc(m.Groups, func(w spool.Wait) bool { return parked(&w) }) {
			d.gates.unsuspect(k, id)
			continue
		}
		if try(id) {
			return
		}
	}
	filter := depot.Filter{Room: spool.Park, Concern: k.concern, About: k.about, After: after, Limit: 1}
	early := len(suspects) > 0
	for range 2 { // from the cursor to the end, then from the start
		for {
			list, _ := view.List(filter)
			if len(list) == 0 {
				break
			}
			if try(list[0].ID) {
				return
			}
			early = true // it is there, but may not run yet or is about to be settled
			filter.After = list[0].ID
		}
		if filter.After = ""; after == "" {
			break
		}
		after = ""
	}
	<-d.slots
	if early {
		d.gates.postpone(k, time.Second)
		return
	}
	d.gates.nothingWaits(k)
}

// probed notes how a probe ended. When what was down is well, everything that waits for it goes on.
func (d *Dispatcher) probed(k key, id string, well bool) {
	if d.gates.probeEnded(k, id, well) {
		d.o.Logger.Info("up again: its mail goes on", "what", string(k.concern), "name", k.about)
		d.wakeNow(depot.Filter{Room: spool.Park, Concern: k.concern, About: k.about}, func(w *spool.Wait) bool {
			return w.Room == spool.Park && w.Last.Concern == k.concern && w.Last.About == k.about
		})
	}
	d.poke()
}

// wakeNow runs everything that waits and is chosen, as slots get free; it ends early when that is down again.
func (d *Dispatcher) wakeNow(f depot.Filter, pick func(*spool.Wait) bool) {
	d.spawn(func() {
		for {
			list, next := d.o.Log.Waiting().List(f)
			for _, m := range list {
				if d.gates.isDown(key{f.Concern, f.About}) {
					return
				}
				for _, g := range d.o.Log.Waiting().Wake(m.ID, pick) {
					select {
					case d.slots <- struct{}{}:
						d.wakeGroup(d.ctx, g, nil)
					case <-d.ctx.Done():
						return
					case <-d.o.Log.Done():
						return
					}
				}
			}
			if next == "" {
				return
			}
			f.After = next
		}
	})
}

// regate shuts the gates before which messages are parked: the first probe shows whether they still have to be.
func (d *Dispatcher) regate(notBefore time.Time) {
	f := depot.Filter{Room: spool.Park, Limit: 1000}
	for {
		list, next := d.o.Log.Waiting().List(f)
		for _, m := range list {
			for _, w := range m.Groups {
				if w.Room != spool.Park || w.Last.Concern == chain.AboutRecipient {
					continue
				}
				k := key{w.Last.Concern, w.Last.About}
				if w.Last.Kind == chain.Unknown {
					d.gates.suspect(k, m.ID)
				} else {
					d.gates.shut(k)
				}
				d.gates.notBefore(k, notBefore)
			}
		}
		if next == "" {
			return
		}
		f.After = next
	}
}

// Recover runs what a former owner left under way, not before the time at which its outcome may be tried again:
// leave for a final dot may have been given just before the takeover.
func (d *Dispatcher) Recover(left []*spool.Accepted, notBefore time.Time) {
	d.spawn(func() {
		t := time.NewTimer(notBefore.Sub(d.o.Now()))
		defer t.Stop()
		select {
		case <-t.C:
		case <-d.ctx.Done():
			return
		case <-d.o.Log.Done():
			return
		}
		for _, a := range left {
			if !d.recover(a) {
				return
			}
		}
	})
}

func (d *Dispatcher) recover(a *spool.Accepted) bool {
	select {
	case d.slots <- struct{}{}:
	case <-d.ctx.Done():
		return false
	case <-d.o.Log.Done():
		return false
	}
	release := func() { <-d.slots; d.poke() }
	content, err := d.o.Log.Content(d.ctx, a.ID, a.Body)
	if err != nil {
		release()
		d.o.Logger.Error("a message that was under way could not be loaded; it is tried again", "id", a.ID, "error", err)
		time.AfterFunc(time.Minute, func() { d.spawn(func() { d.recover(a) }) })
		return true
	}
	defer content.Release()
	d.start(a, content, nil, release)
	return true
}
