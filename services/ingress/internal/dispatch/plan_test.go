package dispatch

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

func TestRest(t *testing.T) {
	done := func(names ...string) []chain.Report {
		var out []chain.Report
		for _, n := range names {
			out = append(out, chain.Report{Instance: n, Hash: "h-" + n, Outcome: chain.ByVerdict, Verdict: stage.KindContinue})
		}
		return out
	}
	with := func(r []chain.Report, i int, f func(*chain.Report)) []chain.Report { f(&r[i]); return r }
	shadow := func(u config.Use) config.Use { u.Shadow = true; return u }
	skipped := func(r *chain.Report) { r.Outcome = chain.Skipped }
	for _, c := range []struct {
		name     string
		chain    []config.Use
		done     []chain.Report
		released []string
		kept     int
		hops     string
	}{
		{name: "nothing done", chain: []config.Use{use("a", "defer"), use("b", "defer")}, hops: "[a b]"},
		{name: "the head", chain: []config.Use{use("a", "defer"), use("b", "defer")}, done: done("a"), kept: 1, hops: "[b]"},
		{name: "all", chain: []config.Use{use("a", "defer")}, done: done("a"), kept: 1, hops: "[]"},
		{name: "inserted in front", chain: []config.Use{use("x", "defer"), use("a", "defer")}, done: done("a"), hops: "[x a]"},
		{name: "inserted behind", chain: []config.Use{use("a", "defer"), use("x", "defer"), use("b", "defer")}, done: done("a", "b"), kept: 1, hops: "[x b]"},
		{name: "removed", chain: []config.Use{use("a", "defer"), use("c", "defer")}, done: done("a", "b"), kept: 1, hops: "[c]"},
		{name: "removed at the end", chain: []config.Use{use("a", "defer")}, done: done("a", "b"), kept: 1, hops: "[]"},
		{name: "swapped", chain: []config.Use{use("b", "defer"), use("a", "defer")}, done: done("a", "b"), hops: "[b a]"},
		{name: "renamed", chain: []config.Use{use("z", "defer"), use("b", "defer")}, done: done("a", "b"), hops: "[z b]"},
		{name: "another configuration", chain: []config.Use{use("a", "defer"), use("b", "defer")}, done: with(done("a", "b"), 0, func(r *chain.Report) { r.Hash = "old" }), hops: "[a b]"},
		{name: "edits omitted", chain: []config.Use{use("a", "defer"), use("b", "defer")}, done: with(done("a", "b"), 1, func(r *chain.Report) { r.EditsOmitted = true }), kept: 1, hops: "[b]"},
		{name: "skipped, still allowed", chain: []config.Use{use("a", "skip"), use("b", "defer")}, done: with(done("a"), 0, skipped), kept: 1, hops: "[b]"},
		{name: "skipped, not allowed any more", chain: []config.Use{use("a", "defer"), use("b", "defer")}, done: with(done("a"), 0, skipped), hops: "[a b]"},
		{name: "was shadow", chain: []config.Use{shadow(use("a", "defer"))}, done: with(done("a"), 0, skipped), kept: 1, hops: "[]"},
		{name: "is shadow now", chain: []config.Use{shadow(use("a", "defer"))}, done: done("a"), hops: "[a]"},
		{name: "a shadow put in between", chain: []config.Use{use("a", "defer"), shadow(use("s", "defer")), use("b", "defer"), use("c", "defer")}, done: done("a", "b"), kept: 2, hops: "[c]"},
		{name: "a shadow put in front", chain: []config.Use{shadow(use("s", "defer")), use("a", "defer"), use("b", "defer")}, done: done("a"), kept: 1, hops: "[b]"},
		{name: "a shadow put behind", chain: []config.Use{use("a", "defer"), shadow(use("s", "defer")), use("b", "defer")}, done: done("a"), kept: 1, hops: "[s b]"},
		{name: "a shadow before what does not hold", chain: []config.Use{use("a", "defer"), shadow(use("s", "defer")), use("c", "defer")}, done: done("a", "b"), kept: 1, hops: "[s c]"},
		{name: "a shadow gone past", chain: []config.Use{use("a", "defer"), shadow(use("s", "defer")), use("b", "defer")}, done: with(done("a", "s"), 1, skipped), kept: 2, hops: "[b]"},
		{name: "in shadow no more", chain: []config.Use{use("a", "defer"), use("s", "defer"), use("b", "defer")}, done: with(done("a", "s", "b"), 1, skipped), kept: 1, hops: "[s b]"},
		{name: "failed is not done", chain: []config.Use{use("a", "defer")}, done: with(done("a"), 0, func(r *chain.Report) { r.Outcome = chain.Failed }), hops: "[a]"},
		{name: "released", chain: []config.Use{use("a", "defer"), use("b", "defer")}, done: done("a"), released: []string{"b"}, kept: 1, hops: "[b!]"},
	} {
		cfg := settings(c.chain...)
		slip, kept := rest(cfg, cfg.Chains[0], c.done, c.released)
		hops := []string{}
		for _, h := range slip.Hops {
			n := h.Instance
			if h.Released {
				n += "!"
			}
			hops = append(hops, n)
		}
		if kept != c.kept || fmt.Sprint(hops) != c.hops {
			t.Errorf("%s: kept %d, then %v; want %d, %s", c.name, kept, hops, c.kept, c.hops)
		}
	}
}

// prefix is a stage that puts a field in front.
func prefix(field string) stage.Func {
	return func(context.Context, *mail.Message) (stage.Result, error) {
		return stage.Result{Branch: stage.Branch{Edits: mail.Edits{Splices: []mail.Splice{{Insert: []byte(field + ": 1\r\n")}}}}}, nil
	}
}

// A message waits while its chain changes: it leaves with what the chain of then does to it, once each.
func TestChangeWhileWaiting(t *testing.T) {
	for _, c := range []struct {
		name string
		next *config.Config
		want string
		runs map[string]int
	}{
		{"unchanged", settings(use("a", "defer"), use("b", "defer")), "B: 1\r\nA: 1\r\nFrom", map[string]int{"a": 1, "b": 1}},
		{"inserted", settings(use("a", "defer"), use("c", "defer"), use("b", "defer")), "B: 1\r\nC: 1\r\nA: 1\r\nFrom", map[string]int{"a": 1, "b": 2, "c": 1}},
		{"removed", settings(use("b", "defer")), "B: 1\r\nFrom", map[string]int{"a": 1, "b": 2}},
		{"none left", settings(), "From", map[string]int{"a": 1, "b": 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				h := newHouse(t, settings(use("a", "defer"), use("b", "defer")))
				for s, f := range map[string]string{"a": "A", "b": "B", "c": "C"} {
					h.set(s, prefix(f))
				}
				h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient}))
				h.send("m", 1)
				h.pass(time.Second)
				got := ""
				h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
					b, _ := mail.ReadAll(p.Content)
					got = string(b[:len(c.want)])
					deliver(ctx, p, s)
				})
				h.reconfigure(c.next)
				h.pass(2 * time.Minute)
				h.expect("m", "delivered")
				if got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				for s, n := range c.runs {
					if h.times(s) != n {
						t.Errorf("%s ran %d times, want %d", s, h.times(s), n)
					}
				}
				h.finish()
			})
		})
	}
}

// What waits before something that its chain does not lead to any more goes on, though that is still down.
func TestWayRoundWhatIsDown(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("a", "defer")))
		h.egress.set(answer(routeDown))
		for i := range 40 {
			h.send(fmt.Sprint("m", i), 1)
		}
		h.pass(time.Hour)
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			if p.Slip.Route.Name != "exchange" {
				answer(routeDown)(ctx, p, s)
				return
			}
			deliver(ctx, p, s)
		})
		cfg := settings(use("a", "defer"))
		cfg.Chains[0].Deliver = "exchange"
		h.reconfigure(cfg)
		h.pass(100 * time.Millisecond)
		for i := range 40 {
			h.expect(fmt.Sprint("m", i), "delivered")
		}
		h.finish()
	})
}

func TestChainGone(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient}))
		h.send("other", 2)
		h.send("nobody", 1)
		h.pass(time.Second)
		cfg := settings()
		cfg.Chains[0].Name = "new"
		cfg.Chains[0].Match.Recipients = []string{"r2@example.net"}
		h.egress.set(deliver)
		h.reconfigure(cfg)
		h.pass(2 * time.Minute)
		h.expect("other", "dead", "delivered")
		h.expect("nobody", "dead")
		h.finish()
	})
}

func TestRelease(t *testing.T) {
	for _, byError := range []bool{false, true} {
		in(t, func(t *testing.T) {
			h := newHouse(t, settings(use("a", "defer"), use("b", "quarantine")))
			h.set("b", func(context.Context, *mail.Message) (stage.Result, error) {
				if byError {
					return stage.Result{}, fmt.Errorf("broken")
				}
				return stage.Result{Branch: stage.Branch{Verdict: stage.Quarantine("odd"), Edits: mail.Edits{Splices: []mail.Splice{{Insert: []byte("B: 1\r\n")}}}}}, nil
			})
			h.send("m", 2)
			h.pass(time.Hour)
			h.expect("m", "quarantine", "quarantine")
			n, err := h.d.Release(t.Context(), "m", anna)
			if n.Recipients != 2 || err != nil {
				t.Errorf("%+v, %v", n, err)
			}
			h.pass(time.Second)
			want := "delivered"
			if byError { // held by on_error: the stage is run again
				want = "quarantine"
			}
			h.expect("m", want, want)
			if h.times("a") != 1 || h.times("b") != 2 {
				t.Errorf("a ran %d times, b %d", h.times("a"), h.times("b"))
			}
			h.finish()
		})
	}
}

func TestPerson(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient}))
		h.send("m", 2)
		h.pass(time.Second)
		if n, err := h.d.Hold(t.Context(), "m", anna); n.Recipients != 2 || err != nil {
			t.Errorf("%+v, %v", n, err)
		}
		h.pass(time.Hour)
		h.expect("m", "quarantine", "quarantine")
		if h.egress.count("m") != 1 {
			t.Error("what a person holds was run")
		}
		if n, _ := h.d.Retry(t.Context(), "m", anna); n.Recipients != 0 {
			t.Error("Retry let go what a person holds")
		}
		if n, err := h.d.Release(t.Context(), "m", anna); n.Recipients != 2 || err != nil {
			t.Errorf("%+v, %v", n, err)
		}
		h.pass(time.Second)
		h.expect("m", "retry", "retry")
		if n, err := h.d.Delete(t.Context(), "m", anna); n.Recipients != 2 || err != nil {
			t.Errorf("%+v, %v", n, err)
		}
		h.expect("m", "deleted", "deleted")
		if n, err := h.d.Delete(t.Context(), "m", anna); n.Reason != NotHere || n.Recipients != 0 || err != nil {
			t.Errorf("%+v, %v", n, err)
		}
		h.finish()
	})
}
