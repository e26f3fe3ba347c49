package dispatch

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// heldByPerson is what a group that a person holds is said to concern.
const heldByPerson = "person"

// Retry runs the groups of a message in the rooms retry and park now. It tells how many there were.
func (d *Dispatcher) Retry(ctx context.Context, id string) (int, error) {
	return d.change(ctx, id, func(w *spool.Wait) bool { return w.Room == spool.Retry || w.Room == spool.Park }, func(w spool.Wait) (*spool.Wait, *spool.End) {
		w.Room, w.Next = spool.Retry, d.soonest(id)
		return &w, nil
	})
}

// soonest is now, unless an outcome of the message may still be on its way.
func (d *Dispatcher) soonest(id string) time.Time {
	if at := d.mayRunFrom(id); at.After(d.o.Now()) {
		return at
	}
	return d.o.Now()
}

// Hold keeps the groups of a message that wait by themselves until a person releases them.
func (d *Dispatcher) Hold(ctx context.Context, id, by string) (int, error) {
	return d.change(ctx, id, func(w *spool.Wait) bool {
		return w.Room == spool.Retry || w.Room == spool.Park || w.Room == spool.Demand
	}, func(w spool.Wait) (*spool.Wait, *spool.End) {
		w.Room, w.Next = spool.Quarantine, time.Time{}
		w.Last = chain.Fate{Kind: chain.Quarantined, Concern: chain.AboutRecipient, About: heldByPerson, Reason: "held by " + by, ByError: true}
		return &w, nil
	})
}

// Release lets the groups of a message that a person has to see go on: those held by a verdict after that stage,
// whose Quarantine counts as Continue from now on; others at the stage where they are.
func (d *Dispatcher) Release(ctx context.Context, id, by string) (int, error) {
	d.o.Logger.Info("released", "id", id, "by", by)
	return d.change(ctx, id, func(w *spool.Wait) bool { return w.Room == spool.Quarantine || w.Room == spool.Dead }, func(w spool.Wait) (*spool.Wait, *spool.End) {
		if w.Room == spool.Quarantine && !w.Last.ByError && w.Last.About != "" && !slices.Contains(w.Released, w.Last.About) {
			w.Released = append(slices.Clip(w.Released), w.Last.About)
		}
		w.Last.Reason = "released by " + by
		w.Room, w.Next = spool.Retry, d.soonest(id)
		return &w, nil
	})
}

// Delete ends the groups of a message, in the name of a person.
func (d *Dispatcher) Delete(ctx context.Context, id, by string) (int, error) {
	d.o.Logger.Info("deleted", "id", id, "by", by)
	return d.change(ctx, id, func(*spool.Wait) bool { return true }, func(w spool.Wait) (*spool.Wait, *spool.End) {
		return nil, &spool.End{Recipients: w.Recipients, Kind: spool.EndDeleted, Reason: by, Fate: w.Last}
	})
}

// change settles the chosen groups of a message anew. Groups that are under way are not touched.
func (d *Dispatcher) change(ctx context.Context, id string, pick func(*spool.Wait) bool, to func(spool.Wait) (*spool.Wait, *spool.End)) (int, error) {
	view := d.o.Log.Waiting()
	due := view.Wake(id, pick)
	if len(due) == 0 {
		return 0, nil
	}
	rest := func() {
		for _, g := range due {
			view.Rest(id, g.Wait.Recipients...)
		}
	}
	full, err := d.o.Log.Load(ctx, id)
	if err != nil {
		rest()
		return 0, err
	}
	s := &spool.Settled{ID: id}
	for _, g := range due {
		w, ok := withEdits(full.Groups, g.Wait)
		if !ok {
			continue
		}
		if wait, end := to(w); wait != nil {
			s.Waits = append(s.Waits, *wait)
		} else {
			s.Ends = append(s.Ends, *end)
		}
	}
	if len(s.Ends)+len(s.Waits) == 0 {
		rest()
		return 0, nil
	}
	if !d.write(s) {
		rest()
		return 0, errors.New("the shard is lost")
	}
	return len(due), nil
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
