package dispatch

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

func TestEachFateHasItsPlace(t *testing.T) {
	no := &mail.Reply{Code: 550, Enhanced: "5.1.1", Text: "no such user"}
	later := &mail.Reply{Code: 451, Enhanced: "4.3.0", Text: "later"}
	old := func(a *spool.Accepted) { a.Received = a.Received.Add(-lifetime) }
	stranger := func(a *spool.Accepted) { a.Envelope.Origin.Relay = "" }
	null := func(a *spool.Accepted) { a.Envelope.ReversePath = mail.Address{} }
	notify := func(s string) func(*spool.Accepted) {
		return func(a *spool.Accepted) { a.Envelope.Recipients[0].Notify = s }
	}
	for _, c := range []struct {
		name   string
		fate   chain.Fate
		change []func(*spool.Accepted)
		want   string
		next   time.Duration // of retry
		dsn    bool
	}{
		{name: "delivered", fate: chain.Fate{Kind: chain.Delivered}, want: "delivered"},
		{name: "discarded", fate: chain.Fate{Kind: chain.Discarded, Concern: chain.AboutRecipient, Reason: "spam"}, want: "discarded"},
		{name: "quarantined", fate: chain.Fate{Kind: chain.Quarantined, Concern: chain.AboutRecipient, About: "s", Reason: "bad"}, want: "quarantine"},
		{name: "quarantined by error", fate: chain.Fate{Kind: chain.Quarantined, Concern: chain.AboutHop, About: "s", ByError: true}, want: "quarantine"},
		{name: "rejected, trusted", fate: chain.Fate{Kind: chain.Rejected, Concern: chain.AboutRecipient, Reply: no}, want: "reported", dsn: true},
		{name: "rejected, stranger", fate: chain.Fate{Kind: chain.Rejected, Concern: chain.AboutRecipient, Reply: no}, change: []func(*spool.Accepted){stranger}, want: "dead"},
		{name: "rejected, null sender", fate: chain.Fate{Kind: chain.Rejected, Reply: no}, change: []func(*spool.Accepted){null}, want: "discarded"},
		{name: "rejected, null sender, stranger", fate: chain.Fate{Kind: chain.Rejected, Reply: no}, change: []func(*spool.Accepted){null, stranger}, want: "discarded"},
		{name: "rejected, never", fate: chain.Fate{Kind: chain.Rejected, Reply: no}, change: []func(*spool.Accepted){notify("NEVER")}, want: "discarded"},
		{name: "rejected, delay alone", fate: chain.Fate{Kind: chain.Rejected, Reply: no}, change: []func(*spool.Accepted){notify("DELAY")}, want: "discarded"},
		{name: "rejected, failure", fate: chain.Fate{Kind: chain.Rejected, Reply: no}, change: []func(*spool.Accepted){notify("SUCCESS,failure")}, want: "reported", dsn: true},
		{name: "rejected, never, stranger", fate: chain.Fate{Kind: chain.Rejected, Reply: no}, change: []func(*spool.Accepted){notify("NEVER"), stranger}, want: "dead"},
		{name: "deferred recipient", fate: chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient, Reply: later}, want: "retry", next: time.Minute},
		{name: "deferred destination", fate: chain.Fate{Kind: chain.Deferred, Concern: chain.AboutDestination, About: "example.net"}, want: "retry", next: time.Minute},
		{name: "deferred after", fate: chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient, Reply: later, After: time.Hour}, want: "retry", next: time.Hour},
		{name: "deferred recipient, old", fate: chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient, Reply: later}, change: []func(*spool.Accepted){old}, want: "reported", dsn: true},
		{name: "deferred destination, old, stranger", fate: chain.Fate{Kind: chain.Deferred, Concern: chain.AboutDestination, Reply: later}, change: []func(*spool.Accepted){old, stranger}, want: "dead"},
		{name: "deferred route", fate: chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRoute, About: "provider"}, want: "park"},
		{name: "deferred route, old", fate: chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRoute, About: "provider"}, change: []func(*spool.Accepted){old}, want: "park"},
		{name: "deferred hop", fate: chain.Fate{Kind: chain.Deferred, Concern: chain.AboutHop, About: "s"}, want: "retry", next: 5 * time.Second},
		{name: "deferred hop, old", fate: chain.Fate{Kind: chain.Deferred, Concern: chain.AboutHop, About: "s"}, change: []func(*spool.Accepted){old}, want: "retry", next: 5 * time.Second},
		{name: "refused hop", fate: chain.Fate{Kind: chain.Refused, Concern: chain.AboutHop, About: "s"}, want: "park"},
		{name: "refused route, old", fate: chain.Fate{Kind: chain.Refused, Concern: chain.AboutRoute, About: "provider"}, change: []func(*spool.Accepted){old}, want: "park"},
		{name: "refused recipient", fate: chain.Fate{Kind: chain.Refused, Concern: chain.AboutRecipient}, want: "retry", next: time.Second},
		{name: "refused recipient, old", fate: chain.Fate{Kind: chain.Refused, Concern: chain.AboutRecipient}, change: []func(*spool.Accepted){old}, want: "retry", next: time.Second},
		{name: "unknown recipient", fate: chain.Fate{Kind: chain.Unknown, Concern: chain.AboutRecipient}, want: "retry", next: time.Minute},
		{name: "unknown recipient, old", fate: chain.Fate{Kind: chain.Unknown, Concern: chain.AboutRecipient}, change: []func(*spool.Accepted){old}, want: "reported", dsn: true},
		{name: "unknown hop", fate: chain.Fate{Kind: chain.Unknown, Concern: chain.AboutHop, About: chain.EgressHop}, want: "park"},
		{name: "unknown hop, old", fate: chain.Fate{Kind: chain.Unknown, Concern: chain.AboutHop, About: chain.EgressHop}, change: []func(*spool.Accepted){old}, want: "park"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				h := newHouse(t, settings(use("s", "defer")))
				h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
					if p.Envelope.ReversePath.IsNull() && p.ID != "m" { // a report
						deliver(ctx, p, s)
						return
					}
					answer(c.fate)(ctx, p, s)
				})
				a := letter("m", 1)
				for _, f := range c.change {
					f(a)
				}
				before := time.Now()
				h.accept(a)
				h.pass(50 * time.Millisecond)
				h.expect("m", c.want)
				if c.next > 0 {
					if got := h.log.wait("m", "1").Next.Sub(before).Round(10 * time.Millisecond).Truncate(100 * time.Millisecond); got != c.next {
						t.Errorf("next after %v, want %v", got, c.next)
					}
				}
				reports := h.log.reports("m")
				if c.dsn != (len(reports) == 1) {
					t.Errorf("%d reports, want one: %t", len(reports), c.dsn)
				}
				for _, r := range reports {
					h.expect(r.ID, "delivered")
					if !r.Envelope.ReversePath.IsNull() || r.Envelope.Origin.Relay != "self" || r.Envelope.Recipients[0].Address != sender {
						t.Errorf("envelope of the report: %+v", r.Envelope)
					}
				}
				h.finish()
			})
		})
	}
}

// A report that fails is not reported: no circle, no backscatter.
func TestFailedReportIsDiscarded(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(answer(chain.Fate{Kind: chain.Rejected, Concern: chain.AboutRecipient, Reply: &mail.Reply{Code: 550, Text: "no"}}))
		h.send("m", 2)
		h.pass(time.Hour)
		h.expect("m", "reported", "reported")
		dsn := h.log.reports("m")
		if len(dsn) != 1 {
			t.Fatalf("%d reports for two failures that came together", len(dsn))
		}
		h.expect(dsn[0].ID, "discarded")
		if n := len(h.log.order); n != 2 {
			t.Errorf("%d messages in the log, want 2", n)
		}
		h.finish()
	})
}

func TestReportThatNoChainTakes(t *testing.T) {
	in(t, func(t *testing.T) {
		cfg := settings()
		cfg.Chains = cfg.Chains[:1] // nothing leads to example.com any more
		h := newHouse(t, cfg)
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			s.Fate(chain.Fate{Recipient: "1", Kind: chain.Rejected, Concern: chain.AboutRecipient, Reply: &mail.Reply{Code: 550, Text: "no"}})
			s.Fate(chain.Fate{Recipient: "2", Kind: chain.Delivered})
		})
		h.send("m", 2)
		h.pass(time.Second)
		h.expect("m", "dead", "delivered")
		if w := h.log.wait("m", "1"); !strings.Contains(w.Last.Reason, "no chain") {
			t.Errorf("reason %q", w.Last.Reason)
		}
		h.finish()
	})
}

// Fates of one transaction that come together are one entry; recipients of whom the same is said share a group.
func TestGrouping(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			for i, id := range p.Pending {
				switch i % 3 {
				case 0:
					s.Fate(chain.Fate{Recipient: id, Kind: chain.Delivered, Host: "mx"})
				case 1:
					s.Fate(chain.Fate{Recipient: id, Kind: chain.Deferred, Concern: chain.AboutRecipient, Reply: &mail.Reply{Code: 450, Text: "busy"}})
				case 2:
					s.Fate(chain.Fate{Recipient: id, Kind: chain.Rejected, Concern: chain.AboutRecipient, Reply: &mail.Reply{Code: 550, Text: "no"}})
				}
			}
		})
		h.send("m", 30)
		h.pass(time.Second)
		h.expect("m", "delivered", "retry", "reported", "delivered", "retry", "reported")
		if g := h.log.message("m").Groups; len(g) != 1 || len(g[0].Recipients) != 10 {
			t.Errorf("%d groups", len(g))
		}
		if dsn := h.log.reports("m"); len(dsn) != 1 {
			t.Errorf("%d reports, want one for those that failed together", len(dsn))
		}
		h.finish()
	})
}

// A thousand rejections with long answers fit into records, and nobody is forgotten.
func TestCrowdOfFailures(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			if p.ID != "m" {
				deliver(ctx, p, s)
				return
			}
			for _, id := range p.Pending {
				s.Fate(chain.Fate{Recipient: id, Kind: chain.Rejected, Concern: chain.AboutRecipient, Host: "mx.example.net",
					Reply: &mail.Reply{Code: 550, Enhanced: "5.1.1", Text: strings.Repeat("ü "+string(id)+" ", 20000)}})
			}
		})
		h.send("m", 1000)
		h.pass(time.Minute)
		seen := map[string]int{}
		for _, k := range h.log.ends["m"] {
			seen[string(k)]++
		}
		if seen["reported"] != 1000 || len(seen) != 1 {
			t.Errorf("ends: %v", seen)
		}
		h.finish()
	})
}

// An entry that is too large is divided until it fits; the last resort is to run hops again.
func TestTooLargeIsDivided(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("s", "defer")))
		h.log.refuse = func(s *spool.Settled) error {
			n := len(s.Ends)
			for _, w := range s.Waits {
				n += 1 + 3*len(w.Done)
			}
			if n > 2 {
				return errors.Join(errors.New("test"), spool.ErrTooLarge)
			}
			return nil
		}
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			for i, id := range p.Pending {
				if i%2 == 0 {
					s.Fate(chain.Fate{Recipient: id, Kind: chain.Delivered, Host: "mx" + string(id)})
				} else {
					s.Fate(chain.Fate{Recipient: id, Kind: chain.Deferred, Concern: chain.AboutRecipient, Reason: string(id)})
				}
			}
		})
		h.send("m", 6)
		h.pass(time.Second)
		h.expect("m", "delivered", "retry", "delivered", "retry", "delivered", "retry")
		if w := h.log.wait("m", "2"); len(w.Done) != 0 {
			t.Errorf("hops done: %v", w.Done)
		}
		h.finish()
	})
}

func TestOpenMarkThenFate(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("s", "defer")))
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			s.Fate(chain.Fate{Recipient: "1", Kind: chain.Delivered})
			time.Sleep(time.Minute)
			s.Fate(chain.Fate{Recipient: "2", Kind: chain.Delivered})
			time.Sleep(time.Minute)
			s.Fate(chain.Fate{Recipient: "3", Kind: chain.Deferred, Concern: chain.AboutRecipient})
		})
		h.send("m", 3)
		h.pass(14 * time.Second)
		h.expect("m", "delivered", "running", "running")
		h.pass(2 * time.Second)
		h.expect("m", "delivered", "retry", "retry")
		if w := h.log.wait("m", "2"); !w.Open || len(w.Done) != 1 || w.Attempts != 0 {
			t.Errorf("%+v", w)
		}
		if n, err := h.d.Retry(t.Context(), "m", anna); n.Recipients != 0 || n.Reason != underWay || err != nil { // what is under way cannot be woken
			t.Errorf("%+v, %v", n, err)
		}
		h.pass(time.Minute)
		h.expect("m", "delivered", "delivered", "retry")
		if h.egress.count("m") != 1 {
			t.Errorf("it ran %d times", h.egress.count("m"))
		}
		h.egress.set(deliver)
		h.pass(3 * time.Minute)
		h.expect("m", "delivered", "delivered", "delivered")
		if h.times("s") != 1 {
			t.Errorf("the stage ran %d times", h.times("s"))
		}
		h.finish()
	})
}

// Unknown with leave for the dot: no sooner than 15 s after it, whoever asks; without leave at once.
func TestUnknownAndLeave(t *testing.T) {
	for _, leave := range []bool{false, true} {
		in(t, func(t *testing.T) {
			h := newHouse(t, settings())
			h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
				if leave {
					if err := s.Ready(ctx, p.Pending); err != nil {
						t.Error(err)
					}
				}
				answer(chain.Fate{Kind: chain.Unknown, Concern: chain.AboutHop, About: chain.EgressHop})(ctx, p, s)
			})
			begin := time.Now()
			h.send("m", 1)
			h.pass(100 * time.Millisecond)
			h.expect("m", "park")
			h.egress.set(deliver)
			if _, err := h.d.Retry(t.Context(), "m", anna); err != nil {
				t.Fatal(err)
			}
			h.pass(time.Minute)
			h.expect("m", "delivered")
			took := h.egress.times[1].Sub(begin)
			if leave && took < 15*time.Second || !leave && took > 2*time.Second {
				t.Errorf("leave %t: tried again after %v", leave, took)
			}
			h.finish()
		})
	}
}

func TestNoLeaveWhileTheLeaseIsUncertain(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		h.log.uncertain = true
		h.send("m", 1)
		h.pass(time.Hour)
		h.expect("m", "retry")
		if n := h.egress.count("m"); n != 1 {
			t.Errorf("%d runs were started without a lease", n-1)
		}
		h.log.mu.Lock()
		h.log.uncertain = false
		h.log.mu.Unlock()
		h.pass(time.Minute)
		h.expect("m", "delivered")
		h.finish()
	})
}

// Recipients that a stage treats differently go to different rooms, each with the hops that it has behind it.
func TestForksToDifferentRooms(t *testing.T) {
	in(t, func(t *testing.T) {
		h := newHouse(t, settings(use("fork", "defer"), use("sign", "defer")))
		h.set("fork", forkAll)
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			answer(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient})(ctx, p, s)
		})
		h.send("m", 6)
		h.pass(time.Second)
		h.expect("m", "retry", "retry", "quarantine", "reported", "discarded", "retry")
		for id, want := range map[mail.RecipientID]int{"1": 2, "2": 2, "3": 0, "6": 0} {
			if got := len(h.log.wait("m", id).Done); got != want {
				t.Errorf("recipient %s has %d hops behind it, want %d", id, got, want)
			}
		}
		if a, b := h.log.wait("m", "1").Done[0].Edits, h.log.wait("m", "2").Done[0].Edits; a.Empty() || !b.Empty() {
			t.Errorf("edits: %v, %v", a, b)
		}
		// On waking the edits are there, and only who deferred by itself meets the stage again.
		var bodies []string
		h.egress.set(func(ctx context.Context, p *chain.Parcel, s chain.Sink) {
			b, err := mail.ReadAll(p.Content)
			if err != nil {
				t.Error(err)
			}
			if p.ID == "m" {
				h.mu.Lock()
				bodies = append(bodies, string(p.Pending[0])+":"+string(b[:4]))
				h.mu.Unlock()
			}
			deliver(ctx, p, s)
		})
		h.set("fork", nil)
		h.pass(2 * time.Minute)
		h.expect("m", "delivered", "delivered", "quarantine", "reported", "discarded", "delivered")
		want := map[string]bool{"1:X-A:": true, "2:From": true, "6:From": true}
		for _, b := range bodies {
			if !want[b] {
				t.Errorf("delivered %q", b)
			}
			delete(want, b)
		}
		if len(want) > 0 || h.times("fork") != 2 || h.times("sign") != 3 {
			t.Errorf("missing %v; fork ran %d times, sign %d", want, h.times("fork"), h.times("sign"))
		}
		h.finish()
	})
}
