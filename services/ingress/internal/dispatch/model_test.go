package dispatch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

// world gives random fates, and counts the copies that got out.
type world struct {
	mu      sync.Mutex
	rnd     *rand.Rand
	calm    bool // from now on everything goes well
	copies  map[string]int
	excuses map[string]int // unknown outcomes, each of which may cost a second copy
	h       *house
	against []string // leave that was given although the route was paused
}

// leave asks for leave, which nobody gets for a route that is paused since a while.
func (w *world) leave(ctx context.Context, p *chain.Parcel, s chain.Sink, id mail.RecipientID) bool {
	if s.Ready(ctx, []mail.RecipientID{id}) != nil {
		return false
	}
	if at, paused := w.h.pausedSince(p.Slip.Route.Name); paused && time.Now().After(at) {
		w.mu.Lock()
		w.against = append(w.against, p.ID+"/"+string(id))
		w.mu.Unlock()
	}
	return true
}

func (w *world) n(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rnd.IntN(n)
}

func (w *world) isCalm() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calm
}

func (w *world) note(m map[string]int, p *chain.Parcel, id mail.RecipientID) {
	w.mu.Lock()
	m[p.ID+"/"+string(id)]++
	w.mu.Unlock()
}

func (w *world) carry(ctx context.Context, p *chain.Parcel, s chain.Sink) {
	if w.isCalm() {
		for _, id := range p.Pending {
			if !w.leave(ctx, p, s, id) {
				s.Fate(chain.Fate{Recipient: id, Kind: chain.Refused, Concern: chain.AboutRecipient})
				continue
			}
			w.note(w.copies, p, id)
			s.Fate(chain.Fate{Recipient: id, Kind: chain.Delivered})
		}
		return
	}
	pause := func(d time.Duration) (gone bool) {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return false
		case <-ctx.Done():
			return true
		}
	}
	if w.n(8) == 0 {
		f := chain.Fate{Kind: chain.Refused, Concern: chain.AboutRoute, About: "provider"}
		if w.n(2) == 0 {
			f = chain.Fate{Kind: chain.Unknown, Concern: chain.AboutHop, About: chain.EgressHop}
		}
		answer(f)(ctx, p, s)
		return
	}
	for _, id := range p.Pending {
		if pause(time.Duration([]int{0, 1, 5, 300, 20_000}[w.n(5)]) * time.Millisecond) {
			s.Fate(chain.Fate{Recipient: id, Kind: chain.Refused, Concern: chain.AboutRecipient})
			continue
		}
		f := chain.Fate{Recipient: id, Concern: chain.AboutRecipient, Reply: &mail.Reply{Code: 450, Text: "later"}}
		switch w.n(8) {
		case 0:
			f.Kind = chain.Deferred
		case 1:
			f.Kind, f.Concern, f.About = chain.Deferred, chain.AboutDestination, "example.net"
		case 2:
			f.Kind, f.Reply = chain.Rejected, &mail.Reply{Code: 550, Text: "no"}
		case 3:
			f.Kind, f.Concern, f.About = chain.Deferred, chain.AboutRoute, "provider"
		default:
			if !w.leave(ctx, p, s, id) {
				f.Kind = chain.Refused
				break
			}
			lost := w.n(3) == 0
			if !lost || w.n(2) == 0 {
				w.note(w.copies, p, id)
			}
			if f.Kind = chain.Delivered; lost {
				f.Kind = chain.Unknown
				w.note(w.excuses, p, id)
				if w.n(2) == 0 {
					f.Concern, f.About = chain.AboutHop, chain.EgressHop
				}
			}
		}
		s.Fate(f)
	}
}

func (w *world) judge(_ context.Context, m *mail.Message) (stage.Result, error) {
	if w.isCalm() {
		return stage.Result{}, nil
	}
	switch w.n(10) {
	case 0:
		return stage.Result{}, errors.New("the stage fails")
	case 1:
		panic("the stage breaks")
	}
	var res stage.Result
	for _, id := range m.Pending {
		b := stage.Branch{}
		switch w.n(12) {
		case 0:
			b.Verdict = stage.Reject(mail.Reply{Code: 550, Text: "no"})
		case 1:
			b.Verdict = stage.Defer(mail.Reply{Code: 450, Text: "later"}, 0)
		case 2:
			b.Verdict = stage.Quarantine("odd")
		case 3:
			b.Verdict = stage.Discard("rule")
		case 4, 5:
			b.Edits.Splices = []mail.Splice{{Insert: []byte("X-To: " + string(id) + "\r\n")}}
		default:
			continue
		}
		res.Forks = append(res.Forks, stage.Fork{To: []mail.RecipientID{id}, Branch: b})
	}
	return res, nil
}

// Random fates, persons, configurations and crashes: no recipient is lost, and none ends twice.
func TestModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			in(t, func(t *testing.T) { model(t, seed) })
		})
	}
}

func model(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	w := &world{rnd: rand.New(rand.NewPCG(seed, 8)), copies: map[string]int{}, excuses: map[string]int{}}
	cfgs := []*config.Config{settings(use("a", "defer"), use("b", "skip"), use("c", "quarantine")), settings(use("a", "defer"), use("c", "defer")), settings(use("b", "defer"))}
	cfgs[2].Chains[0].Name = "renamed"
	h := newHouse(t, cfgs[0], func(o *Options) { o.Woken = 4 })
	w.h = h
	for _, name := range []string{"a", "b", "c"} {
		h.set(name, w.judge)
	}
	h.egress.set(w.carry)
	crashes, sent := 0, 0
	var deleted sync.Map
	for range 150 {
		switch k := rnd.IntN(22); {
		case k < 7:
			a := letter(fmt.Sprintf("m%03d", sent), 1+rnd.IntN(4))
			if rnd.IntN(4) == 0 {
				a.Envelope.Origin.Relay = ""
			}
			if rnd.IntN(6) == 0 {
				a.Envelope.ReversePath = mail.Address{}
			}
			if !a.Envelope.Origin.Trusted() { // a stranger's mail comes to us
				for i := range a.Envelope.Recipients {
					a.Envelope.Recipients[i].Address.Domain = "example.com"
				}
				a.Starts[0].Chain = "in"
			}
			sent++
			h.accept(a)
		case k < 9 && sent > 0:
			id := fmt.Sprintf("m%03d", rnd.IntN(sent))
			var err error
			switch rnd.IntN(5) {
			case 0:
				o := anna
				o.FromStage = []string{"", "a", "b", "c"}[rnd.IntN(4)]
				_, err = h.d.Retry(t.Context(), id, o)
			case 1:
				_, err = h.d.Hold(t.Context(), id, anna)
			case 2:
				_, err = h.d.Release(t.Context(), id, anna)
			case 3:
				deleted.Store(id, true)
				_, err = h.d.Delete(t.Context(), id, anna)
			case 4:
				_, err = h.d.Bounce(t.Context(), id, anna)
			}
			if err != nil && !errors.Is(err, spool.ErrUnknownMessage) {
				t.Error(err)
			}
		case k == 9:
			h.reconfigure(cfgs[rnd.IntN(len(cfgs))])
		case k == 10:
			h.d.Pause()
		case k == 11:
			h.d.Resume()
		case k == 12:
			h.log.mu.Lock()
			h.log.uncertain = !h.log.uncertain
			h.log.mu.Unlock()
		case k == 13:
			crashes++
			h.crash()
			h.opts.Paused = rnd.IntN(4) == 0
			h.takeOver(15 * time.Second)
		case k == 14: // it dies in the middle of a settlement, which is in the log or is not
			crashes++
			after, entered := rnd.IntN(5), rnd.IntN(2) == 0
			h.log.mu.Lock()
			h.log.cut = func(*spool.Settled) (bool, bool) {
				after--
				return entered, after < 0
			}
			h.log.mu.Unlock()
			h.pass(time.Duration(rnd.IntN(30)) * time.Second)
			h.log.mu.Lock()
			h.log.cut = nil
			h.log.mu.Unlock()
			h.crash()
			h.takeOver(15 * time.Second)
		case k == 15:
			h.end(time.Duration(rnd.IntN(30)) * time.Second)
			h.takeOver(15 * time.Second)
		case k == 16:
			h.pauseRoute([]string{"provider", "exchange"}[rnd.IntN(2)])
		case k == 17:
			h.resumeRoute([]string{"provider", "exchange"}[rnd.IntN(2)])
		default:
			h.pass(time.Duration(1<<rnd.IntN(18)) * time.Millisecond)
		}
	}
	w.mu.Lock()
	w.calm = true
	w.mu.Unlock()
	h.log.mu.Lock()
	h.log.uncertain = false
	h.log.mu.Unlock()
	h.d.Resume()
	h.resumeRoute("provider")
	h.resumeRoute("exchange")
	h.pass(12 * time.Hour)
	for _, name := range w.against {
		t.Errorf("%s: leave by a paused route", name)
	}
	if down := h.d.Down(); len(down) > 0 || h.d.Running() > 0 {
		t.Errorf("still down: %v, running: %d", down, h.d.Running())
	}

	reported := map[string]int{}
	for _, a := range h.log.accepted {
		if a.Reports == "" {
			continue
		}
		for _, line := range strings.Split(string(a.Body.Inline), "\r\n") {
			if to, ok := strings.CutPrefix(line, "Final-Recipient: rfc822; r"); ok {
				id, _, _ := strings.Cut(to, "@")
				reported[a.Reports+"/"+id]++
			}
		}
	}
	for id, a := range h.log.accepted {
		for _, r := range a.Envelope.Recipients {
			at, name := h.log.where(id, r.ID), id+"/"+string(r.ID)
			switch _, gone := deleted.Load(id); at {
			case "delivered", "discarded", "quarantine", "dead":
			case "deleted":
				if !gone {
					t.Errorf("%s: deleted by nobody", name)
				}
			case "reported":
				if reported[name] != 1 {
					t.Errorf("%s: %d failure reports", name, reported[name])
				}
			default:
				t.Errorf("%s ended nowhere: %s %+v", name, at, h.log.message(id).Groups)
			}
			if at != "reported" && reported[name] > 0 {
				t.Errorf("%s: %s, and reported", name, at)
			}
			if at == "delivered" && w.copies[name] == 0 {
				t.Errorf("%s: delivered, but no copy got out", name)
			}
			if n, most := w.copies[name], 1+w.excuses[name]+crashes; n > most {
				t.Errorf("%s: %d copies, %d can be excused", name, n, most)
			}
			if a.Envelope.ReversePath.IsNull() && reported[name] > 0 || !a.Envelope.Origin.Trusted() && reported[name] > 0 {
				t.Errorf("%s: backscatter", name)
			}
		}
	}
	if n := h.log.view.Count(spool.Park) + h.log.view.Count(spool.Retry); n != 0 {
		t.Errorf("%d groups still wait", n)
	}
	h.finish()
}
