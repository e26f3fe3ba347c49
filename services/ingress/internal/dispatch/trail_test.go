package dispatch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// tale is what the trail was told of a message, in short.
func (l *memory) tale(id string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, e := range l.told {
		if e.ID != id {
			continue
		}
		var s []string
		for _, h := range e.Hops {
			one := fmt.Sprintf("%s %s %s for %d", h.Instance, h.Outcome, h.Verdict, len(h.Recipients))
			if len(h.Diff.Hunks) > 0 {
				one += fmt.Sprintf(" +%q", h.Diff.Hunks[0].Inserted)
			}
			if h.Shadow {
				one += " in shadow"
			}
			if h.At.IsZero() {
				one += " at no time"
			}
			s = append(s, one)
		}
		if len(e.Kept) > 0 {
			s = append(s, "after "+strings.Join(e.Kept, " "))
		}
		for _, end := range e.Ends {
			s = append(s, fmt.Sprintf("%s %d", end.Kind, len(end.Recipients)))
		}
		for _, w := range e.Waits {
			s = append(s, fmt.Sprintf("%s %d", w.Room, len(w.Recipients)))
		}
		if e.Actor != "" {
			s = append(s, fmt.Sprintf("%s: %s", e.Actor, e.Text))
		}
		out = append(out, strings.Join(s, "; "))
	}
	return out
}

func (h *house) expectTale(id string, want ...string) {
	h.t.Helper()
	if got := h.log.tale(id); strings.Join(got, "\n") != strings.Join(want, "\n") {
		h.t.Errorf("the trail of %s:\n%s\nwant\n%s", id, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// prepends puts a field above the message.
func prepends(name string) stage.Func {
	return func(context.Context, *mail.Message) (stage.Result, error) {
		s, err := mail.PrependField(name, "x")
		return stage.Result{Branch: stage.Branch{Edits: mail.Edits{Splices: []mail.Splice{s}}}}, err
	}
}

func TestTheTrailIsToldBeforeWhatFollows(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("a", "defer"), use("b", "defer")))
		h.set("a", prepends("X-A"))
		h.send("m", 2)
		h.pass(time.Second)
		h.expectTale("m", `a verdict continue for 2 +"X-A: x\r\n"; b verdict continue for 2`, "delivered 2")
		h.finish()
	})
}

func TestTheTrailSaysWhatWasNotRunAgain(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("a", "defer"), use("b", "defer")))
		h.set("a", prepends("X-A"))
		h.set("b", failing(errors.New("out of order")))
		h.send("m", 1)
		h.pass(time.Second)
		h.set("b", prepends("X-B"))
		h.pass(time.Minute)
		h.expectTale("m", `a verdict continue for 1 +"X-A: x\r\n"; b failed continue for 1`, "retry 1", `b verdict continue for 1 +"X-B: x\r\n"; after a`, "delivered 1")
		h.finish()
	})
}

// A run that takes long is told of while it goes on.
func TestTheTrailIsToldOfALongRun(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("a", "defer")))
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			time.Sleep(time.Minute)
			deliver(ctx, p, s)
		})
		h.send("m", 1)
		h.pass(30 * time.Second)
		h.expectTale("m", "a verdict continue for 1", "retry 1")
		if w := h.log.wait("m", "1"); !w.Open {
			t.Errorf("%+v", w)
		}
		h.pass(time.Minute)
		h.expectTale("m", "a verdict continue for 1", "retry 1", "delivered 1")
		h.finish()
	})
}

func TestTheTrailHasInlineStages(t *testing.T) {
	in(t, func(t *testing.T) {
		inline, shadow, odd := use("a", "defer"), use("b", "defer"), use("c", "skip")
		inline.Inline, shadow.Inline, shadow.Shadow, odd.Inline = true, true, true, true
		cfg := settings(inline, shadow, odd, use("d", "defer"))
		h := newHouse(t, cfg)
		h.set("a", prepends("X-A"))
		h.set("b", prepends("X-B"))
		h.set("c", failing(errors.New("out of order")))
		h.set("d", prepends("X-D"))
		a := letter("m", 2)
		m := &mail.Message{ID: a.ID, Envelope: a.Envelope, Content: mail.FromBytes(a.Body.Inline), Pending: a.Starts[0].Recipients}
		judged, reply := h.d.Judge(t.Context(), cfg, cfg.Chains[0], m)
		if reply != nil {
			t.Fatal(reply)
		}
		a.Starts = judged.Starts(map[string][]mail.RecipientID{"out": m.Pending})
		for _, r := range a.Starts[0].Done {
			if len(r.Diff.Hunks) > 0 {
				t.Errorf("%s: what it changed is kept for people with what was accepted", r.Instance)
			}
		}
		if err := h.d.Accept(t.Context(), a, m.Content, judged, nil); err != nil {
			t.Fatal(err)
		}
		h.pass(time.Second)
		h.expectTale("m", `a verdict continue for 2 +"X-A: x\r\n"; b skipped continue for 2 +"X-B: x\r\n" in shadow; c skipped continue for 2`,
			`d verdict continue for 2 +"X-D: x\r\n"; after a b c`, "delivered 2")
		h.finish()
	})
}

func TestTheTrailNamesThePerson(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("a", "defer")))
		h.set("a", always(stage.Quarantine("odd")))
		h.send("m", 1)
		h.pass(time.Second)
		if _, err := h.d.Release(t.Context(), "m", anna); err != nil {
			t.Fatal(err)
		}
		h.pass(time.Minute)
		h.expectTale("m", "a verdict quarantine for 1", "quarantine 1", "retry 1", "anna: released by anna", "a verdict continue for 1", "delivered 1")
		h.finish()
	})
}

func TestAReportOfOursIsDescribedForTheTrail(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(chain.Fate{Kind: chain.Rejected, Concern: chain.AboutRecipient, Reply: &mail.Reply{Code: 550, Text: "no"}}))
		h.send("m", 1)
		h.pass(time.Second)
		dsn := h.log.reports("m")
		if len(dsn) != 1 || dsn[0].Subject != "Your message could not be delivered" || dsn[0].MessageID != "<"+dsn[0].ID+"@relay.example.com>" {
			t.Errorf("%+v", dsn)
		}
		h.finish()
	})
}
