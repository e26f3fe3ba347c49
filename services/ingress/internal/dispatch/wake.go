package dispatch

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

const (
	// idle is how long the dispatcher sleeps when nothing is due.
	idle = time.Minute
	// leaseLook is how often it looks whether a lease that was not certain is so again.
	leaseLook = 250 * time.Millisecond
	// reload is the wait before a message that could not be loaded is tried again.
	reload = 5 * time.Second
	// page is how many messages are looked at together.
	page = 500
)

// Run wakes what waits until ctx ends or the shard is lost. What parked before finds its gates again, shut, and is
// not probed before Options.NotBefore.
func (d *Dispatcher) Run(ctx context.Context) {
	d.regate()
	d.goOn()
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

// mayStart says whether anything may be woken now, and else when to look again.
func (d *Dispatcher) mayStart() (sleep time.Duration, ok bool) {
	d.mu.Lock()
	stopped := d.paused || d.closing
	d.mu.Unlock()
	early := d.o.NotBefore.Sub(d.o.Now())
	switch {
	case stopped:
		return idle, false // Resume pokes
	case early > 0:
		return early, false
	case !d.o.Log.MayGo():
		return leaseLook, false
	}
	return 0, true
}

// wake starts what is due and tells how long to sleep.
func (d *Dispatcher) wake(ctx context.Context) time.Duration {
	open, more := d.settledDown()
	if sleep, ok := d.mayStart(); !ok {
		return sleep
	}
	d.startFlow()
	for {
		select {
		case d.slots <- struct{}{}:
		default:
			return idle // the end of a run pokes
		}
		due := d.o.Log.Waiting().Due(d.o.Now(), 1)
		if len(due) == 0 {
			<-d.slots
			break
		}
		d.wakeGroup(ctx, due[0], nil)
	}
	for _, k := range d.gates.due() {
		d.probe(ctx, k)
	}
	sleep := idle
	if more {
		sleep = min(sleep, open.Sub(d.o.Now()))
	}
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
	started := d.spawn(func() {
		j, err := d.load(ctx, g)
		if err != nil {
			defer release()
			if probe != nil {
				d.probed(*probe, g.ID, unclear)
			}
			d.giveBack(ctx, g, err)
			return
		}
		j.probe, j.ended = probe, release
		d.launch(j)
	})
	if !started {
		release()
	}
}

// load makes a job of a woken group: the message with its original bytes and, of the group, the edits too.
func (d *Dispatcher) load(ctx context.Context, g depot.Due) (*job, error) {
	full, err := d.o.Log.Load(ctx, g.ID)
	if err != nil {
		return nil, err
	}
	w, ok := withEdits(full.Groups, g.Wait)
	if !ok {
		return nil, errNotThere
	}
	content, err := d.o.Log.Content(ctx, g.ID, full.Body)
	if err != nil {
		return nil, err
	}
	return &job{message: mail.Message{ID: full.ID, Received: full.Received, Envelope: full.Envelope, Content: content}, group: w}, nil
}

var errNotThere = errors.New("the group does not wait any more")

// giveBack puts a group that could not be loaded back to sleep, after a while. One whose bytes are damaged is held.
func (d *Dispatcher) giveBack(ctx context.Context, g depot.Due, cause error) {
	d.o.Logger.Error("a waiting message could not be loaded", "id", g.ID, "error", cause)
	if errors.Is(cause, spool.ErrCorrupt) {
		if full, err := d.o.Log.Load(ctx, g.ID); err == nil {
			if w, ok := withEdits(full.Groups, g.Wait); ok {
				d.damaged(g.ID, w, cause)
				return
			}
		}
	}
	time.AfterFunc(reload, func() {
		d.o.Log.Waiting().Rest(g.ID, g.Wait.Recipients...)
		d.goOn()
	})
}

// damaged holds recipients whose message cannot be read back: a person has to see it.
func (d *Dispatcher) damaged(id string, g spool.Wait, cause error) {
	w := waiting(g, g.Done)
	w.Room, w.Since = spool.Dead, d.o.Now()
	w.Last = brief(chain.Fate{Kind: chain.Refused, Concern: chain.AboutRecipient, Reason: cause.Error()})
	d.write(&spool.Settled{ID: id, Waits: []spool.Wait{w}})
}

// parkedAt says that a group waits for k.
func parkedAt(k key) func(*spool.Wait) bool {
	return func(w *spool.Wait) bool {
		return w.Room == spool.Park && w.Last.Concern == k.concern && w.Last.About == k.about
	}
}

// probe sends one message through the gate k.
func (d *Dispatcher) probe(ctx context.Context, k key) {
	view, parked := d.o.Log.Waiting(), parkedAt(k)
	d.gates.forget(k, func(id string) bool {
		m, ok := view.Get(id)
		return ok && slices.ContainsFunc(m.Groups, func(w spool.Wait) bool { return parked(&w) })
	})
	select {
	case d.slots <- struct{}{}:
	default:
		d.postpone(k, 100*time.Millisecond)
		return
	}
	try := func(id string) bool {
		if d.mayRunFrom(id).After(d.o.Now()) {
			return false
		}
		due := view.Wake(id, parked)
		if len(due) == 0 {
			return false
		}
		for _, more := range due[1:] {
			view.Rest(more.ID, more.Wait.Recipients...)
		}
		d.gates.probeWith(k, id)
		d.wakeGroup(ctx, due[0], &k)
		return true
	}
	suspects, last, after, others := d.gates.candidates(k)
	if slices.ContainsFunc(suspects, try) {
		return
	}
	found := false
	filter := depot.Filter{Rooms: []depot.Room{spool.Park}, Concern: k.concern, About: k.about, Limit: page}
	for _, part := range []struct{ after, upTo string }{{after, ""}, {"", after}} { // from the cursor to the end, then from the start
		filter.After = part.after
		for next := "-"; next != "" && others; filter.After = next {
			var list []*depot.Message
			list, next = view.List(filter)
			for _, m := range list {
				if part.upTo != "" && m.ID > part.upTo {
					next = ""
					break
				}
				found = true // it is there, but may not run yet, or is about to be settled
				if !d.gates.suspected(k, m.ID) && try(m.ID) {
					return
				}
			}
		}
		if after == "" {
			break
		}
	}
	if slices.ContainsFunc(last, try) {
		return
	}
	<-d.slots
	if found || !others || d.gates.suspects(k) {
		d.postpone(k, time.Second)
		return
	}
	d.gates.gone(k)
	d.goOn() // who was parked here since the look above
}

func (d *Dispatcher) postpone(k key, wait time.Duration) {
	if d.gates.postpone(k, wait) {
		d.goOn()
		return
	}
	d.poke()
}

// probeOver notes, once, what the probe that j is has shown.
func (d *Dispatcher) probeOver(j *job, o outcome) {
	if j.probe != nil && j.over.CompareAndSwap(false, true) {
		d.probed(*j.probe, j.message.ID, o)
	}
}

// probed notes how a probe ended. When what was down is well, everything that waits for it goes on.
func (d *Dispatcher) probed(k key, id string, o outcome) {
	if d.gates.probeEnded(k, id, o) {
		d.o.Logger.Info("up again: its mail goes on", "what", string(k.concern), "name", k.about)
		d.goOn()
		return
	}
	d.poke()
}

// regate shuts the gates before which messages are parked: the first probe shows whether they still have to be.
func (d *Dispatcher) regate() {
	f := depot.Filter{Rooms: []depot.Room{spool.Park}, Limit: page}
	for {
		list, next := d.o.Log.Waiting().List(f)
		for _, m := range list {
			for _, w := range m.Groups {
				if w.Room != spool.Park || w.Last.Concern == chain.AboutRecipient || byPause(&w) {
					continue
				}
				k := key{w.Last.Concern, w.Last.About}
				if w.Last.Kind == chain.Unknown {
					d.gates.suspect(k, m.ID, d.o.NotBefore)
					d.gates.parked(k, m.ID)
				}
				d.gates.found(k, w.Since, w.Last)
			}
		}
		if next == "" {
			return
		}
		f.After = next
	}
}
