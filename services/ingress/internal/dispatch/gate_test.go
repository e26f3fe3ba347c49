package dispatch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

var routeDown = chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRoute, About: "provider", Reason: "login refused"}

// A thousand messages before a route that is down: each is parked at once, one at a time probes, and all go on when
// it is well. Another route's mail is not touched.
func TestRouteDownAThousandParked(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			if p.Slip.Route.Name == "exchange" {
				deliver(ctx, p, s)
				return
			}
			answer(routeDown)(ctx, p, s)
		})
		h.send("0", 1)
		h.pass(100 * time.Millisecond)
		for i := range 1000 {
			h.send(fmt.Sprint("m", i), 1)
		}
		home := letter("home", 1)
		home.Envelope.Recipients[0].Address.Domain = "example.com"
		home.Starts[0].Chain = "in"
		h.accept(home)
		h.pass(100 * time.Millisecond)
		h.expect("home", "delivered")
		if n := h.egress.total(); n != 2 {
			t.Errorf("%d runs, want one for the route and one for the other", n)
		}
		if n := h.log.view.Count(spool.Park); n != 1001 {
			t.Errorf("%d are parked", n)
		}
		h.pass(10 * time.Minute)
		if h.egress.most != 1 {
			t.Errorf("%d probes at once", h.egress.most)
		}
		n := h.egress.total()
		if n < 20 || n > 40 {
			t.Errorf("%d probes in ten minutes", n)
		}
		for id, runs := range h.egress.runs { // each probe is another message's
			if id != "0" && runs > 1 {
				t.Errorf("%s probed %d times", id, runs)
			}
		}
		h.egress.set(deliver)
		h.pass(31 * time.Second)
		if left := h.log.view.Len(); left != 0 {
			t.Errorf("%d still wait", left)
		}
		for i := range 1000 {
			h.expect(fmt.Sprint("m", i), "delivered")
		}
		h.finish()
	})
}

// A probe that takes long, wherever it is, does not keep the rest.
func TestSlowProbe(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("s", "defer")))
		h.egress.set(answer(routeDown))
		h.send("a", 1)
		h.send("b", 1)
		h.pass(100 * time.Millisecond)
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			time.Sleep(5 * time.Minute)
			deliver(ctx, p, s)
		})
		h.pass(20 * time.Second)
		if h.egress.most != 2 {
			t.Errorf("%d under way at once", h.egress.most)
		}
		h.pass(time.Hour)
		h.expect("a", "delivered")
		h.expect("b", "delivered")
		h.finish()
	})
}

// Two things are down: a probe of the one that meets the other says nothing, and both come back.
func TestTwoGates(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("s", "defer")))
		h.egress.set(answer(routeDown))
		for i := range 5 {
			h.send(fmt.Sprint("r", i), 1)
		}
		h.pass(100 * time.Millisecond)
		bad := func(context.Context, *mail.Message) (stage.Result, error) {
			return stage.Result{}, errors.New("broken")
		}
		h.set("s", bad)
		h.d.gates.shut(key{chain.AboutHop, "s"}) // as if others had met it
		h.send("s0", 1)
		h.pass(10 * time.Minute)
		h.egress.set(deliver)
		h.pass(10 * time.Minute)
		if n := h.egress.count("s0"); n > 0 {
			t.Errorf("%d runs passed a stage that is down", n)
		}
		if n := h.log.settles; n > 100 {
			t.Errorf("%d settlements: they go from gate to gate", n)
		}
		h.set("s", nil)
		h.pass(10 * time.Minute)
		for i := range 5 {
			h.expect(fmt.Sprint("r", i), "delivered")
		}
		h.expect("s0", "delivered")
		h.finish()
	})
}

// A stage counts as down after runs of three messages failed, whatever number of recipients they have.
func TestStageThatFails(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("s", "defer")))
		h.set("s", func(context.Context, *mail.Message) (stage.Result, error) {
			return stage.Result{}, errors.New("broken")
		})
		down := func() bool { return h.d.gates.isDown(key{chain.AboutHop, "s"}) }
		h.send("a", 10)
		h.pass(time.Minute) // it alone, several times
		if down() {
			t.Error("one message shut the gate")
		}
		h.expect("a", "retry", "retry")
		h.send("b", 10)
		h.send("c", 10)
		h.pass(time.Minute)
		if !down() {
			t.Error("the gate is open after three failed")
		}
		n := h.times("s")
		h.send("d", 1)
		h.pass(100 * time.Millisecond)
		h.expect("d", "park")
		if h.times("s") > n {
			t.Error("a message went to a stage that is down")
		}
		h.set("s", nil)
		h.pass(time.Minute)
		for _, id := range []string{"a", "b", "c", "d"} {
			h.expect(id, "delivered")
		}
		h.finish()
	})
}

// crashing is an egress that dies of some messages: whoever is there at that moment has an unknown outcome.
type crashing struct {
	h      *house
	poison map[string]bool
	took   time.Duration

	mu     sync.Mutex
	life   chan struct{} // closed when it dies
	inside int
	alone  map[string]int // how often it died with nobody else there
	met    map[string]int // how often a message died with it
}

func newCrashing(h *house, took time.Duration, poison ...string) *crashing {
	c := &crashing{h: h, poison: map[string]bool{}, took: took, life: make(chan struct{}), alone: map[string]int{}, met: map[string]int{}}
	for _, id := range poison {
		c.poison[id] = true
	}
	return c
}

func (c *crashing) carry(ctx context.Context, p *chain.Parcel, s chain.Sink) {
	c.mu.Lock()
	life := c.life
	c.inside++
	c.mu.Unlock()
	took := c.took
	if c.poison[p.ID] { // before the others are done
		took /= 2
	}
	t := time.NewTimer(took)
	defer t.Stop()
	died := false
	select {
	case <-t.C:
		if c.poison[p.ID] {
			c.mu.Lock()
			if c.inside == 1 {
				c.alone[p.ID]++
			}
			died = true
			close(c.life)
			c.life = make(chan struct{})
			c.mu.Unlock()
		}
	case <-life:
		died = true
	}
	c.mu.Lock()
	c.inside--
	if died {
		c.met[p.ID]++
	}
	c.mu.Unlock()
	if died {
		answer(chain.Fate{Kind: chain.Unknown, Concern: chain.AboutHop, About: chain.EgressHop, Reason: "connection broke"})(ctx, p, s)
		return
	}
	deliver(ctx, p, s)
}

// One message kills the hop: the others get through, it is held, and nobody else is blamed. All of its recipients
// share its fate.
func TestPoison(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		c := newCrashing(h, 50*time.Millisecond, "poison")
		h.egress.set(c.carry)
		for i := range 20 {
			h.send(fmt.Sprint("m", i), 2)
		}
		h.send("poison", 3)
		h.pass(100 * time.Millisecond)
		for i := range 20 {
			h.send(fmt.Sprint("n", i), 1)
		}
		h.pass(5 * time.Minute)
		for i := range 20 {
			h.expect(fmt.Sprint("m", i), "delivered", "delivered")
			h.expect(fmt.Sprint("n", i), "delivered")
			if n := c.met[fmt.Sprint("n", i)]; n > 0 {
				t.Errorf("n%d was there when the hop died", i)
			}
		}
		h.expect("poison", "dead", "dead", "dead")
		if c.alone["poison"] < crashesToDie {
			t.Errorf("held after it was alone %d times", c.alone["poison"])
		}
		if h.d.gates.isDown(key{chain.AboutHop, chain.EgressHop}) {
			t.Error("the gate is still shut")
		}
		h.finish()
	})
}

// An outage counts against nobody: without others that pass in between, one message is tried for ever.
func TestOutageIsNoCrash(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(chain.Fate{Kind: chain.Unknown, Concern: chain.AboutHop, About: chain.EgressHop}))
		h.send("a", 1)
		h.send("b", 1)
		h.pass(24 * time.Hour)
		h.expect("a", "park")
		h.expect("b", "park")
		h.egress.set(deliver)
		h.pass(time.Minute)
		h.expect("a", "delivered")
		h.expect("b", "delivered")
		h.finish()
	})
}

// While suspects that had leave for the dot wait for their 15 s, the others flow.
func TestSuspectsDoNotStopTheFlow(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			if err := s.Ready(ctx, p.Pending); err != nil {
				t.Error(err)
			}
			time.Sleep(50 * time.Millisecond) // the other one is there too
			answer(chain.Fate{Kind: chain.Unknown, Concern: chain.AboutHop, About: chain.EgressHop})(ctx, p, s)
		})
		h.send("a", 1)
		h.send("b", 1)
		h.pass(100 * time.Millisecond)
		h.egress.set(deliver)
		for i := range 50 {
			h.send(fmt.Sprint("m", i), 1)
		}
		h.pass(3 * time.Second)
		for i := range 50 {
			h.expect(fmt.Sprint("m", i), "delivered")
		}
		h.expect("a", "park")
		h.expect("b", "park")
		h.pass(15 * time.Second)
		h.expect("a", "delivered")
		h.expect("b", "delivered")
		h.finish()
	})
}

// Suspects are tried one at a time, also after a takeover.
func TestSuspectsOneAtATime(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		c := newCrashing(h, 20*time.Millisecond, "m0")
		h.egress.set(c.carry)
		for i := range 10 {
			h.send(fmt.Sprint("m", i), 1)
		}
		h.pass(500 * time.Millisecond)
		for i := range 10 {
			h.expect(fmt.Sprint("m", i), "park")
		}
		h.crash()
		h.egress.most = 0
		c.poison = nil
		h.takeOver(15 * time.Second)
		began := time.Now()
		h.pass(14 * time.Second)
		h.expect("m5", "park")
		h.pass(time.Minute)
		for i := range 10 {
			h.expect(fmt.Sprint("m", i), "delivered")
		}
		if h.egress.most != 1 {
			t.Errorf("%d suspects at once", h.egress.most)
		}
		if at := h.egress.times[10].Sub(began); at < 15*time.Second {
			t.Errorf("tried %v after the takeover", at)
		}
		h.finish()
	})
}

// The record of a parked message may come when its gate was removed, or opened, long ago.
func TestParkedTooLate(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			answer(routeDown)(ctx, p, s)
			h.egress.set(deliver)
		})
		h.log.slow = 10 * time.Second // the gate is probed, and removed for want of anyone, before this is on record
		h.send("a", 1)
		h.pass(5 * time.Second)
		h.send("b", 1)
		h.pass(time.Minute)
		h.expect("a", "delivered")
		h.expect("b", "delivered")
		h.finish()
	})
}

func TestProbeWaits(t *testing.T) {
	now := time.Unix(1000, 0)
	g := newGates(func() time.Time { return now }, time.Time{})
	k := key{chain.AboutRoute, "r"}
	if !g.shut(k) || g.shut(k) {
		t.Error("what is news?")
	}
	var waits []time.Duration
	for range 8 {
		at, ok := g.nextDue()
		if !ok {
			t.Fatal("no probe")
		}
		waits = append(waits, at.Sub(now))
		if now = at.Add(-time.Millisecond); len(g.due()) != 0 {
			t.Fatal("due too soon")
		}
		if now = at; len(g.due()) != 1 || len(g.due()) != 0 {
			t.Fatal("one probe at a time")
		}
		g.probeEnded(k, "m", stillDown)
	}
	if want := "[1s 1s 2s 5s 10s 30s 30s 30s]"; fmt.Sprint(waits) != want {
		t.Errorf("waits %v, want %s", waits, want)
	}
	if !g.probeEnded(k, "m", well) || g.isDown(k) {
		t.Error("not open")
	}
}
