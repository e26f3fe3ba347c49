package notices

import (
	"context"
	"fmt"
	"time"
)

// tracked is a stop as this ingress sees it.
type tracked struct {
	Stop
	key     string
	seen    time.Time // last
	told    bool
	stamped time.Time // last, on record
}

func (s *Stop) id() string {
	kind := s.Kind
	if kind == Login {
		kind = Route // it is down either way
	}
	return keyOf("stop", kind, s.Name)
}

// lookAtStops follows what is down, and queues what is down for long.
func (t *Teller) lookAtStops(s Source, now time.Time) {
	for _, stop := range s.Stops() {
		if stop.Since.IsZero() || stop.Since.After(now) {
			stop.Since = now
		}
		key := stop.id()
		tr := t.stops[key]
		if tr == nil {
			tr = &tracked{key: key, Stop: stop}
			t.stops[key] = tr
		}
		if tr.Since.Before(stop.Since) {
			stop.Since = tr.Since
		}
		tr.Stop, tr.seen = stop, now
		if !tr.told && now.Sub(tr.Since) >= t.o.Times.Stopped {
			told := tr.Stop
			title, lines := t.stopText(&told, now)
			t.add(&item{key: key, title: title, lines: lines, stop: &told, after: func() { tr.told = true }})
		}
	}
	for key, tr := range t.stops {
		if tr.seen.Equal(now) {
			continue
		}
		if t.queued[key] { // it was down for long, and nobody has been told yet
			t.past(key, tr, now)
		}
		delete(t.stops, key)
	}
}

// past replaces the notice of a stop by one that it has been.
func (t *Teller) past(key string, tr *tracked, now time.Time) {
	for _, i := range t.queue {
		if i.key == key && !i.ended && !i.end {
			i.title, i.lines = t.overText(i.stop, now)
			i.ended, i.after = true, nil
		}
	}
}

// stampStops notes on record that the stops that were told are there still.
func (t *Teller) stampStops(ctx context.Context, now time.Time) error {
	every := min(stampEvery, t.o.Times.Over/4)
	for key, tr := range t.stops {
		if !tr.told || now.Sub(tr.stamped) < every {
			continue
		}
		if err := t.claims.seen(ctx, key, now); err != nil {
			return err
		}
		tr.stamped = now
	}
	return nil
}

// lookAtEnds queues the end of stops that were told, by whichever ingress, and that none has seen for some time.
func (t *Teller) lookAtEnds(ctx context.Context, now time.Time) error {
	if now.Sub(t.ends) < min(stampEvery, t.o.Times.Over/4) {
		return nil
	}
	all, err := t.claims.stops(ctx)
	if err != nil {
		return err
	}
	t.ends = now
	for key, r := range all {
		gone := now.Sub(r.Seen) >= t.o.Times.Over
		if r.State == claimed { // who told it died over it: told or not, it is over
			gone = gone && now.Sub(r.Until) >= t.o.Times.Over
		}
		if _, here := t.stops[key]; here || !gone {
			continue
		}
		title, lines := t.overText(r.Stop, r.Seen)
		t.add(&item{key: key, title: title, lines: lines, stop: r.Stop, end: true})
	}
	return nil
}

func (t *Teller) stamp(at time.Time) string {
	return at.In(t.o.Location).Format("2006-01-02 15:04:05 -0700")
}

// stopText says what is down, since when, why, and what to do.
func (t *Teller) stopText(s *Stop, now time.Time) (title string, lines []string) {
	title, remedy := s.words()
	lines = []string{fmt.Sprintf("since %s (%s)", t.stamp(s.Since), length(now.Sub(s.Since))), "because: " + line(s.Reason, reasonLimit)}
	if s.Kind != Intake {
		lines = append(lines, fmt.Sprintf("messages that wait for it: %d; none is lost, and none bounces by this", s.Waiting))
	}
	return title, append(lines, remedy)
}

func (s *Stop) words() (title, remedy string) {
	name := line(s.Name, nameLimit)
	switch s.Kind {
	case Login:
		return "the login at the smarthost of route " + name + " is refused", "Correct the user name or the password; it is read anew at the next try, and all goes on by itself."
	case Route:
		return "route " + name + " is down", "See whether its host can be reached, and what it answers; all goes on by itself."
	case Intake:
		return "no mail is accepted (" + name + ")", "Clients hear that they shall try again later. `stagecoach status` says what to do."
	}
	return s.Kind + " " + name + " is down", "Start it, or mend the way to it; all goes on by itself."
}

func (t *Teller) overText(s *Stop, until time.Time) (title string, lines []string) {
	title, _ = s.words()
	return "over: " + title, []string{fmt.Sprintf("from %s to about %s (%s)", t.stamp(s.Since), t.stamp(until), length(until.Sub(s.Since))),
		"because: " + line(s.Reason, reasonLimit), "It is over; what waited goes on by itself."}
}
