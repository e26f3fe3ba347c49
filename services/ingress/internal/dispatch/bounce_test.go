package dispatch

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

var greylisted = chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient, Reply: &mail.Reply{Code: 450, Enhanced: "4.7.1", Text: "greylisted"}}

// Who waits is given up, and the sender reads why and what the next server had said; who wants no report is not told.
func TestBounce(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(greylisted))
		a := letter("m", 3)
		a.Envelope.Recipients[1].Notify = "NEVER"
		h.accept(a)
		h.pass(time.Second)
		h.expect("m", "retry", "retry", "retry")
		n, err := h.d.Bounce(t.Context(), "m", Order{By: "anna", Reason: "moved", Pick: only(everyRoom, "2")})
		h.want(n, err, 0, wantsNoReport)
		n, err = h.d.Bounce(t.Context(), "m", Order{By: "anna", Reason: "moved", Pick: only(everyRoom, "1", "2")})
		h.want(n, err, 2, "")
		h.pass(time.Second)
		h.expect("m", "reported", "discarded", "retry")
		got := h.log.reports("m")
		if len(got) != 1 {
			t.Fatalf("%d reports", len(got))
		}
		text := strings.Join(strings.Fields(string(got[0].Body.Inline)), " ")
		for _, want := range []string{"To: <anna@example.com>", "r1@example.net", "returned by an operator of this relay: moved; the last answer was: 450 4.7.1 greylisted", "Status: 5.0.0"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in\n%s", want, got[0].Body.Inline)
			}
		}
		if strings.Contains(text, "r2@example.net") || strings.Contains(text, "r3@example.net") {
			t.Errorf("others are in\n%s", got[0].Body.Inline)
		}
		n, err = h.d.Bounce(t.Context(), "m", anna)
		h.want(n, err, 1, "")
		h.pass(time.Second)
		h.expect("m", "reported", "discarded", "reported")
		h.finish()
	})
}

// Strangers get no reports, and the null sender neither: a person is told, and nothing changes.
func TestBounceIsNoBackscatter(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(greylisted))
		stranger, null := letter("s", 1), letter("n", 1)
		stranger.Envelope.Origin = mail.Origin{}
		null.Envelope.ReversePath = mail.Address{}
		h.accept(stranger)
		h.accept(null)
		h.pass(time.Second)
		for id, why := range map[string]string{"s": strangerToTell, "n": noneToTell, "x": NotHere} {
			n, err := h.d.Bounce(t.Context(), id, anna)
			h.want(n, err, 0, why)
		}
		h.expect("s", "retry")
		h.expect("n", "retry")
		h.finish()
	})
}

// Many recipients get several reports, in one record with their ends: all of it or nothing.
func TestBounceMany(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(greylisted))
		h.send("m", bouncedAtOnce+1)
		h.pass(time.Second)
		for range 2 { // the first 500 of a group at a time
			if n, err := h.d.Bounce(t.Context(), "m", anna); err != nil || n.Recipients == 0 {
				break
			}
			h.pass(time.Second)
		}
		reported := 0
		for i := range bouncedAtOnce + 1 {
			if h.log.where("m", mail.RecipientID(fmt.Sprint(i+1))) == string(spool.EndReported) {
				reported++
			}
		}
		if n := len(h.log.reports("m")); reported != bouncedAtOnce+1 || n < bouncedAtOnce/batch+1 {
			t.Errorf("%d reported in %d reports", reported, n)
		}
		h.finish()
	})
}
