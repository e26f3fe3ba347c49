package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a Log in memory. Its entries survive the dispatcher; from them the next one starts.
type memory struct {
	t testing.TB

	mu       sync.Mutex
	accepted map[string]*spool.Accepted
	messages map[string]*depot.Message
	ends     map[string]map[mail.RecipientID]spool.EndKind
	order    []string // ids, as accepted
	settles  int
	view     *depot.View
	done     chan struct{}
	lost     bool

	uncertain bool                                        // the lease
	slow      time.Duration                               // of each Settle
	damage    map[string]error                            // by id, of Content
	refuse    func(s *spool.Settled) error                // before it is entered
	cut       func(s *spool.Settled) (in bool, stop bool) // the shard is lost at this settlement, which is in the log or is not
	onSettle  func(s *spool.Settled)
}

func newMemory(t testing.TB) *memory {
	return &memory{t: t, accepted: map[string]*spool.Accepted{}, messages: map[string]*depot.Message{}, ends: map[string]map[mail.RecipientID]spool.EndKind{},
		view: depot.NewView(), done: make(chan struct{}), damage: map[string]error{}}
}

var errLost = errors.New("the shard is lost")

func (l *memory) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.lost {
		l.lost = true
		close(l.done)
	}
}

// reopen is the log as its next owner finds it.
func (l *memory) reopen(notBefore time.Time) (run []*spool.Accepted) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost, l.done, l.view = false, make(chan struct{}), depot.NewView()
	for _, id := range l.order {
		m := l.messages[id].TakeOver(notBefore)
		l.messages[id] = m
		if len(m.Running) > 0 {
			a := *l.accepted[id]
			a.Starts, a.Body.Inline = m.Running, nil
			run = append(run, &a)
		}
		if len(m.Groups) > 0 {
			l.view.Put(m.Trim())
		}
	}
	return run
}

func (l *memory) enter(a *spool.Accepted) {
	if l.accepted[a.ID] != nil {
		l.t.Errorf("%s was accepted twice", a.ID)
	}
	l.accepted[a.ID] = a
	l.order = append(l.order, a.ID)
	l.ends[a.ID] = map[mail.RecipientID]spool.EndKind{}
	l.messages[a.ID] = &depot.Message{ID: a.ID, Received: a.Received, Envelope: a.Envelope, Reports: a.Reports, Body: spool.Body{Size: a.Body.Size}, Running: a.Starts}
}

func (l *memory) Accept(_ context.Context, a *spool.Accepted) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return errLost
	}
	l.enter(a)
	return nil
}

// Settle checks what the real log checks, and that nothing ends twice.
func (l *memory) Settle(_ context.Context, s *spool.Settled, reports ...*spool.Accepted) error {
	if l.slow > 0 {
		time.Sleep(l.slow)
	}
	if l.onSettle != nil {
		l.onSettle(s)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return errLost
	}
	if l.refuse != nil {
		if err := l.refuse(s); err != nil {
			return err
		}
	}
	if l.cut != nil {
		if in, stop := l.cut(s); stop {
			l.lost = true
			close(l.done)
			if !in {
				return errLost
			}
			l.apply(s, reports)
			return errLost
		}
	}
	l.apply(s, reports)
	return nil
}

func (l *memory) apply(s *spool.Settled, reports []*spool.Accepted) {
	l.settles++
	m := l.messages[s.ID]
	if m == nil {
		l.t.Errorf("settled %s, which is unknown", s.ID)
		return
	}
	if len(s.Ends)+len(s.Waits) == 0 {
		l.t.Errorf("settled %s: says nothing", s.ID)
	}
	seen := map[mail.RecipientID]bool{}
	once := func(ids []mail.RecipientID) {
		if len(ids) == 0 {
			l.t.Errorf("settled %s: an entry for nobody", s.ID)
		}
		for _, id := range ids {
			if kind, over := l.ends[s.ID][id]; seen[id] || over {
				l.t.Errorf("settled %s/%s again (it ended as %q)", s.ID, id, kind)
			}
			seen[id] = true
		}
	}
	for _, e := range s.Ends {
		once(e.Recipients)
		for _, id := range e.Recipients {
			l.ends[s.ID][id] = e.Kind
		}
	}
	for i := range s.Waits {
		w := &s.Waits[i]
		once(w.Recipients)
		if w.Trimmed() || !w.Room.Valid() {
			l.t.Errorf("settled %s: room %q, trimmed %t", s.ID, w.Room, w.Trimmed())
		}
		if w.Room == spool.Retry && w.Next.IsZero() || w.Since.IsZero() {
			l.t.Errorf("settled %s: waits in %s since %v for %v", s.ID, w.Room, w.Since, w.Next)
		}
	}
	next, _, changed := m.Settle(m.Seq+1, s.Ends, s.Waits)
	l.messages[s.ID] = next
	l.view.Put(next.Trim(), changed...)
	for _, a := range reports {
		if len(a.Body.Inline) > spool.InlineLimit {
			l.t.Errorf("a report of %d bytes", len(a.Body.Inline))
		}
		l.enter(a)
	}
}

func (l *memory) Load(_ context.Context, id string) (*depot.Message, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return nil, errLost
	}
	m := l.messages[id]
	if m == nil || m.Over() {
		return nil, spool.ErrUnknownMessage
	}
	return m, nil
}

func (l *memory) Content(_ context.Context, id string, _ spool.Body) (mail.Content, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.damage[id]; err != nil {
		return nil, err
	}
	return mail.FromBytes(l.accepted[id].Body.Inline), nil
}

func (l *memory) Waiting() *depot.View {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.view
}

func (l *memory) MayGo() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.lost && !l.uncertain
}

func (l *memory) Trail(*spool.Event) {}

func (l *memory) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

func (l *memory) message(id string) *depot.Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.messages[id]
}

// where tells the place of a recipient: "running", its room, or its end.
func (l *memory) where(id string, to mail.RecipientID) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if kind, ok := l.ends[id][to]; ok {
		return string(kind)
	}
	for _, w := range l.messages[id].Groups {
		if slices.Contains(w.Recipients, to) {
			return string(w.Room)
		}
	}
	return "running"
}

func (l *memory) wait(id string, to mail.RecipientID) spool.Wait {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.messages[id].Groups {
		if slices.Contains(w.Recipients, to) {
			return w
		}
	}
	l.t.Fatalf("%s/%s does not wait", id, to)
	return spool.Wait{}
}

// reports are the DSNs about id.
func (l *memory) reports(id string) []*spool.Accepted {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*spool.Accepted
	for _, a := range l.accepted {
		if a.Reports == id {
			out = append(out, a)
		}
	}
	return out
}

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
	h := &house{t: t, log: newMemory(t), policy: p, egress: &carrier{do: deliver, runs: map[string]int{}}, do: map[string]stage.Func{}, judged: map[string][]string{},
		stages: chain.NewStages(time.Hour, slog.New(slog.DiscardHandler), time.Now)}
	h.equip(cfg)
	h.opts = Options{Log: h.log, Policy: p, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		Runner: &chain.Runner{Stages: h.stages, Egress: h.egress, Logger: slog.New(slog.DiscardHandler), Now: time.Now}}
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

func keys[M ~map[K]V, K ~string, V any](m M) []K { return slices.Sorted(maps.Keys(m)) }

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
