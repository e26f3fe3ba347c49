package dispatch

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

// counted is a Content that knows how often it is held.
type counted struct {
	mail.Content
	n atomic.Int64
}

func (c *counted) Retain() mail.Content { c.n.Add(1); return c }
func (c *counted) Release()             { c.n.Add(-1) }

func always(v stage.Verdict) stage.Func {
	return func(context.Context, *mail.Message) (stage.Result, error) {
		return stage.Result{Branch: stage.Branch{Verdict: v}}, nil
	}
}

func failing(err error) stage.Func {
	return func(context.Context, *mail.Message) (stage.Result, error) { return stage.Result{}, err }
}

func TestInline(t *testing.T) {
	inline := func(name, onError string) config.Use {
		u := use(name, onError)
		u.Inline = true
		return u
	}
	shadow := func(u config.Use) config.Use { u.Shadow = true; return u }
	reject := always(stage.Reject(mail.Reply{Code: 550, Enhanced: "5.7.1", Text: "no"}))
	for _, c := range []struct {
		name   string
		chain  []config.Use
		do     map[string]stage.Func
		gone   bool // the stages are not there
		cancel bool
		code   int // of the reply; 0: accepted
		want   []string
		runs   map[string]int
	}{
		{name: "continue", chain: []config.Use{inline("a", "defer"), use("b", "defer")}, want: []string{"delivered", "delivered"}, runs: map[string]int{"a": 1, "b": 1}},
		{name: "defer", chain: []config.Use{inline("a", "defer")}, do: map[string]stage.Func{"a": always(stage.Defer(mail.Reply{Code: 450, Text: "later"}, 0))}, code: 450},
		{name: "reject", chain: []config.Use{inline("a", "defer")}, do: map[string]stage.Func{"a": reject}, code: 550},
		{name: "quarantine", chain: []config.Use{inline("a", "defer")}, do: map[string]stage.Func{"a": always(stage.Quarantine("odd"))}, want: []string{"quarantine", "quarantine"}},
		{name: "discard", chain: []config.Use{inline("a", "defer")}, do: map[string]stage.Func{"a": always(stage.Discard("rule"))}, want: []string{"discarded", "discarded"}},
		{name: "error, defer", chain: []config.Use{inline("a", "defer")}, do: map[string]stage.Func{"a": failing(errors.New("x"))}, code: 451},
		{name: "error with a reply", chain: []config.Use{inline("a", "defer")}, do: map[string]stage.Func{"a": failing(&mail.Reply{Code: 452, Text: "full"})}, code: 452},
		{name: "error with a reply that is no deferral", chain: []config.Use{inline("a", "defer")}, do: map[string]stage.Func{"a": failing(&mail.Reply{Code: 550, Text: "no"})}, code: 451},
		{name: "error, skip", chain: []config.Use{inline("a", "skip"), use("b", "defer")}, do: map[string]stage.Func{"a": failing(errors.New("x"))}, want: []string{"delivered", "delivered"}, runs: map[string]int{"a": 1, "b": 1}},
		{name: "error, quarantine", chain: []config.Use{inline("a", "quarantine")}, do: map[string]stage.Func{"a": failing(errors.New("x"))}, want: []string{"quarantine", "quarantine"}},
		{name: "panic, defer", chain: []config.Use{inline("a", "defer")}, do: map[string]stage.Func{"a": func(context.Context, *mail.Message) (stage.Result, error) { panic("x") }}, code: 451},
		{name: "not here, skip", chain: []config.Use{inline("a", "skip")}, gone: true, code: 451},
		{name: "interrupted, skip", chain: []config.Use{inline("a", "skip")}, cancel: true, do: map[string]stage.Func{"a": func(ctx context.Context, _ *mail.Message) (stage.Result, error) {
			return stage.Result{}, ctx.Err()
		}}, code: 451},
		{name: "shadow", chain: []config.Use{shadow(inline("a", "defer"))}, do: map[string]stage.Func{"a": reject}, want: []string{"delivered", "delivered"}, runs: map[string]int{"a": 1}},
		{name: "shadow fails", chain: []config.Use{shadow(inline("a", "defer"))}, do: map[string]stage.Func{"a": failing(errors.New("x"))}, want: []string{"delivered", "delivered"}},
		{name: "mixed", chain: []config.Use{inline("fork", "defer"), use("b", "defer")}, do: map[string]stage.Func{"fork": func(ctx context.Context, m *mail.Message) (stage.Result, error) {
			r, err := forkAll(ctx, m)
			r.Forks = r.Forks[:4] // without the one that defers
			return r, err
		}}, want: []string{"delivered", "delivered", "quarantine", "reported", "discarded", "delivered"}, runs: map[string]int{"fork": 1, "b": 2}},
		{name: "mixed, one defers", chain: []config.Use{inline("fork", "defer")}, do: map[string]stage.Func{"fork": forkAll}, code: 451},
		{name: "rejected by two stages", chain: []config.Use{inline("a", "defer"), inline("b", "defer")}, code: 550, do: map[string]stage.Func{
			"a": func(context.Context, *mail.Message) (stage.Result, error) {
				return stage.Result{Forks: []stage.Fork{{To: []mail.RecipientID{"1"}, Branch: stage.Branch{Verdict: stage.Reject(mail.Reply{Code: 550, Text: "no"})}}}}, nil
			}, "b": reject}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				cfg := settings(c.chain...)
				h := newHouse(t, cfg)
				if c.gone {
					if err := h.stages.Replace(nil); err != nil {
						t.Fatal(err)
					}
					h.stages.Close()
				}
				for s, f := range c.do {
					h.set(s, f)
				}
				n := max(len(c.want), 2)
				if c.name == "mixed, one defers" {
					n = 6
				}
				a := letter("m", n)
				a.Starts[0].Recipients = nil
				content := &counted{Content: mail.FromBytes(a.Body.Inline)}
				m := &mail.Message{ID: a.ID, Envelope: a.Envelope, Content: content, Pending: letter("m", n).Starts[0].Recipients}
				ctx, cancel := context.WithCancel(t.Context())
				if c.cancel {
					cancel()
				}
				defer cancel()
				judged, reply := h.d.Judge(ctx, cfg, cfg.Chains[0], m)
				synctest.Wait() // a stage that was left behind holds the content until it ends
				code := 0
				if reply != nil {
					code = reply.Code
				}
				if code != c.code {
					t.Fatalf("reply %v, want code %d", reply, c.code)
				}
				if content.n.Load() != 0 {
					t.Errorf("the content is held %d times after the judging", content.n.Load())
				}
				if reply != nil {
					h.finish()
					return
				}
				a.Starts = judged.Starts(map[string][]mail.RecipientID{"out": m.Pending})
				total := 0
				for _, s := range a.Starts {
					total += len(s.Recipients)
				}
				if total != n {
					t.Errorf("%d recipients in the starts, want %d", total, n)
				}
				if err := h.d.Accept(t.Context(), a, content, judged, nil); err != nil {
					t.Fatal(err)
				}
				h.pass(time.Second)
				h.expect("m", c.want...)
				for s, n := range c.runs {
					if h.times(s) != n {
						t.Errorf("%s ran %d times, want %d", s, h.times(s), n)
					}
				}
				if content.n.Load() != 0 {
					t.Errorf("the content is held %d times in the end", content.n.Load())
				}
				h.finish()
			})
		})
	}
}

// What inline stages decided is carried out even while nothing is sent.
func TestInlineWhilePaused(t *testing.T) {
	in(t, func(t *testing.T) {
		u := use("fork", "defer")
		u.Inline = true
		cfg := settings(u)
		h := newHouse(t, cfg, func(o *Options) { o.Paused = true })
		h.set("fork", func(ctx context.Context, m *mail.Message) (stage.Result, error) {
			r, err := forkAll(ctx, m)
			r.Forks = r.Forks[:4]
			return r, err
		})
		a := letter("m", 5)
		m := &mail.Message{ID: a.ID, Envelope: a.Envelope, Content: mail.FromBytes(a.Body.Inline), Pending: a.Starts[0].Recipients}
		judged, reply := h.d.Judge(t.Context(), cfg, cfg.Chains[0], m)
		if reply != nil {
			t.Fatal(reply)
		}
		a.Starts = judged.Starts(map[string][]mail.RecipientID{"out": m.Pending})
		if err := h.d.Accept(t.Context(), a, m.Content, judged, nil); err != nil {
			t.Fatal(err)
		}
		h.pass(time.Minute)
		h.expect("m", "park", "park", "quarantine", "reported", "discarded")
		if w := h.log.wait("m", "1"); w.Room != spool.Park || len(w.Done) != 1 {
			t.Errorf("%+v", w)
		}
		h.d.Resume()
		h.pass(time.Minute)
		h.expect("m", "delivered", "delivered", "quarantine", "reported", "discarded")
		for _, dsn := range h.log.reports("m") {
			h.expect(dsn.ID, "delivered")
		}
		h.finish()
	})
}
