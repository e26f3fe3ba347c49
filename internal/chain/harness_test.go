package chain

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/stagecoachmail/stagecoach/mail"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/stage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

const hash = "0123456789abcdef"

const raw = "From: a@example.com\r\nSubject: s\r\n\r\nbody\r\n"

// watched is a Content that knows whether somebody still owns it. Reading it after the last Release is an error.
type watched struct {
	mail.Content
	t      testing.TB
	mu     sync.Mutex
	owners int
}

func watch(t testing.TB, b []byte) *watched {
	return &watched{Content: mail.FromBytes(b), t: t, owners: 1}
}

func (w *watched) used() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.owners <= 0 {
		w.t.Error("the content is used after its last release")
	}
}

func (w *watched) ReadAt(p []byte, off int64) (int, error) { w.used(); return w.Content.ReadAt(p, off) }
func (w *watched) WriteTo(to io.Writer) (int64, error)     { w.used(); return w.Content.WriteTo(to) }
func (w *watched) Header() *mail.Header                    { w.used(); return w.Content.Header() }
func (w *watched) Retain() mail.Content {
	w.used()
	w.mu.Lock()
	w.owners++
	w.mu.Unlock()
	return w
}

func (w *watched) Release() {
	w.mu.Lock()
	w.owners--
	if w.owners < 0 {
		w.t.Error("the content is released once too often")
	}
	w.mu.Unlock()
}

// free waits until nobody but the test owns the content.
func (w *watched) free() {
	w.t.Helper()
	eventually(w.t, "the content is released", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.owners == 1
	})
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(5 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// heard is a Sink that writes down what it hears.
type heard struct {
	mu      sync.Mutex
	reports []Report
	fates   []Fate
	lines   []string
	ready   func(ctx context.Context, to []mail.RecipientID) error
}

func (h *heard) Report(r Report) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reports = append(h.reports, r)
	h.lines = append(h.lines, fmt.Sprintf("%s %s %s %s", r.Instance, r.Outcome, r.Verdict, joined(r.Recipients)))
}

func (h *heard) Fate(f Fate) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fates = append(h.fates, f)
	h.lines = append(h.lines, fmt.Sprintf("%s %s %s %s", f.Recipient, f.Kind, f.Concern, f.About))
}

func (h *heard) Ready(ctx context.Context, to []mail.RecipientID) error {
	if h.ready == nil {
		return nil
	}
	return h.ready(ctx, to)
}

func joined(ids []mail.RecipientID) string {
	var s []string
	for _, id := range ids {
		s = append(s, string(id))
	}
	return strings.Join(s, ",")
}

// fate gives the one fate of a recipient.
func (h *heard) fate(t testing.TB, id mail.RecipientID) Fate {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []Fate
	for _, f := range h.fates {
		if f.Recipient == id {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		t.Fatalf("recipient %s has %d fates: %+v", id, len(found), h.fates)
	}
	return found[0]
}

func (h *heard) said() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := slices.Clone(h.lines)
	slices.Sort(s)
	return s
}

// outbox is a Carrier that delivers into memory.
type outbox struct {
	carry func(ctx context.Context, p *Parcel, s Sink) // instead, if set
	mu    sync.Mutex
	got   map[mail.RecipientID][]delivery
}

type delivery struct{ from, to, content, id string }

func (o *outbox) Carry(ctx context.Context, p *Parcel, s Sink) {
	if o.carry != nil {
		o.carry(ctx, p, s)
		return
	}
	b, err := mail.ReadAll(p.Content)
	if err != nil {
		fates(s, p.Pending, Fate{Kind: Deferred, Concern: AboutRoute, Reason: err.Error()})
		return
	}
	o.mu.Lock()
	for _, id := range p.Pending {
		r, _ := p.Envelope.Recipient(id)
		if o.got == nil {
			o.got = map[mail.RecipientID][]delivery{}
		}
		o.got[id] = append(o.got[id], delivery{from: p.Envelope.ReversePath.String(), to: r.Address.String(), content: string(b), id: p.ID})
	}
	o.mu.Unlock()
	fates(s, p.Pending, Fate{Kind: Delivered, Concern: AboutRecipient, Reply: &mail.Reply{Code: 250, Enhanced: "2.0.0", Text: "ok"}})
}

// one gives the only delivery to a recipient.
func (o *outbox) one(t testing.TB, id mail.RecipientID) delivery {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.got[id]) != 1 {
		t.Fatalf("%d deliveries to %s, want one", len(o.got[id]), id)
	}
	return o.got[id][0]
}

func (o *outbox) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, d := range o.got {
		n += len(d)
	}
	return n
}

// hopSpec is one stage of a test chain.
type hopSpec struct {
	Hop
	traits stage.Traits
	st     stage.Func
}

var allTraits = stage.Traits{ReadsBody: true, EditsHeader: true, EditsBody: true, EditsEnvelope: true, Seals: true, Effects: true}

func spec(name string, traits stage.Traits, st stage.Func) hopSpec {
	return hopSpec{Hop: Hop{Instance: name, Type: name, Hash: hash, OnError: OnErrorDefer, Timeout: 10 * time.Second}, traits: traits, st: st}
}

// setting is one way to run a chain.
type setting struct {
	name string
	// build gives the runner of hop zero, and the slip.
	build func(t *testing.T, hops []hopSpec, out Carrier) (*Runner, Slip)
}

// settings: the same tests in one process, over gRPC, where each stage is a service of its own, and mixed.
var settings = []setting{
	{"in process", func(t *testing.T, hops []hopSpec, out Carrier) (*Runner, Slip) {
		slip := Slip{Chain: "c", Revision: "r", Route: Route{Name: "out", Hash: "h"}}
		stages := stagesOf(t, hops...)
		for _, h := range hops {
			slip.Hops = append(slip.Hops, h.Hop)
		}
		return &Runner{Stages: stages, Egress: out, Logger: quiet, Now: time.Now}, slip
	}},
	{"relayed over gRPC", func(t *testing.T, hops []hopSpec, out Carrier) (*Runner, Slip) { return remote(t, hops, out, false) }},
	{"amid stages of this process", func(t *testing.T, hops []hopSpec, out Carrier) (*Runner, Slip) {
		runner, slip := remote(t, hops, out, false)
		runner.Egress, slip.Route.Address = out, ""
		var here []Instance
		for i := 1; i < len(hops); i += 2 {
			slip.Hops[i].Address = ""
			here = append(here, Instance{Name: hops[i].Instance, Hash: hops[i].Hash, Type: hops[i].Type, Traits: hops[i].traits, New: func() (stage.Stage, error) { return hops[i].st, nil }})
		}
		if err := runner.Stages.Replace(here); err != nil {
			t.Fatal(err)
		}
		return runner, slip
	}},
	{"judged over gRPC", func(t *testing.T, hops []hopSpec, out Carrier) (*Runner, Slip) { return remote(t, hops, out, true) }},
}

func remote(t *testing.T, hops []hopSpec, out Carrier, processOnly bool) (*Runner, Slip) {
	types := map[string]stage.Traits{}
	for _, h := range hops {
		types[h.Type] = h.traits
	}
	network := newNetwork(t, types)
	slip := Slip{Chain: "c", Revision: "r", Route: Route{Name: "out", Hash: "h", Address: serve(t, &Runner{Egress: out, Logger: quiet, Now: time.Now}, "", stage.Traits{})}}
	for _, h := range hops {
		stages := stagesOf(t, h)
		stages.SetForeign(types)
		h.ProcessOnly = processOnly
		h.Address = serve(t, &Runner{Stages: stages, Network: network, Logger: quiet, Now: time.Now}, h.Type, h.traits)
		slip.Hops = append(slip.Hops, h.Hop)
	}
	zero := NewStages(time.Hour, quiet, time.Now)
	zero.SetForeign(types)
	return &Runner{Stages: zero, Network: network, Logger: quiet, Now: time.Now}, slip
}

func stagesOf(t testing.TB, hops ...hopSpec) *Stages {
	t.Helper()
	s := NewStages(time.Hour, quiet, time.Now)
	var in []Instance
	for _, h := range hops {
		in = append(in, Instance{Name: h.Instance, Hash: h.Hash, Type: h.Type, Traits: h.traits, New: func() (stage.Stage, error) { return h.st, nil }})
	}
	if err := s.Replace(in); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// serve serves a runner on loopback and gives the address.
func serve(t testing.TB, r *Runner, typ string, traits stage.Traits) string {
	t.Helper()
	return serveWith(t, func(s *grpc.Server) {
		relayv1.RegisterRelayServiceServer(s, &RelayServer{Runner: r, TempDir: t.TempDir()})
		if typ != "" {
			stagev1.RegisterStageServiceServer(s, &StageServer{Runner: r, Type: typ, Traits: traits, TempDir: t.TempDir()})
		}
	})
}

func serveWith(t testing.TB, register func(*grpc.Server)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.WaitForHandlers(true), grpc.MaxRecvMsgSize(5<<20))
	register(s)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

// newNetwork makes a GRPC with plaintext connections.
func newNetwork(t testing.TB, types map[string]stage.Traits) *GRPC {
	t.Helper()
	var mu sync.Mutex
	conns := map[string]*grpc.ClientConn{}
	t.Cleanup(func() {
		for _, c := range conns {
			_ = c.Close()
		}
	})
	g := &GRPC{Logger: quiet, pause: time.Microsecond, Conn: func(address, _ string) (grpc.ClientConnInterface, error) {
		mu.Lock()
		defer mu.Unlock()
		if c, ok := conns[address]; ok {
			return c, nil
		}
		c, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
		if err == nil {
			conns[address] = c
		}
		return c, err
	}}
	if types != nil {
		g.Traits = func(typ string) (stage.Traits, bool) { tr, ok := types[typ]; return tr, ok }
	}
	return g
}

// parcel is a message with three recipients.
func parcel(c mail.Content, slip Slip) *Parcel {
	env := mail.Envelope{ReversePath: mail.Address{Local: "a", Domain: "example.com"}, Origin: mail.Origin{Direction: mail.Outbound, Relay: "staff", Helo: "h"}}
	for i, d := range []string{"one.example", "two.example", "three.example"} {
		env.Recipients = append(env.Recipients, mail.Recipient{ID: mail.RecipientID(fmt.Sprint(i + 1)), Address: mail.Address{Local: "u", Domain: d}, Notify: "FAILURE", ORcpt: "rfc822;u@" + d})
	}
	return &Parcel{Message: mail.Message{ID: "m1", Attempt: 2, Received: time.Unix(1700000000, 5).UTC(), Envelope: env, Pending: []mail.RecipientID{"1", "2", "3"}, Content: c}, Slip: slip}
}

func field(t testing.TB, name, value string) mail.Edits {
	t.Helper()
	s, err := mail.PrependField(name, value)
	if err != nil {
		t.Fatal(err)
	}
	return mail.Edits{Splices: []mail.Splice{s}}
}

func replacing(old, with string) mail.Edits {
	i := strings.Index(raw, old)
	return mail.Edits{Splices: []mail.Splice{{Offset: int64(i), Length: int64(len(old)), Insert: []byte(with)}}}
}

func says(v stage.Verdict) stage.Func {
	return func(context.Context, *mail.Message) (stage.Result, error) {
		return stage.Result{Branch: stage.Branch{Verdict: v}}, nil
	}
}
