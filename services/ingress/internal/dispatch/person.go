package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// heldByPerson is what a group that a person holds is said to concern.
const heldByPerson = "person"

// Order is what a person wants of the groups of a message.
type Order struct {
	// By is the person's name, which goes on record.
	By string
	// Reason for Hold and Delete; may be empty.
	Reason string
	// FromStage, for Retry: what this stage and those after it did is dropped, so that they run again. Empty: go on.
	FromStage string
	// Pick gives the recipients of a group that are meant; of some groups none. Nil: all of all. It must not call the
	// View.
	Pick func(m *depot.Message, w *spool.Wait) []mail.RecipientID
}

func (o *Order) pick(m *depot.Message, w *spool.Wait) []mail.RecipientID {
	if o.Pick == nil {
		return w.Recipients
	}
	return o.Pick(m, w)
}

// Changed says what became of an order.
type Changed struct {
	Recipients int
	// Reason, for people, why there are none.
	Reason string
}

// Reasons why an order changes nothing.
const (
	NotHere     = "it does not wait here: it is under way, has ended, or is not known"
	noMatch     = "nothing of it matches the filter"
	underWay    = "it is under way just now: ask again when it waits"
	notOnRecord = "asked for, but not on record yet, because the log does not answer: look again before you ask again"
)

var (
	errShardLost = errors.New("the shard is lost")
	errClosing   = errors.New("the shard is being closed")
)

// Retry runs the groups of a message in the rooms retry and park now.
func (d *Dispatcher) Retry(ctx context.Context, id string, o Order) (Changed, error) {
	return d.change(ctx, id, o, "retried", []spool.Room{spool.Retry, spool.Park}, func(w *spool.Wait) ([]spool.End, string) {
		if o.FromStage != "" {
			i := slices.IndexFunc(w.Done, func(r chain.Report) bool { return r.Instance == o.FromStage })
			if i < 0 {
				return nil, "it has not passed stage " + o.FromStage
			}
			w.Done = w.Done[:i:i]
		}
		d.move(id, w, spool.Retry)
		return nil, ""
	})
}

// move puts a group into a room now.
func (d *Dispatcher) move(id string, w *spool.Wait, room spool.Room) {
	now := d.o.Now()
	if w.Room != room {
		w.Room, w.Since = room, now
	}
	if w.Next = (time.Time{}); room == spool.Retry {
		w.Next = now
		if at := d.mayRunFrom(id); at.After(now) { // an outcome of the message may still be on its way
			w.Next = at
		}
	}
}

// Hold keeps the groups of a message that wait by themselves until a person releases them.
func (d *Dispatcher) Hold(ctx context.Context, id string, o Order) (Changed, error) {
	return d.change(ctx, id, o, "held", []spool.Room{spool.Retry, spool.Park, spool.Demand}, func(w *spool.Wait) ([]spool.End, string) {
		d.move(id, w, spool.Quarantine)
		w.Last = brief(chain.Fate{Kind: chain.Quarantined, Concern: chain.AboutRecipient, About: heldByPerson, Reason: o.words("held"), ByError: true})
		return nil, ""
	})
}

// Release lets the groups of a message that a person has to see go on: those held by a verdict after that stage,
// whose Quarantine counts as Continue from now on; others at the stage where they are.
func (d *Dispatcher) Release(ctx context.Context, id string, o Order) (Changed, error) {
	return d.change(ctx, id, o, "released", []spool.Room{spool.Quarantine, spool.Dead}, func(w *spool.Wait) ([]spool.End, string) {
		if w.Room == spool.Quarantine && !w.Last.ByError && w.Last.About != "" && !slices.Contains(w.Released, w.Last.About) {
			w.Released = append(slices.Clip(w.Released), w.Last.About)
		}
		w.Last.Reason = o.words("released")
		w.Last = brief(w.Last)
		d.move(id, w, spool.Retry)
		return nil, ""
	})
}

// Delete ends the groups of a message, in the name of a person.
func (d *Dispatcher) Delete(ctx context.Context, id string, o Order) (Changed, error) {
	return d.change(ctx, id, o, "deleted", everyRoom, func(w *spool.Wait) ([]spool.End, string) {
		f := w.Last
		f.Reason = o.words("deleted")
		return []spool.End{{Recipients: w.Recipients, Kind: spool.EndDeleted, Reason: o.By, Fate: brief(f), Chain: w.Chain}}, ""
	})
}

var everyRoom = []spool.Room{spool.Retry, spool.Park, spool.Demand, spool.Quarantine, spool.Dead}

// words say who did it, and why.
func (o *Order) words(did string) string {
	if o.Reason == "" {
		return did + " by " + o.By
	}
	return did + " by " + o.By + ": " + o.Reason
}

// change settles anew what an order means of a message, in the rooms that it is for. What is under way is not touched.
// When ctx ends before that is on record, it will still come.
func (d *Dispatcher) change(ctx context.Context, id string, o Order, did string, rooms []spool.Room, to func(*spool.Wait) ([]spool.End, string)) (Changed, error) {
	view := d.o.Log.Waiting()
	m, ok := view.Get(id)
	if !ok {
		return Changed{Reason: NotHere}, nil
	}
	due := view.Wake(id, func(w *spool.Wait) bool { return slices.Contains(rooms, w.Room) && len(o.pick(m, w)) > 0 })
	rest := func() {
		for _, g := range due {
			view.Rest(id, g.Wait.Recipients...)
		}
	}
	if len(due) == 0 {
		return Changed{Reason: whyNothing(m, &o, rooms)}, nil
	}
	full, err := d.o.Log.Load(ctx, id)
	if errors.Is(err, spool.ErrUnknownMessage) {
		return Changed{Reason: NotHere}, nil
	}
	if err != nil {
		rest()
		return Changed{}, err
	}
	s, changed := d.settlementOf(m, full, due, &o, to)
	if len(s.Ends)+len(s.Waits) == 0 {
		return changed, nil
	}
	told := &reports{}
	if failed := reportedOf(s); len(failed) > 0 {
		var why string
		if told, why, err = d.reportsOf(ctx, full, failed); told == nil {
			rest()
			return Changed{Reason: why}, err
		}
	}
	written := make(chan bool, 1)
	if !d.spawn(func() { written <- d.writeWithReports(s, told) }) {
		told.release()
		rest()
		return Changed{}, errClosing
	}
	select {
	case ok := <-written:
		if !ok {
			rest()
			return Changed{}, errShardLost
		}
	case <-ctx.Done():
		return Changed{Reason: notOnRecord}, nil
	}
	d.note(id, o.By, o.words(did))
	d.o.Logger.LogAttrs(ctx, slog.LevelInfo, did, slog.String("id", id), slog.String("by", o.By), slog.Int("recipients", changed.Recipients), slog.String("reason", o.Reason))
	return changed, nil
}

// settlementOf makes the entry of what was woken for an order. What the order does not mean goes back to sleep.
func (d *Dispatcher) settlementOf(m, full *depot.Message, due []depot.Due, o *Order, to func(*spool.Wait) ([]spool.End, string)) (*spool.Settled, Changed) {
	view, s := d.o.Log.Waiting(), &spool.Settled{ID: m.ID}
	changed := Changed{Reason: underWay}
	for _, g := range due {
		meant := o.pick(m, &g.Wait)
		var left []mail.RecipientID
		g.Wait.Recipients, left = divide(g.Wait.Recipients, meant)
		view.Rest(m.ID, left...)
		if len(g.Wait.Recipients) == 0 {
			continue
		}
		w, ok := withEdits(full.Groups, g.Wait)
		if !ok {
			view.Rest(m.ID, g.Wait.Recipients...)
			continue
		}
		ends, why := to(&w)
		if why != "" {
			view.Rest(m.ID, g.Wait.Recipients...)
			changed.Reason = why
			continue
		}
		if s.Ends = append(s.Ends, ends...); len(ends) == 0 {
			s.Waits = append(s.Waits, w)
		}
		changed.Recipients += len(g.Wait.Recipients)
	}
	if changed.Recipients > 0 {
		changed.Reason = ""
	}
	return s, changed
}

// divide parts those that are meant from the others.
func divide(ids, meant []mail.RecipientID) (in, out []mail.RecipientID) {
	is := make(map[mail.RecipientID]bool, len(meant))
	for _, id := range meant {
		is[id] = true
	}
	for _, id := range ids {
		if is[id] {
			in = append(in, id)
		} else {
			out = append(out, id)
		}
	}
	return in, out
}

// whyNothing says why nothing of a message could be woken for an order.
func whyNothing(m *depot.Message, o *Order, rooms []spool.Room) string {
	var elsewhere []string
	for i := range m.Groups {
		w := &m.Groups[i]
		if len(o.pick(m, w)) == 0 {
			continue
		}
		if slices.Contains(rooms, w.Room) {
			return underWay
		}
		if !slices.Contains(elsewhere, string(w.Room)) {
			elsewhere = append(elsewhere, string(w.Room))
		}
	}
	if len(elsewhere) == 0 {
		return noMatch
	}
	var names []string
	for _, r := range rooms {
		names = append(names, string(r))
	}
	return fmt.Sprintf("it waits in %s; this works on %s", strings.Join(elsewhere, ", "), strings.Join(names, ", "))
}

// withEdits is a group that was woken, with the edits of its hops done as they are stored; false: it does not wait any
// more.
func withEdits(stored []spool.Wait, woken spool.Wait) (spool.Wait, bool) {
	for _, w := range stored {
		if slices.Contains(w.Recipients, woken.Recipients[0]) {
			w.Recipients = woken.Recipients
			return w, !w.Trimmed()
		}
	}
	return woken, false
}
