package notices

import (
	"context"
	"fmt"
	"strings"
	"time"
)

const (
	// morningHour is when the list of what is held is made.
	morningHour = 6
	// mostHeld is how many messages it names.
	mostHeld = 200
)

// lastMorning is the day of the last one, as it is stored.
type lastMorning struct {
	Day string `json:"day"`
}

// lookAtMorning queues the list of what is held in the shards of this ingress, once a day: at six, or when the ingress is
// back. Before the first morning there is none.
func (t *Teller) lookAtMorning(ctx context.Context, s Source, now time.Time) error {
	due := now.In(t.o.Location)
	if due.Hour() < morningHour {
		due = due.AddDate(0, 0, -1)
	}
	today := due.Format(time.DateOnly)
	if t.morning == today {
		return nil
	}
	key := keyOf("morning", t.o.Instance)
	var last lastMorning
	known, err := t.claims.load(ctx, key, &last)
	if err != nil {
		return err
	}
	var list []Held
	all := 0
	if known && last.Day < today {
		list, all = s.Held(ctx, mostHeld)
	}
	if all == 0 {
		if last.Day != today {
			if err := t.claims.store(ctx, key, lastMorning{today}); err != nil {
				return err
			}
		}
		t.morning = today
		return nil
	}
	title := fmt.Sprintf("%d messages are held for a person", all)
	if all == 1 {
		title = "1 message is held for a person"
	}
	t.morning = today
	t.add(&item{key: keyOf("held", t.o.Instance, today), title: title, lines: t.heldLines(list, all), alone: true, after: func() {
		// After an error the list comes again after a restart, and its claim says that it was told.
		t.failed(t.claims.store(ctx, key, lastMorning{today}))
	}})
	return nil
}

func (t *Teller) heldLines(list []Held, all int) []string {
	lines := []string{"Look at one with `stagecoach queue show ID`, let it go on with `stagecoach queue release ID`, or `stagecoach queue delete ID`.",
		"`stagecoach quarantine list --dead` lists them all.", ""}
	for _, h := range list {
		to := "nobody"
		if n := len(h.Recipients); n > 0 {
			if to = line(h.Recipients[0], nameLimit); n > 1 {
				to += fmt.Sprintf(" and %d more", n-1)
			}
		}
		subject := "without a subject"
		if s := line(h.Subject, nameLimit); s != "" {
			subject = `"` + strings.ReplaceAll(s, `"`, `'`) + `"`
		}
		lines = append(lines, fmt.Sprintf("%s  %s  since %s  from <%s> to %s  %s  %s", h.ID, h.Room, h.Since.In(t.o.Location).Format("2006-01-02 15:04"),
			line(h.Sender, nameLimit), to, subject, line(h.Why, nameLimit)))
	}
	if more := all - len(list); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return lines
}

// loops are mail loops of one sender by one client, since the last look.
type loops struct {
	Loop
	count int
}

// mostLoops bounds the pairs of sender and client that are told of in a day: anybody can make a message that looks as if
// it went in a circle.
const mostLoops = 50

// Loop takes note of a mail loop; it does not block.
func (t *Teller) Loop(l Loop) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := [2]string{l.From, l.Client}
	if t.loops[key] == nil {
		if len(t.loops) >= mostLoops {
			return
		}
		t.loops[key] = &loops{Loop: l}
	}
	t.loops[key].count++
}

// lookAtLoops queues the loops, each pair of sender and client once a day.
func (t *Teller) lookAtLoops(now time.Time) {
	t.mu.Lock()
	seen := t.loops
	t.loops = map[[2]string]*loops{}
	t.mu.Unlock()
	today := now.In(t.o.Location).Format(time.DateOnly)
	if t.loopDay != today {
		t.loopDay, t.loopsNow = today, 0
	}
	for _, l := range seen {
		key := keyOf("loop", l.From, l.Client, today)
		if _, ok := t.known[key]; ok || t.queued[key] || t.loopsNow >= mostLoops {
			continue
		}
		t.loopsNow++
		to := "nobody"
		if len(l.To) > 0 {
			to = line(l.To[0], nameLimit)
		}
		t.add(&item{key: key, title: fmt.Sprintf("mail from <%s> goes in a circle", line(l.From, nameLimit)),
			lines: []string{fmt.Sprintf("refused: %d just now, from client %s at listener %s, for %s, with %d Received fields", l.count, line(l.Client, nameLimit), line(l.Listener, nameLimit), to, l.Received),
				"Two servers hand it to each other: see where each of them sends mail for that recipient. This is told once a day."}})
	}
}
