package dispatch

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

func TestPauseAndResume(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(), func(o *Options) { o.Paused, o.Woken = true, 4 })
		h.log.slow = 10 * time.Millisecond
		for i := range 50 {
			h.send(fmt.Sprint("m", i), 1)
		}
		h.pass(time.Hour)
		if n := h.egress.total(); n != 0 {
			t.Errorf("%d runs while paused", n)
		}
		h.expect("m0", "park")
		h.d.Resume()
		h.pass(15 * time.Millisecond)
		h.d.Pause() // in the middle of it
		h.pass(time.Hour)
		n := h.egress.total()
		if n == 0 || n == 50 {
			t.Errorf("%d of 50 ran before the pause", n)
		}
		h.d.Resume()
		h.send("last", 1)
		h.pass(time.Minute)
		for i := range 50 {
			h.expect(fmt.Sprint("m", i), "delivered")
		}
		h.expect("last", "delivered")
		h.finish()
	})
}

// Resume comes while the record that a message is held is still on its way.
func TestResumeBeforeTheRecord(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(), func(o *Options) { o.Paused = true })
		h.log.slow = time.Second
		h.send("m", 1)
		h.pass(500 * time.Millisecond)
		h.d.Resume()
		h.pass(time.Minute)
		h.expect("m", "delivered")
		h.finish()
	})
}

func TestPausedTakeover(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(), func(o *Options) { o.Paused = true })
		h.send("m", 1)
		h.pass(time.Second)
		h.crash()
		h.opts.Paused = false
		h.takeOver(15 * time.Second)
		h.pass(14 * time.Second)
		h.expect("m", "park")
		h.pass(2 * time.Second)
		h.expect("m", "delivered")
		h.finish()
	})
}

// What was under way at the takeover is unknown: nothing of it runs before its time, whoever asks.
func TestTakeoverWaits(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			switch p.ID {
			case "running", "open":
				if err := s.Ready(ctx, p.Pending); err != nil {
					t.Error(err)
				}
				<-ctx.Done()
				if p.ID == "running" {
					return
				}
			case "parked":
				answer(routeDown)(ctx, p, s)
			case "retry":
				answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient})(ctx, p, s)
			}
		})
		h.send("open", 1)
		h.pass(20 * time.Second)
		h.expect("open", "retry")
		h.send("retry", 1)
		h.send("running", 1)
		h.pass(time.Second)
		h.send("parked", 1)
		h.pass(100 * time.Millisecond)
		h.crash()
		h.takeOver(15 * time.Second)
		took := time.Now()
		h.egress.set(deliver)
		n := len(h.egress.times)
		for _, id := range []string{"open", "retry", "parked"} {
			if _, err := h.d.Retry(t.Context(), id, anna); err != nil {
				t.Error(err)
			}
		}
		h.pass(5 * time.Minute)
		for _, id := range []string{"open", "retry", "running", "parked"} {
			h.expect(id, "delivered")
		}
		for _, at := range h.egress.times[n:] {
			if at.Sub(took) < 15*time.Second {
				t.Errorf("ran %v after the takeover", at.Sub(took))
			}
		}
		h.finish()
	})
}

func TestMessageThatCannotBeLoaded(t *testing.T) {
	for _, c := range []struct {
		err    error
		fresh  bool
		before string
		after  string
	}{
		{errors.New("NATS is slow"), false, "retry", "delivered"},
		{spool.ErrCorrupt, false, "dead", "dead"},
		{errors.New("NATS is slow"), true, "running", "delivered"},
		{spool.ErrCorrupt, true, "dead", "dead"},
	} {
		t.Run(fmt.Sprint(c.err, " ", c.fresh), func(t *testing.T) {
			in(t, func(t *testing.T) {
				h := newHouse(t, settings(use("s", "defer")))
				if c.fresh {
					h.egress.set(func(ctx context.Context, _ *chain.Parcel, _ chain.Sink) { <-ctx.Done() })
				} else {
					h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient}))
				}
				h.send("m", 1)
				h.pass(time.Second)
				h.log.spoil("m", c.err)
				if c.fresh {
					h.crash()
					h.takeOver(0)
				}
				h.egress.set(deliver)
				h.pass(2 * time.Minute)
				h.expect("m", c.before)
				h.log.mu.Lock()
				delete(h.log.damage, "m")
				h.log.mu.Unlock()
				h.pass(2 * time.Minute)
				h.expect("m", c.after)
				h.finish()
			})
		})
	}
}

// Close lets what is under way come to its end, with leave for the dot; nothing new starts.
func TestClose(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			time.Sleep(5 * time.Second)
			deliver(ctx, p, s)
		})
		h.send("m", 1)
		h.pass(time.Second)
		began := time.Now()
		if !h.end(20 * time.Second) {
			t.Error("not idle")
		}
		h.expect("m", "delivered")
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		h.accept(letter("late", 1))
		h.pass(time.Second)
		h.expect("late", "running") // in the log, for the next start
		h.takeOver(0)
		h.pass(10 * time.Second)
		h.expect("late", "delivered")
		h.finish()
	})
}

// A run that passed the dot is not waited for longer than the grace: its outcome is unknown to the next owner.
func TestCloseDoesNotHang(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(), func(o *Options) { o.Woken = 1 })
		h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient}))
		h.send("a", 1)
		h.send("b", 1)
		h.pass(time.Second)
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			_ = s.Ready(ctx, p.Pending)
			time.Sleep(10 * time.Minute)
			answer(chain.Fate{Kind: chain.Delivered})(ctx, p, s)
		})
		h.pass(2 * time.Minute) // one has the only slot
		began := time.Now()
		if h.end(20 * time.Second) {
			t.Error("idle, with an open outcome")
		}
		if took := time.Since(began); took > 20*time.Second+lastWords {
			t.Errorf("it took %v", took)
		}
		h.log.lose()
		h.pass(time.Hour)
	})
}

// An outcome that was open at the takeover, or after leave for the dot, is not done with by closing in order.
func TestCloseTooSoonIsNotIdle(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(), func(o *Options) { o.NotBefore = time.Now().Add(15 * time.Second) })
		h.pass(time.Second)
		if h.end(time.Minute) {
			t.Error("idle before what was open at the takeover is over")
		}
		h.takeOver(0)
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			_ = s.Ready(ctx, p.Pending)
			answer(chain.Fate{Kind: chain.Unknown, Concern: chain.AboutRecipient})(ctx, p, s)
		})
		h.send("m", 1)
		h.pass(time.Second)
		if h.end(time.Minute) {
			t.Error("idle right after an unknown outcome")
		}
	})
}

func TestAcceptFails(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.log.lose()
		var ended atomic.Int64
		err := h.d.Accept(t.Context(), letter("m", 1), mail.FromBytes([]byte("\r\n")), nil, func() { ended.Add(1) })
		if err == nil || ended.Load() != 0 {
			t.Errorf("%v, ended %d", err, ended.Load())
		}
		h.pass(time.Minute)
		if h.egress.total() != 0 {
			t.Error("it ran")
		}
		h.finish()
	})
}

// ended is called once, when all chains of a message are through, however.
func TestEndedOnce(t *testing.T) {
	for _, paused := range []bool{false, true} {
		in(t, func(t *testing.T) {
			h := newHouse(t, settings(), func(o *Options) { o.Paused = paused })
			a := letter("m", 2)
			a.Envelope.Recipients[1].Address.Domain = "example.com"
			a.Starts = []spool.Start{{Chain: "out", Recipients: []mail.RecipientID{"1"}}, {Chain: "gone", Recipients: []mail.RecipientID{"2"}}}
			h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
				time.Sleep(time.Minute)
				deliver(ctx, p, s)
			})
			var ended atomic.Int64
			if err := h.d.Accept(t.Context(), a, mail.FromBytes(a.Body.Inline), nil, func() { ended.Add(1) }); err != nil {
				t.Fatal(err)
			}
			h.pass(time.Second)
			if !paused && ended.Load() != 0 {
				t.Error("ended while it runs")
			}
			h.pass(time.Hour)
			if ended.Load() != 1 {
				t.Errorf("ended %d times", ended.Load())
			}
			h.finish()
		})
	}
}

// A message that its stage fails on waits longer each time; a new configuration of the stage gets it at once.
func TestConfigurationMendsStage(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("s", "defer")))
		h.set("s", func(_ context.Context, m *mail.Message) (stage.Result, error) {
			if m.ID == "m" {
				return stage.Result{}, errors.New("cannot read it")
			}
			return stage.Result{}, nil
		})
		h.send("m", 1)
		for i := range 12 { // others pass in between, so that the stage does not count as down
			h.pass(10 * time.Minute)
			h.send(fmt.Sprint("other", i), 1)
		}
		h.pass(time.Second)
		tried := h.times("s")
		cfg := settings(use("s", "defer"))
		cfg.Stages["s"].Hash, cfg.Revision = "mended", "r2"
		h.set("s", nil)
		h.reconfigure(cfg)
		h.pass(time.Second)
		if h.times("s") == tried {
			t.Error("it still waits for its time")
		}
		if n := h.log.Waiting().Len(); n != 0 {
			t.Errorf("%d messages wait", n)
		}
		h.finish()
	})
}

// A stage that is down for a chain that waits for it does not stop a chain that skips it.
func TestGateOfASkippedStage(t *testing.T) {
	in(t, func(t *testing.T) {
		cfg := settings(use("s", "defer"))
		skips := use("s", "skip")
		skips.Stage = cfg.Stages["s"]
		cfg.Chains[1].Stages = []config.Use{skips}
		h := newHouse(t, cfg)
		h.set("s", func(context.Context, *mail.Message) (stage.Result, error) { return stage.Result{}, errors.New("down") })
		for i := range failuresToOpen {
			h.send(fmt.Sprint("waits", i), 1)
			h.pass(time.Second)
		}
		if !h.d.gates.isDown(key{chain.AboutHop, "s"}) {
			t.Fatal("the gate is open")
		}
		a := letter("skips", 1)
		a.Envelope.Recipients[0].Address.Domain = "example.com"
		a.Starts[0].Chain = "in"
		h.accept(a)
		h.pass(50 * time.Millisecond) // less than a probe comes after
		if _, waits := h.log.Waiting().Get("skips"); waits {
			t.Error("it waits for a stage that its chain skips")
		}
		h.set("s", nil)
		h.pass(time.Hour)
		if n := h.log.Waiting().Len(); n != 0 {
			t.Errorf("%d messages wait", n)
		}
		h.finish()
	})
}
