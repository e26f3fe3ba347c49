package dispatch

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

// home is a message of a stranger to us, which goes by the other route.
func home(id string) *spool.Accepted {
	a := letter(id, 1)
	a.Envelope.Recipients[0].Address.Domain = "example.com"
	a.Starts[0].Chain = "in"
	return a
}

// wantDown checks what counts as down.
func (h *house) wantDown(names ...string) {
	h.t.Helper()
	var got []string
	for _, b := range h.d.Down() {
		got = append(got, b.About)
		if b.Since.IsZero() || b.Since.After(time.Now()) {
			h.t.Errorf("%s is down since %v", b.About, b.Since)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		h.t.Errorf("down: %v, want %v", got, names)
	}
}

// What is for a paused route waits, without a probe, over a crash too; other mail flows. All of it goes on at once.
func TestPausedRoute(t *testing.T) {
	for _, crash := range []bool{false, true} {
		in(t, func(t *testing.T) {
			h := newHouse(t, settings(use("s", "defer")))
			h.pauseRoute("provider")
			for i := range 50 {
				h.send(fmt.Sprint("m", i), 2)
			}
			h.accept(home("home"))
			h.pass(time.Second)
			h.expect("home", "delivered")
			if crash {
				h.crash()
				h.takeOver(15 * time.Second)
			}
			h.pass(24 * time.Hour)
			for i := range 50 {
				h.expect(fmt.Sprint("m", i), "park", "park")
			}
			if w := h.log.wait("m0", "1"); w.Last.Concern != chain.AboutRoute || w.Last.About != "provider" || w.Last.Reason != reasonPaused {
				t.Errorf("it waits for %+v", w.Last)
			}
			h.wantDown()
			if n := h.egress.total() + h.times("s"); n != 1 {
				t.Errorf("%d runs of what is paused", n-1)
			}
			if n := h.log.settles; n > 51 {
				t.Errorf("%d settlements: they do not sleep", n)
			}
			h.resumeRoute("provider")
			h.pass(2 * time.Second)
			for i := range 50 {
				h.expect(fmt.Sprint("m", i), "delivered", "delivered")
			}
			h.finish()
		})
	}
}

// The pause ended while nobody owned the shard: its mail goes on, and nothing is taken to be down.
func TestResumedWhileAway(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.pauseRoute("provider")
		h.send("a", 1)
		h.send("b", 1)
		h.pass(time.Minute)
		h.crash()
		delete(h.stopped, "provider")
		h.takeOver(15 * time.Second)
		h.pass(14 * time.Second)
		h.wantDown()
		h.expect("a", "park")
		h.pass(3 * time.Second)
		h.expect("a", "delivered")
		h.expect("b", "delivered")
		h.finish()
	})
}

// A route that is down is not probed while it is paused, and at once when it is not any more.
func TestPausedWhileDown(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(routeDown))
		h.send("a", 1)
		h.pass(10 * time.Minute)
		h.wantDown("provider")
		since := h.d.Down()[0].Since
		if why := h.d.Down()[0].Why.Reason; why != "login refused" {
			t.Errorf("down by %q", why)
		}
		h.pauseRoute("provider")
		h.pass(time.Second)
		n := h.egress.total()
		h.send("b", 1)
		h.pass(time.Second)
		settled := h.log.settles
		h.pass(24 * time.Hour)
		if more, woken := h.egress.total()-n, h.log.settles-settled; more+woken != 0 {
			t.Errorf("%d probes, %d were woken", more, woken)
		}
		h.wantDown("provider")
		if !h.d.Down()[0].Since.Equal(since) {
			t.Error("it is down since another time")
		}
		h.resumeRoute("provider")
		h.pass(10 * time.Minute)
		h.pauseRoute("provider") // between two probes, and not for long
		h.pass(time.Second)
		h.egress.set(deliver)
		h.resumeRoute("provider")
		h.pass(2 * time.Second)
		h.expect("a", "delivered")
		h.expect("b", "delivered")
		h.wantDown()
		h.finish()
	})
}

// What is under way gets no leave any more, and waits; what has it gets there.
func TestPausedUnderWay(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			if p.ID == "late" {
				time.Sleep(5 * time.Second)
				deliver(ctx, p, s)
				return
			}
			if err := s.Ready(ctx, p.Pending); err != nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Second)
			answer(chain.Fate{Kind: chain.Delivered})(ctx, p, s)
		})
		h.send("dot", 1)
		h.send("late", 1)
		h.pass(time.Second)
		h.pauseRoute("provider")
		h.pass(4*time.Second + 100*time.Millisecond)
		h.expect("dot", "delivered")
		h.expect("late", "park")
		if n := h.log.wait("late", "1").Attempts; n != 0 {
			t.Errorf("counts as %d attempts", n)
		}
		h.pass(24 * time.Hour)
		h.expect("late", "park")
		h.wantDown()
		h.resumeRoute("provider")
		h.pass(6 * time.Second)
		h.expect("late", "delivered")
		h.finish()
	})
}

// A hop is down before mail for a paused route and mail for another: the hop is probed with the other's, and nothing
// goes out by the paused one.
func TestPausedBehindAHop(t *testing.T) {
	in(t, func(t *testing.T) {
		cfg := settings(use("s", "defer"))
		cfg.Chains[1].Stages = cfg.Chains[0].Stages
		h := newHouse(t, cfg)
		h.set("s", func(context.Context, *mail.Message) (stage.Result, error) {
			return stage.Result{}, errors.New("broken")
		})
		h.d.gates.shut(key{chain.AboutHop, "s"})
		for i := range 100 {
			h.send(fmt.Sprint("m", i), 1)
		}
		h.accept(home("z"))
		h.pass(time.Second)
		h.pauseRoute("provider")
		h.pass(time.Second)
		if w := h.log.wait("m7", "1"); w.Room != spool.Park || w.Last.About != "provider" {
			t.Errorf("m7 waits for %+v", w.Last)
		}
		h.pass(time.Minute)
		h.expect("z", "park")
		h.wantDown("s")
		h.set("s", nil)
		h.pass(31 * time.Second)
		h.expect("z", "delivered")
		if n := h.egress.total(); n != 1 {
			t.Errorf("%d runs got as far as egress", n)
		}
		h.wantDown()
		h.resumeRoute("provider")
		h.pass(2 * time.Second)
		for i := range 100 {
			h.expect(fmt.Sprint("m", i), "delivered")
		}
		h.finish()
	})
}

// The chain is given another route: its mail need not wait for the paused one. And a pause of a route that is gone
// does no harm.
func TestPausedRouteIsLeft(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.pauseRoute("provider")
		h.send("m", 1)
		h.pass(time.Minute)
		h.expect("m", "park")
		cfg := settings()
		cfg.Chains[0].Deliver = "exchange"
		delete(cfg.Routes, "provider")
		h.reconfigure(cfg)
		h.pass(2 * time.Second)
		h.expect("m", "delivered")
		h.finish()
	})
}

// How long mail has been in its room: the time goes on over tries, and begins anew in another room.
func TestSince(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutDestination, About: "example.net"}))
		came := time.Now()
		h.send("m", 1)
		h.pass(time.Hour)
		if since := h.log.wait("m", "1").Since; since.Sub(came) > time.Second || since.IsZero() || h.egress.total() < 3 {
			t.Errorf("in retry since %v, came %v, after %d tries", since, came, h.egress.total())
		}
		h.egress.set(answer(routeDown))
		moved := time.Now()
		if _, err := h.d.Retry(t.Context(), "m", anna); err != nil {
			t.Error(err)
		}
		h.pass(time.Hour)
		h.expect("m", "park")
		if since := h.log.wait("m", "1").Since; since.Sub(moved) > time.Second || since.Before(moved) {
			t.Errorf("in park since %v, moved %v", since, moved)
		}
		held := time.Now()
		if _, err := h.d.Hold(t.Context(), "m", anna); err != nil {
			t.Error(err)
		}
		if since := h.log.wait("m", "1").Since; since.Before(held) {
			t.Errorf("held since %v", since)
		}
		h.finish()
	})
}
