package faults

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// outcome is what a client knows of a message that it sent.
type outcome int

const (
	// unsent: the final dot was not given.
	unsent outcome = iota
	// acked: 250.
	acked
	// refused: another answer to the final dot.
	refused
	// unanswered: the connection broke after the final dot (RFC 1047).
	unanswered
)

// sending is one message as its client saw it.
type sending struct {
	token   string // unique, and in the message
	to      []string
	outcome outcome
	id      string // from the 250
	reply   string
	// dot is when the final dot was given, answered when its answer, or the break, was there.
	dot, answered time.Time
}

// arrival is one copy at the sink, for one recipient.
type arrival struct {
	token, id, to string
	// dot is when the last byte had arrived, answered when the answer was given.
	dot, answered time.Time
	// damage says what is wrong with the bytes; empty: nothing.
	damage string
}

// fault is something that the test did.
type fault struct {
	what     string
	from, to time.Time
	// log: the log could not be written meanwhile.
	log bool
	// of: the tokens of the messages that it can concern begin so; empty: all messages.
	of string
}

const (
	// recording bounds the time between the sink's answer and the durable record of it: the fate's way back and one
	// group commit. No clock of ours sees that record, so this is an assumption, and on the safe side.
	recording = time.Second
	// transit bounds the time between the sending of the final dot and its arrival at the sink.
	transit = 100 * time.Millisecond
)

// excuses says whether f was in force between the sending of the final dot of a and the durable record of its
// answer. A log that cannot be written holds the record up.
func (f fault) excuses(a arrival, all []fault) bool {
	recorded := a.answered.Add(recording)
	for _, o := range all {
		if o.log && o.from.Before(recorded) && o.to.Add(recording).After(recorded) {
			recorded = o.to.Add(recording)
		}
	}
	return strings.HasPrefix(a.token, f.of) && f.from.Before(recorded) && f.to.After(a.dot.Add(-transit))
}

// kind of a violation.
type kind string

const (
	lost      kind = "lost"      // a 250, and no copy
	doubled   kind = "doubled"   // more copies than faults explain
	unasked   kind = "unasked"   // a copy of what was never accepted
	damaged   kind = "damaged"   // other bytes than those sent
	misplaced kind = "misplaced" // another id or recipient than the client knows of
)

type violation struct {
	kind kind
	text string
}

func (v violation) String() string { return string(v.kind) + ": " + v.text }

// violations compares what clients saw with what arrived, by message and recipient, once everything has settled.
func violations(sent []sending, got []arrival, faults []fault) []violation {
	var out []violation
	add := func(k kind, format string, args ...any) {
		out = append(out, violation{k, fmt.Sprintf(format, args...)})
	}

	type key struct{ token, id, to string }
	byKey := map[key][]arrival{}
	for _, a := range got {
		k := key{a.token, a.id, a.to}
		byKey[k] = append(byKey[k], a)
		if a.damage != "" {
			add(damaged, "%s to %s: %s", a.token, a.to, a.damage)
		}
	}
	known := map[string]sending{}
	for _, s := range sent {
		known[s.token] = s
		for _, to := range s.to {
			if s.outcome == acked && len(byKey[key{s.token, s.id, to}]) == 0 {
				add(lost, "%s (%s) to %s, accepted at %s", s.token, s.id, to, clock(s.answered))
			}
		}
	}
	ids := map[string]string{} // by token: a message is accepted once
	for k, copies := range byKey {
		s, ok := known[k.token]
		if id, seen := ids[k.token]; seen && id != k.id {
			add(doubled, "%s went out as %s and as %s", k.token, id, k.id)
		}
		ids[k.token] = k.id
		switch {
		case !ok || s.outcome == unsent:
			add(unasked, "%s (%s) to %s: its client had not given the final dot", k.token, k.id, k.to)
		case s.outcome == refused && !hit(faults, s.dot, s.answered):
			// A refusal while a fault is in force may come from who could not know whether the append was stored.
			add(unasked, "%s (%s) to %s: its client heard %q", k.token, k.id, k.to, s.reply)
		case s.outcome == acked && s.id != k.id, !slices.Contains(s.to, k.to):
			add(misplaced, "%s (%s) to %s: sent to %v, accepted as %q", k.token, k.id, k.to, s.to, s.id)
		}
		if n := excused(copies, faults); len(copies) > 1+n {
			add(doubled, "%s (%s) to %s: %d copies at %s, %d faults in their windows", k.token, k.id, k.to, len(copies), times(copies), n)
		}
	}
	return out
}

func hit(faults []fault, from, to time.Time) bool {
	return slices.ContainsFunc(faults, func(f fault) bool { return f.from.Before(to) && f.to.Add(recording).After(from) })
}

// excused counts the faults that may each have caused one more copy: not those in the window of the last copy alone.
func excused(copies []arrival, faults []fault) int {
	slices.SortFunc(copies, func(a, b arrival) int { return a.dot.Compare(b.dot) })
	n := 0
	for _, f := range faults {
		if slices.ContainsFunc(copies[:len(copies)-1], func(a arrival) bool { return f.excuses(a, faults) }) {
			n++
		}
	}
	return n
}

func times(copies []arrival) string {
	var s string
	for _, c := range copies {
		s += clock(c.dot) + "-" + clock(c.answered) + " "
	}
	return s
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }
