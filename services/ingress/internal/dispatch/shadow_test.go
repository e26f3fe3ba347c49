package dispatch

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

// dry is a stage in shadow with a long timeout.
func dry(name string) config.Use {
	u := use(name, "defer")
	u.Shadow, u.Stage.Timeout = true, time.Hour
	return u
}

// hanging is a stage that takes so long.
func hanging(d time.Duration, v stage.Verdict) stage.Func {
	return func(ctx context.Context, _ *mail.Message) (stage.Result, error) {
		select {
		case <-time.After(d):
			return stage.Result{Branch: stage.Branch{Verdict: v}}, nil
		case <-ctx.Done():
			return stage.Result{}, ctx.Err()
		}
	}
}

// A stage in shadow that takes long holds nothing: the message is delivered, its job is over, and the trail has what it
// said when it has said it.
func TestShadowHoldsNothing(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("a", "defer"), dry("s"), use("b", "defer")))
		h.set("s", hanging(20*time.Minute, stage.Quarantine("x")))
		h.send("m", 1)
		h.pass(time.Second)
		h.expect("m", "delivered")
		if n := h.d.Running(); n != 0 {
			t.Errorf("%d still run", n)
		}
		h.expectTale("m", "a verdict continue for 1; b verdict continue for 1", "delivered 1")
		h.pass(20 * time.Minute)
		h.expectTale("m", "a verdict continue for 1; b verdict continue for 1", "delivered 1", "s verdict quarantine for 1 in shadow")
		h.finish()
	})
}

// A message that waits does not go past its shadows again.
func TestShadowRunsOnce(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(dry("r"), use("a", "defer"), dry("s")))
		h.set("s", failing(errors.New("out of order")))
		h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutDestination, About: "example.net"}))
		h.send("m", 1)
		h.pass(time.Second)
		h.expect("m", "retry")
		if got := fmt.Sprint(instances(h.log.wait("m", "1").Done)); got != "[r a s]" {
			t.Errorf("behind it are %s", got)
		}
		h.egress.set(deliver)
		h.crash()
		h.takeOver(0)
		h.pass(time.Hour)
		h.expect("m", "delivered")
		for _, s := range []string{"r", "a", "s"} {
			if n := h.times(s); n != 1 {
				t.Errorf("%s judged %d times", s, n)
			}
		}
		h.finish()
	})
}

// What shadows say is nobody's concern: their failures do not shut the gate that others need, nor their verdicts open it.
func TestShadowAndGates(t *testing.T) {
	in(t, func(t *testing.T) {
		cfg := settings(dry("s"))
		cfg.Chains[1].Stages = []config.Use{use("s", "defer")}
		cfg.Stages["s"] = cfg.Chains[1].Stages[0].Stage
		h := newHouse(t, cfg)
		h.set("s", failing(errors.New("out of order")))
		for i := range 10 {
			h.send(fmt.Sprint("m", i), 1)
		}
		h.pass(time.Second)
		if down := h.d.Down(); len(down) > 0 {
			t.Errorf("down: %v", down)
		}
		home := func(id string) {
			a := letter(id, 1)
			a.Envelope.Recipients[0].Address.Domain = "example.com"
			a.Starts[0].Chain = "in"
			h.accept(a)
		}
		for i := range 10 {
			home(fmt.Sprint("h", i))
		}
		h.pass(time.Second)
		if down := h.d.Down(); len(down) != 1 || down[0].About != "s" {
			t.Errorf("down: %v", down)
		}
		// It is down: mail that has it in shadow goes on without it.
		before := h.times("s")
		h.send("late", 1)
		h.pass(100 * time.Millisecond)
		h.expect("late", "delivered")
		if n := h.times("s"); n != before {
			t.Errorf("judged by what is down")
		}
		// What waited for it in earnest, and has it in shadow now, waits no more.
		shadow := *cfg
		chains := []*config.Chain{cfg.Chains[0], {Name: "in", Match: cfg.Chains[1].Match, Stages: []config.Use{dry("s")}, Deliver: "exchange"}}
		shadow.Chains = chains
		h.reconfigure(&shadow)
		h.pass(time.Second)
		h.expect("h0", "delivered")
		h.expect("h9", "delivered")
		h.finish()
	})
}

// A stop does not wait for what has no effect.
func TestCloseDoesNotWaitForShadows(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(dry("s")))
		h.set("s", hanging(time.Hour, stage.Continue()))
		h.send("m", 1)
		h.pass(time.Second)
		start := time.Now()
		if !h.end(20 * time.Second) {
			t.Error("it was not idle")
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("it took %v", d)
		}
		h.expect("m", "delivered")
		if n := h.log.view.Count(spool.Retry); n != 0 {
			t.Errorf("%d wait", n)
		}
	})
}
