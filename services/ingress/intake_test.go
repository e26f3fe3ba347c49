package ingress

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/dispatch"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/smtpd"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The embedded server's own, which end some time after its shutdown.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine.func1"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*ipQueue[...])"),
	)
}

// sink is an egress that gives one fate to everybody, when it may.
type sink struct {
	mu   sync.Mutex
	fate chain.Fate
	hold chan struct{} // nil: at once
}

// says sets the fate of deliveries from now on.
func (e *sink) says(f chain.Fate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fate = f
}

func (e *sink) Carry(ctx context.Context, p *chain.Parcel, s chain.Sink) {
	if e.hold != nil {
		select {
		case <-e.hold:
		case <-ctx.Done():
		}
	}
	e.mu.Lock()
	f := e.fate
	e.mu.Unlock()
	for _, id := range p.Pending {
		f.Recipient = id
		s.Fate(f)
	}
}

// office is an Ingress without listeners: its intake, and its shard in an embedded server.
type office struct {
	*Ingress
	k      *intake
	egress *sink
	judge  stage.Func
	nats   *server.Server
}

func times() spool.Times {
	return spool.Times{Lease: time.Second, Renew: 50 * time.Millisecond, Watch: 150 * time.Millisecond, Append: time.Second, Ack: time.Second,
		Pause: 10 * time.Millisecond, Floor: 20 * time.Millisecond, Unknown: 300 * time.Millisecond, Stall: 500 * time.Millisecond, Trail: 5 * time.Millisecond}
}

func newOffice(t *testing.T, inline bool) *office {
	t.Helper()
	srv, err := server.NewServer(&server.Options{ServerName: "test", DontListen: true, JetStream: true, SyncAlways: true, StoreDir: t.TempDir(),
		MaxPayload: 8 << 20, NoLog: true, NoSigs: true, JetStreamMaxStore: 256 << 30, JetStreamMaxMemory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	check := &config.Stage{Name: "check", Type: "test", Hash: "h"}
	cfg := &config.Config{Hostname: "relay.example.com", Postmaster: mail.Address{Local: "it", Domain: "example.com"}, TempDir: t.TempDir(), NATS: config.NATS{Replicas: 1},
		Ingress: config.Ingress{Limits: config.Limits{MessageSize: 10 * mega}},
		Domains: []config.Domain{{Name: "example.com", Any: true}}, Stages: map[string]*config.Stage{"check": check}, Routes: map[string]*config.Route{"out": {Name: "out"}},
		Chains: []*config.Chain{{Name: "all", Stages: []config.Use{{Stage: check, Inline: inline, OnError: "defer"}}, Deliver: "out"}}}
	o := &office{egress: &sink{fate: chain.Fate{Kind: chain.Delivered}}, nats: srv}
	quiet := slog.New(slog.DiscardHandler)
	stages := chain.NewStages(time.Hour, quiet, time.Now)
	if err := stages.Replace([]chain.Instance{{Name: "check", Hash: "h", Type: "test", New: func() (stage.Stage, error) {
		return stage.Func(func(ctx context.Context, m *mail.Message) (stage.Result, error) {
			if o.judge == nil {
				return stage.Result{}, nil
			}
			return o.judge(ctx, m)
		}), nil
	}}}); err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(cfg, policy.Options{Logger: quiet, Now: time.Now, Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	o.Ingress = &Ingress{policy: p, adopted: map[*shard]struct{}{}, o: Options{Config: cfg, Conn: nc, Instance: "one", Logger: quiet, Times: times(),
		Runner: &chain.Runner{Stages: stages, Egress: o.egress, Logger: quiet, Now: time.Now}}}
	o.k = &intake{in: o.Ingress}
	o.admission.setLimit(8*mega, mega)
	s, err := o.openShard(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o.own.Store(s)
	t.Cleanup(func() {
		if s := o.own.Swap(nil); s != nil {
			o.finish(s)
		}
	})
	return o
}

func (o *office) begin(t *testing.T, relay string, size int64) smtpd.Reception {
	t.Helper()
	env := &mail.Envelope{ReversePath: mail.Address{Local: "anna", Domain: "example.com"}, Origin: mail.Origin{Relay: relay},
		Recipients: []mail.Recipient{{ID: "1", Address: mail.Address{Local: "a", Domain: "example.com"}}, {ID: "2", Address: mail.Address{Local: "b", Domain: "example.com"}}}}
	r, err := o.k.Begin(t.Context(), env, map[string][]mail.RecipientID{"all": {"1", "2"}}, size)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// empty waits until no room is reserved.
func (o *office) empty(t *testing.T) {
	t.Helper()
	eventually(t, "all room is given back", func() bool {
		o.admission.mu.Lock()
		defer o.admission.mu.Unlock()
		return o.admission.total == 0 && o.admission.byStranger == 0
	})
}

// eventually polls: what it waits for happens in the server's time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

func write(t *testing.T, r smtpd.Reception, n int) {
	t.Helper()
	if _, err := r.Write([]byte("Subject: a\r\n\r\n" + strings.Repeat("0123456789abcde\n", n/16))); err != nil {
		t.Fatal(err)
	}
}

// However a reception ends, its room is given back.
func TestReceptionGivesItsRoomBack(t *testing.T) {
	for _, size := range []int{1000, 3 * mega} { // in the entry; in chunks
		for name, c := range map[string]struct {
			inline bool
			judge  stage.Func
			do     func(t *testing.T, o *office, r smtpd.Reception)
		}{
			"abort":   {do: func(_ *testing.T, _ *office, r smtpd.Reception) { r.Abort() }},
			"deliver": {do: func(t *testing.T, _ *office, r smtpd.Reception) { commit(t, r, 0) }},
			"inline, deliver": {inline: true, do: func(t *testing.T, _ *office, r smtpd.Reception) {
				commit(t, r, 0)
			}},
			"inline, rejected": {inline: true, judge: func(context.Context, *mail.Message) (stage.Result, error) {
				return stage.Result{Branch: stage.Branch{Verdict: stage.Reject(mail.Reply{Code: 550, Text: "no"})}}, nil
			}, do: func(t *testing.T, _ *office, r smtpd.Reception) { commit(t, r, 550) }},
			"inline, broken": {inline: true, judge: func(context.Context, *mail.Message) (stage.Result, error) {
				return stage.Result{}, errors.New("broken")
			}, do: func(t *testing.T, _ *office, r smtpd.Reception) { commit(t, r, 451) }},
			"inline, discarded": {inline: true, judge: func(context.Context, *mail.Message) (stage.Result, error) {
				return stage.Result{Branch: stage.Branch{Verdict: stage.Discard("rule")}}, nil
			}, do: func(t *testing.T, _ *office, r smtpd.Reception) { commit(t, r, 0) }},
			"parked": {do: func(t *testing.T, o *office, r smtpd.Reception) {
				o.egress.says(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRoute, About: "out"})
				commit(t, r, 0)
			}},
			"paused": {do: func(t *testing.T, o *office, r smtpd.Reception) {
				o.Pause()
				commit(t, r, 0)
				o.empty(t)
				o.Resume()
			}},
			"the shard is closed": {do: func(t *testing.T, o *office, r smtpd.Reception) {
				o.finish(o.own.Swap(nil))
				commit(t, r, 451)
			}},
		} {
			t.Run(name, func(t *testing.T) {
				o := newOffice(t, c.inline)
				o.judge = c.judge
				r := o.begin(t, "", int64(size)+4096)
				write(t, r, size)
				c.do(t, o, r)
				o.empty(t)
			})
		}
	}
}

// commit wants a reply of the class given; 0: none.
func commit(t *testing.T, r smtpd.Reception, code int) {
	t.Helper()
	id, err := r.Commit(t.Context(), smtpd.Head{Subject: "=?utf-8?q?gr=C3=BC=C3=9Fe?="})
	got := 0
	if reply, ok := mail.AsReply(err); ok {
		got = reply.Code
	}
	if got != code || (err == nil) != (id == r.ID()) {
		t.Errorf("id %q, %v; want %d", id, err, code)
	}
}

func TestBeginWithoutRoom(t *testing.T) {
	o := newOffice(t, false)
	o.egress.hold = make(chan struct{})
	first := o.begin(t, "", 4*mega)
	_, err := o.k.Begin(t.Context(), &mail.Envelope{}, nil, mega)
	if r, ok := mail.AsReply(err); !ok || r.Code != 452 {
		t.Errorf("a stranger heard %v", err)
	}
	ours := o.begin(t, "staff", mega)
	write(t, first, 1000)
	commit(t, first, 0)
	if o.admission.byStranger != leastBytes {
		t.Errorf("a small message under way counts %d", o.admission.byStranger)
	}
	ours.Abort()
	if o.admission.total == 0 {
		t.Error("room was given back while the message is under way")
	}
	close(o.egress.hold)
	o.empty(t)
}

// A client that gave no SIZE holds no more room than it has sent, nearly.
func TestSizeNotDeclared(t *testing.T) {
	o := newOffice(t, false)
	silent := o.begin(t, "", 10*mega+4096)
	if o.admission.byStranger != undeclared {
		t.Errorf("a silent stranger holds %d", o.admission.byStranger)
	}
	write(t, silent, 1500_000)
	if held := o.admission.byStranger; held < 1500_000 || held > 3*mega {
		t.Errorf("after 1.5 MB a stranger holds %d", held)
	}
	other := o.begin(t, "", 3*mega/2)
	if _, err := silent.Write(make([]byte, 2*mega)); err == nil {
		t.Error("strangers took more than half")
	} else if r, ok := mail.AsReply(err); !ok || r.Code != 452 {
		t.Errorf("the client hears %v", err)
	}
	silent.Abort()
	other.Abort()
	o.empty(t)
}

func TestAdmitWithoutShard(t *testing.T) {
	o := newOffice(t, false)
	if err := o.k.Admit(t.Context(), mail.Origin{}); err != nil {
		t.Error(err)
	}
	o.finish(o.own.Swap(nil))
	for _, err := range []error{o.k.Admit(t.Context(), mail.Origin{}), func() error { _, err := o.k.Begin(t.Context(), &mail.Envelope{}, nil, 1); return err }()} {
		if r, ok := mail.AsReply(err); !ok || r.Code != 451 {
			t.Errorf("the client hears %v", err)
		}
	}
	if o.admission.total != 0 {
		t.Error("room is left")
	}
}

// A shard whose ingress is gone is run down by another, and is gone then.
func TestAdoption(t *testing.T) {
	o := newOffice(t, false)
	o.egress.says(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRoute, About: "out"})
	r := o.begin(t, "staff", 10000)
	write(t, r, 1000)
	commit(t, r, 0)
	own := o.own.Swap(nil)
	eventually(t, "it is parked", func() bool { return own.log.Waiting().Count(depot.Park) == 1 })
	o.finish(own)

	two := &Ingress{policy: o.policy, adopted: map[*shard]struct{}{}, o: o.o}
	two.o.Instance = "two"
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); two.adopt(ctx) }()
	eventually(t, "the shard is adopted", func() bool { return len(two.shards()) == 1 })
	adopted := two.shards()[0]
	if n := adopted.log.Waiting().Count(depot.Park); n != 1 {
		t.Errorf("%d groups are parked", n)
	}
	id := r.ID()
	if _, err := adopted.dispatcher.Delete(t.Context(), id, dispatch.Order{By: "anna"}); err != nil {
		t.Error(err)
	}
	eventually(t, "it is run down", func() bool { return len(two.shards()) == 0 })
	cancel()
	<-done
}
