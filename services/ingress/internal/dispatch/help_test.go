package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// carrier is an egress that does what it is told.
type carrier struct {
	mu    sync.Mutex
	do    func(ctx context.Context, p *chain.Parcel, s chain.Sink)
	runs  map[string]int
	now   int
	most  int
	times []time.Time
}

func (c *carrier) Carry(ctx context.Context, p *chain.Parcel, s chain.Sink) {
	c.mu.Lock()
	c.runs[p.ID]++
	c.now++
	c.most = max(c.most, c.now)
	c.times = append(c.times, time.Now())
	do := c.do
	c.mu.Unlock()
	do(ctx, p, s)
	c.mu.Lock()
	c.now--
	c.mu.Unlock()
}

func (c *carrier) set(do func(ctx context.Context, p *chain.Parcel, s chain.Sink)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.do = do
}

func (c *carrier) count(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.runs[id]
}

func (c *carrier) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, m := range c.runs {
		n += m
	}
	return n
}

// deliver gives the dot, with leave, and delivers.
func deliver(ctx context.Context, p *chain.Parcel, s chain.Sink) {
	if s.Ready(ctx, p.Pending) != nil {
		answer(chain.Fate{Kind: chain.Refused, Concern: chain.AboutRecipient, Reason: "no leave"})(ctx, p, s)
		return
	}
	answer(chain.Fate{Kind: chain.Delivered, Concern: chain.AboutRecipient, Host: "mx.example.net"})(ctx, p, s)
}

func answer(f chain.Fate) func(context.Context, *chain.Parcel, chain.Sink) {
	return func(_ context.Context, p *chain.Parcel, s chain.Sink) {
		f := f // several runs at once
		for _, id := range p.Pending {
			f.Recipient = id
			s.Fate(f)
		}
	}
}

// house is a dispatcher with everything around it.
type house struct {
	t      *testing.T
	log    *memory
	egress *carrier
	policy *policy.Policy
	stages *chain.Stages
	do     map[string]stage.Func
	judged map[string][]string // by stage: the ids that it judged
	mu     sync.Mutex
	opts   Options
	d      *Dispatcher
	stop   context.CancelFunc
	over   chan struct{}

	stopped map[string]time.Time // routes that are paused, and since when
}

// anna is a person.
var anna = Order{By: "anna"}

func (h *house) pausedSince(route string) (time.Time, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, ok := h.stopped[route]
	return at, ok
}

func (h *house) pauseRoute(name string) {
	h.mu.Lock()
	h.stopped[name] = time.Now()
	h.mu.Unlock()
	h.d.RoutesChanged()
}

func (h *house) resumeRoute(name string) {
	h.mu.Lock()
	delete(h.stopped, name)
	h.mu.Unlock()
	h.d.RoutesChanged()
}

// use is a stage of a chain.
func use(name, onError string) config.Use {
	return config.Use{Stage: &config.Stage{Name: name, Type: "test", Hash: "h-" + name}, OnError: onError}
}

// settings is a configuration with the chain "out" for mail to elsewhere.
func settings(uses ...config.Use) *config.Config {
	c := &config.Config{Hostname: "relay.example.com", Postmaster: mail.Address{Local: "it", Domain: "example.com"}, Revision: "r1",
		Domains: []config.Domain{{Name: "example.com", Any: true}}, Stages: map[string]*config.Stage{},
		Routes: map[string]*config.Route{"provider": {Name: "provider", Hash: "p"}, "exchange": {Name: "exchange", Hash: "e"}},
		Chains: []*config.Chain{
			{Name: "out", Match: config.Match{Direction: []mail.Direction{mail.Outbound}}, Stages: uses, Deliver: "provider"},
			{Name: "in", Match: config.Match{Direction: []mail.Direction{mail.Inbound, mail.Internal}}, Deliver: "exchange"},
		}}
	for _, u := range uses {
		c.Stages[u.Stage.Name] = u.Stage
	}
	return c
}

func newHouse(t *testing.T, cfg *config.Config, change ...func(*Options)) *house {
	t.Helper()
	p, err := policy.New(cfg, policy.Options{Logger: slog.New(slog.DiscardHandler), Now: time.Now, Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, log: newMemory(t), policy: p, egress: &carrier{do: deliver, runs: map[string]int{}}, do: map[string]stage.Func{}, judged: map[string][]string{}, stopped: map[string]time.Time{},
		stages: chain.NewStages(time.Hour, slog.New(slog.DiscardHandler), time.Now)}
	h.equip(cfg)
	h.opts = Options{Log: h.log, Policy: p, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		Runner: &chain.Runner{Stages: h.stages, Egress: h.egress, Logger: slog.New(slog.DiscardHandler), Now: time.Now}}
	h.opts.RoutePaused = func(name string) bool { _, ok := h.pausedSince(name); return ok }
	for _, c := range change {
		c(&h.opts)
	}
	h.begin(nil)
	return h
}

// equip runs the stages of cfg.
func (h *house) equip(cfg *config.Config) {
	h.t.Helper()
	var in []chain.Instance
	for _, s := range cfg.Stages {
		in = append(in, chain.Instance{Name: s.Name, Hash: s.Hash, Type: s.Type,
			Traits: stage.Traits{ReadsBody: true, EditsHeader: true, EditsBody: true, EditsEnvelope: true},
			New: func() (stage.Stage, error) {
				return stage.Func(func(ctx context.Context, m *mail.Message) (stage.Result, error) {
					h.mu.Lock()
					h.judged[s.Name] = append(h.judged[s.Name], m.ID)
					do := h.do[s.Name]
					h.mu.Unlock()
					if do == nil {
						return stage.Result{}, nil
					}
					return do(ctx, m)
				}), nil
			}})
	}
	if err := h.stages.Replace(in); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) reconfigure(cfg *config.Config) {
	h.t.Helper()
	h.equip(cfg)
	if err := h.policy.Update(cfg); err != nil {
		h.t.Fatal(err)
	}
	h.d.ConfigChanged()
	synctest.Wait()
}

func (h *house) set(name string, do stage.Func) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.do[name] = do
}

func (h *house) times(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.judged[name])
}

func (h *house) begin(run []*spool.Accepted) {
	h.d = New(h.opts)
	ctx, stop := context.WithCancel(context.Background())
	h.stop, h.over = stop, make(chan struct{})
	d, over := h.d, h.over
	go func() { defer close(over); d.Run(ctx) }()
	h.d.Recover(run)
}

// crash loses the shard, and everything in memory; takeOver starts again from the log.
func (h *house) crash() {
	h.log.lose()
	h.end(0)
}

func (h *house) takeOver(unknown time.Duration) {
	at := time.Time{}
	if unknown > 0 {
		at = time.Now().Add(unknown)
	}
	h.opts.NotBefore = at
	h.begin(h.log.reopen(at))
}

// end stops the dispatcher in good order, if grace is enough.
func (h *house) end(grace time.Duration) bool {
	h.stop()
	<-h.over
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	return h.d.Close(ctx)
}

// finish checks that nothing is left behind.
func (h *house) finish() {
	h.t.Helper()
	h.end(10 * time.Minute)
	time.Sleep(10 * time.Minute) // what timers are left
	if n := len(h.d.slots); n != 0 {
		h.t.Errorf("%d slots are still taken", n)
	}
}

// pass lets time go by, and everything settle.
func (h *house) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var sender = mail.Address{Local: "anna", Domain: "example.com"}

// letter is a message of sender to n recipients elsewhere.
func letter(id string, n int) *spool.Accepted {
	raw := []byte("From: <anna@example.com>\r\nSubject: Hello\r\nMessage-ID: <" + id + "@example.com>\r\n\r\nHello\r\n")
	a := &spool.Accepted{ID: id, Received: time.Now(), Body: spool.Body{Inline: raw, Size: int64(len(raw))},
		Envelope: mail.Envelope{ReversePath: sender, Origin: mail.Origin{Relay: "staff"}}, Starts: []spool.Start{{Chain: "out"}}}
	for i := range n {
		to := mail.RecipientID(fmt.Sprint(i + 1))
		a.Envelope.Recipients = append(a.Envelope.Recipients, mail.Recipient{ID: to, Address: mail.Address{Local: "r" + string(to), Domain: "example.net"}})
		a.Starts[0].Recipients = append(a.Starts[0].Recipients, to)
	}
	return a
}

func (h *house) accept(a *spool.Accepted) {
	h.t.Helper()
	if err := h.d.Accept(context.Background(), a, mail.FromBytes(a.Body.Inline), nil, nil); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) send(id string, n int) {
	h.t.Helper()
	h.accept(letter(id, n))
}

func (h *house) expect(id string, want ...string) {
	h.t.Helper()
	for i, w := range want {
		to := mail.RecipientID(fmt.Sprint(i + 1))
		if got := h.log.where(id, to); got != w {
			h.t.Errorf("%s/%s: %s, want %s", id, to, got, w)
		}
	}
}

// in runs f in a bubble with a clock of its own.
func in(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// forkAll gives each of six recipients another verdict.
func forkAll(_ context.Context, m *mail.Message) (stage.Result, error) {
	fork := func(id mail.RecipientID, b stage.Branch) stage.Fork {
		return stage.Fork{To: []mail.RecipientID{id}, Branch: b}
	}
	return stage.Result{Forks: []stage.Fork{
		fork("1", stage.Branch{Edits: mail.Edits{Splices: []mail.Splice{{Insert: []byte("X-A: 1\r\n")}}}}),
		fork("3", stage.Branch{Verdict: stage.Quarantine("odd")}),
		fork("4", stage.Branch{Verdict: stage.Reject(mail.Reply{Code: 550, Enhanced: "5.7.1", Text: "no"})}),
		fork("5", stage.Branch{Verdict: stage.Discard("rule")}),
		fork("6", stage.Branch{Verdict: stage.Defer(mail.Reply{Code: 451, Text: "later"}, 0)}),
	}}, nil
}
