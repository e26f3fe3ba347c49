package dispatch

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

// only picks these recipients in these rooms.
func only(rooms []spool.Room, ids ...mail.RecipientID) func(*depot.Message, *spool.Wait) []mail.RecipientID {
	return func(_ *depot.Message, w *spool.Wait) []mail.RecipientID {
		for _, r := range rooms {
			if w.Room == r {
				return ids
			}
		}
		return nil
	}
}

func (h *house) want(got Changed, err error, recipients int, reason string) {
	h.t.Helper()
	if err != nil || got.Recipients != recipients || !strings.Contains(got.Reason, reason) || (reason == "") != (got.Reason == "") {
		h.t.Errorf("%+v, %v; want %d, %q", got, err, recipients, reason)
	}
}

// Of one message six recipients have six fates; an order touches those that it means, and says why it touches none.
func TestOrderMeansSome(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("s", "defer")))
		h.set("s", forkAll)
		h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient}))
		h.send("m", 6)
		h.pass(time.Second)
		h.expect("m", "retry", "retry", "quarantine", "reported", "discarded", "retry")
		n, err := h.d.Release(t.Context(), "m", Order{By: "anna", Pick: only([]spool.Room{spool.Retry}, "1", "2")})
		h.want(n, err, 0, "it waits in retry; this works on quarantine, dead")
		n, err = h.d.Release(t.Context(), "m", Order{By: "anna", Pick: only(nil)})
		h.want(n, err, 0, noMatch)
		n, err = h.d.Hold(t.Context(), "m", Order{By: "anna", Reason: "odd", Pick: only(everyRoom, "2")})
		h.want(n, err, 1, "")
		h.expect("m", "retry", "quarantine", "quarantine", "reported", "discarded", "retry")
		if w := h.log.wait("m", "2"); w.Last.Reason != "held by anna: odd" || !w.Last.ByError {
			t.Errorf("held: %+v", w.Last)
		}
		n, err = h.d.Delete(t.Context(), "m", Order{By: "anna", Pick: only([]spool.Room{spool.Quarantine}, "3")})
		h.want(n, err, 1, "")
		h.expect("m", "retry", "quarantine", "deleted", "reported", "discarded", "retry")
		h.egress.set(deliver)
		n, err = h.d.Retry(t.Context(), "m", Order{By: "anna", Pick: only(everyRoom, "1", "6")})
		h.want(n, err, 2, "")
		h.pass(time.Second)
		h.expect("m", "delivered", "quarantine", "deleted", "reported", "discarded", "retry") // 6 is deferred by the stage again
		n, err = h.d.Release(t.Context(), "m", anna)
		h.want(n, err, 1, "")
		h.pass(time.Second)
		h.expect("m", "delivered", "delivered", "deleted", "reported", "discarded", "retry")
		n, err = h.d.Retry(t.Context(), "nobody", anna)
		h.want(n, err, 0, "does not wait here")
		h.finish()
	})
}

// Those of a group that an order does not mean are woken by their time as before.
func TestTheOthersSleepOn(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient}))
		h.send("m", 3)
		h.pass(time.Second)
		n, err := h.d.Hold(t.Context(), "m", Order{By: "anna", Pick: only(everyRoom, "2")})
		h.want(n, err, 1, "")
		n, err = h.d.Retry(t.Context(), "m", Order{By: "anna", FromStage: "none", Pick: only(everyRoom, "1", "3")})
		h.want(n, err, 0, "has not passed stage none")
		h.egress.set(deliver)
		h.pass(2 * time.Minute)
		h.expect("m", "delivered", "quarantine", "delivered")
		h.finish()
	})
}

func TestRetryFromStage(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("a", "defer"), use("b", "defer"), use("c", "defer")))
		h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient}))
		h.send("m", 1)
		h.pass(time.Second)
		counts := func(a, b, c int) {
			t.Helper()
			if h.times("a") != a || h.times("b") != b || h.times("c") != c {
				t.Errorf("ran %d, %d, %d times; want %d, %d, %d", h.times("a"), h.times("b"), h.times("c"), a, b, c)
			}
		}
		counts(1, 1, 1)
		n, err := h.d.Retry(t.Context(), "m", anna)
		h.want(n, err, 1, "")
		h.pass(time.Second)
		counts(1, 1, 1)
		n, err = h.d.Retry(t.Context(), "m", Order{By: "anna", FromStage: "b"})
		h.want(n, err, 1, "")
		h.pass(time.Second)
		counts(1, 2, 2)
		h.expect("m", "retry")
		n, err = h.d.Retry(t.Context(), "m", Order{By: "anna", FromStage: "a"})
		h.want(n, err, 1, "")
		h.pass(time.Second)
		counts(2, 3, 3)
		h.finish()
	})
}

// A stranger's mail that a stage rejected is dead. Released it meets the same stage again: nothing was overruled.
func TestReleaseOfDead(t *testing.T) {
	in(t, func(t *testing.T) {
		cfg := settings(use("s", "defer"))
		cfg.Chains[1].Stages = cfg.Chains[0].Stages
		h := newHouse(t, cfg)
		h.set("s", func(context.Context, *mail.Message) (stage.Result, error) {
			return stage.Result{Branch: stage.Branch{Verdict: stage.Reject(mail.Reply{Code: 550, Text: "no"})}}, nil
		})
		a := home("m")
		a.Envelope.Origin.Relay = ""
		h.accept(a)
		h.pass(time.Second)
		h.expect("m", "dead")
		n, err := h.d.Release(t.Context(), "m", anna)
		h.want(n, err, 1, "")
		h.pass(time.Second)
		h.expect("m", "dead")
		h.set("s", nil)
		n, err = h.d.Release(t.Context(), "m", anna)
		h.want(n, err, 1, "")
		h.pass(time.Second)
		h.expect("m", "delivered")
		if n := h.times("s"); n != 3 {
			t.Errorf("the stage ran %d times", n)
		}
		h.finish()
	})
}

// What on_error held is judged when it is released: nobody has overruled a verdict that was never given.
func TestReleaseOfOnError(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("s", "quarantine")))
		h.set("s", failing(errors.New("broken")))
		h.send("m", 1)
		h.pass(time.Second)
		h.expect("m", "quarantine")
		h.set("s", func(context.Context, *mail.Message) (stage.Result, error) {
			return stage.Result{Branch: stage.Branch{Verdict: stage.Quarantine("odd")}}, nil
		})
		n, err := h.d.Release(t.Context(), "m", anna)
		h.want(n, err, 1, "")
		h.pass(time.Second)
		h.expect("m", "quarantine")
		if w := h.log.wait("m", "1"); w.Last.ByError || len(w.Released) != 0 {
			t.Errorf("held by %+v, released %v", w.Last, w.Released)
		}
		n, err = h.d.Release(t.Context(), "m", anna)
		h.want(n, err, 1, "")
		h.pass(time.Second)
		h.expect("m", "delivered")
		h.finish()
	})
}

// What was overruled stays so over later waits and other configurations of that stage, and for no other stage.
func TestReleaseStays(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("a", "defer"), use("b", "defer")))
		odd := func(context.Context, *mail.Message) (stage.Result, error) {
			return stage.Result{Branch: stage.Branch{Verdict: stage.Quarantine("odd")}}, nil
		}
		h.set("a", odd)
		h.set("b", odd)
		h.send("m", 1)
		h.pass(time.Second)
		n, err := h.d.Release(t.Context(), "m", anna)
		h.want(n, err, 1, "")
		h.pass(time.Second)
		h.expect("m", "quarantine")
		if w := h.log.wait("m", "1"); w.Last.About != "b" || len(w.Released) != 1 {
			t.Errorf("held by %s, released %v", w.Last.About, w.Released)
		}
		h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient}))
		n, err = h.d.Release(t.Context(), "m", anna)
		h.want(n, err, 1, "")
		h.pass(time.Second)
		h.expect("m", "retry")
		cfg := settings(use("a", "defer"), use("b", "defer"))
		cfg.Stages["a"].Hash = "new"
		h.reconfigure(cfg)
		h.egress.set(deliver)
		h.pass(time.Hour)
		h.expect("m", "delivered")
		h.finish()
	})
}

// The log does not answer in time: the person is told that it may still come, and it does.
func TestOrderOutOfTime(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient}))
		h.send("m", 1)
		h.pass(time.Second)
		h.log.slow = time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		asked := time.Now()
		n, err := h.d.Hold(ctx, "m", anna)
		h.want(n, err, 0, notOnRecord)
		if took := time.Since(asked); took != time.Second {
			t.Errorf("answered after %v", took)
		}
		n, err = h.d.Delete(ctx, "m", anna)
		h.want(n, err, 0, underWay)
		h.pass(2 * time.Minute)
		h.expect("m", "quarantine")
		h.log.slow = 0
		h.finish()
	})
}

func TestOrderWithoutShard(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient}))
		h.send("m", 1)
		h.pass(time.Second)
		h.log.refuse = func(*spool.Settled) error { return errLost }
		if n, err := h.d.Hold(t.Context(), "m", anna); !errors.Is(err, errShardLost) || n.Recipients != 0 {
			t.Errorf("%+v, %v", n, err)
		}
		h.log.refuse = nil
		n, err := h.d.Hold(t.Context(), "m", anna)
		h.want(n, err, 1, "")
		h.finish()
		if _, err := h.d.Release(t.Context(), "m", anna); !errors.Is(err, errClosing) {
			t.Errorf("after Close: %v", err)
		}
	})
}
