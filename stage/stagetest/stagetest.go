// Package stagetest is the conformance suite for stages. A stage's own tests say what it does; this says that it
// keeps the rules that every stage keeps:
//
//   - it returns soon after its deadline has passed or its context was cancelled;
//   - it does not change the message it is given;
//   - run again, several times at once, and over gRPC it gives the same verdict and the same edits;
//   - its answers are complete, and its edits within its traits;
//   - nothing of it runs after it was closed.
package stagetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/stage"
)

// soon is how long a stage may take to notice that its time is over.
const soon = 3 * time.Second

// Suite says how to run the stage under test.
type Suite struct {
	// Config is the stage's config as YAML; empty for the defaults.
	Config string
	// ConfigDir is where relative paths in Config start; a temporary folder if empty.
	ConfigDir string
	// DataDir is the installation's data folder; a temporary folder if empty.
	DataDir string
	// Samples are messages (header and body, CRLF) besides those that the suite brings.
	Samples [][]byte
}

// Run runs the suite on the stage that f makes.
func Run(t *testing.T, f stage.Factory, s Suite) {
	t.Helper()
	c := conformance{t: t, factory: f, soon: soon, sub: func(name string, body func(testing.TB)) { t.Run(name, func(t *testing.T) { body(t) }) }}
	c.run(s)
}

// conformance is one run of the suite. It knows no more of testing than its own test can replace.
type conformance struct {
	t       testing.TB
	sub     func(name string, body func(testing.TB))
	factory stage.Factory
	soon    time.Duration
	judged  int // samples that the stage did not fail on
}

func (c *conformance) run(s Suite) {
	c.t.Helper()
	before := goleak.IgnoreCurrent()
	s.defaults(c.t)
	st := s.build(c.t, c.factory)
	samples := append(builtin(), s.Samples...)
	for i, raw := range samples {
		c.sub(fmt.Sprintf("sample-%02d", i), func(t testing.TB) { c.conform(t, st, raw) })
	}
	if c.judged == 0 {
		c.t.Errorf("the stage fails on each of the %d samples: that proves nothing of it", len(samples))
	}
	c.sub("deadline", func(t testing.TB) { c.deadline(t, st) })
	c.sub("cancelled", func(t testing.TB) { c.cancelled(t, st) })
	if closer, ok := st.(io.Closer); ok {
		if err := closer.Close(); err != nil {
			c.t.Errorf("Close: %v", err)
		}
	}
	if err := goleak.Find(before); err != nil {
		c.t.Errorf("something of the stage runs after its end: %v", err)
	}
}

func (s *Suite) defaults(t testing.TB) {
	if s.ConfigDir == "" {
		s.ConfigDir = t.TempDir()
	}
	if s.DataDir == "" {
		s.DataDir = t.TempDir()
	}
}

// now is the clock of the suite: a stage that writes the time into its edits writes the same one again.
func now() time.Time { return time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC) }

func (s *Suite) build(t testing.TB, f stage.Factory) stage.Stage {
	t.Helper()
	cfg, err := f.Decode(func(into any) error {
		if s.Config == "" {
			return nil
		}
		return yaml.NewDecoder(bytes.NewReader([]byte(s.Config)), yaml.Strict()).Decode(into)
	})
	if err != nil {
		t.Fatalf("config: %v", err)
	}
	st, err := f.New(stage.Settings{Instance: "under-test", Hostname: "relay.example.com", Logger: slog.New(slog.DiscardHandler),
		ConfigDir: s.ConfigDir, DataDir: s.DataDir, TempDir: t.TempDir(), Now: now}, cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return st
}

// Message makes a message of raw with two recipients.
func Message(raw []byte) *mail.Message {
	from, to := mail.Address{Local: "sender", Domain: "example.com"}, mail.Address{Local: "one", Domain: "example.net"}
	m := &mail.Message{ID: fmt.Sprintf("test-%x", sha256.Sum256(raw))[:20], Attempt: 1, Received: now(), Content: content(raw),
		Envelope: mail.Envelope{ReversePath: from, Recipients: []mail.Recipient{{ID: "1", Address: to}, {ID: "2", Address: mail.Address{Local: "two", Domain: "example.org"}}},
			Origin: mail.Origin{Direction: mail.Outbound, Listener: "submission", Relay: "staff", Client: "192.0.2.1", Helo: "client.example.com"}},
		Pending: []mail.RecipientID{"1", "2"}}
	return m
}

// content is raw as an ingress holds it: above mail.InlineLimit in a file.
func content(raw []byte) mail.Content {
	if len(raw) > mail.InlineLimit {
		b := mail.NewBuilder("")
		if _, err := b.Write(raw); err == nil {
			if c, err := b.Content(); err == nil {
				return c
			}
		}
	}
	return mail.FromBytes(bytes.Clone(raw))
}

type answer struct {
	branch stage.Branch
	forks  []stage.Fork
	failed bool
}

// watched is the stage under test, with an eye on what it does to its message.
func watched(t testing.TB, st stage.Stage) stage.Stage {
	return stage.Func(func(ctx context.Context, m *mail.Message) (stage.Result, error) {
		before := *m
		before.Envelope, before.Pending = m.Envelope.Clone(), slices.Clone(m.Pending)
		res, err := st.Process(ctx, m)
		if !reflect.DeepEqual(before, *m) {
			t.Errorf("the stage changed the message it was given:\n%+v\n%+v", before, *m)
		}
		return res, err
	})
}

func (c *conformance) conform(t testing.TB, st stage.Stage, raw []byte) {
	hop := chain.Hop{Instance: "under-test", Type: c.factory.Type, Timeout: 30 * time.Second}
	st = watched(t, st)
	run := func() answer {
		m := Message(raw)
		defer m.Content.Release()
		res, err := chain.Judge(t.Context(), st, c.factory.Traits, hop, m)
		kept, readErr := mail.ReadAll(m.Content)
		if readErr != nil || !bytes.Equal(kept, raw) {
			t.Errorf("the stage changed the content it was given (%v)", readErr)
		}
		switch {
		case errors.Is(err, chain.ErrContract):
			t.Errorf("the stage may not do what it did: %v", err)
		case err != nil:
			t.Logf("the stage failed: %v", err)
		}
		return answer{branch: res.Branch, forks: res.Forks, failed: err != nil}
	}
	first := run()
	if !first.failed {
		c.judged++
	}
	same := func(how string, a answer) {
		if normal(a) != normal(first) {
			t.Errorf("%s, the stage answers otherwise:\n%s\n%s", how, normal(first), normal(a))
		}
	}
	same("run again", run())
	var wg sync.WaitGroup
	at := make([]answer, 3)
	for i := range at {
		wg.Go(func() { at[i] = run() })
	}
	wg.Wait()
	for _, a := range at {
		same("run several times at once", a)
	}
	same("over gRPC", overGRPC(t, c.factory, st, raw))
}

// normal makes answers comparable: no splices and none are the same.
func normal(a answer) string {
	s := fmt.Sprintf("failed=%v %s", a.failed, branchText(a.branch))
	for _, f := range a.forks {
		s += fmt.Sprintf(" to %v: %s", f.To, branchText(f.Branch))
	}
	return s
}

func branchText(b stage.Branch) string {
	s := fmt.Sprintf("%s %q %v", b.Verdict.Kind, b.Verdict.Reason, b.Verdict.After)
	if r := b.Verdict.Reply; r != nil {
		s += fmt.Sprintf(" %+v", *r)
	}
	for _, p := range b.Edits.Splices {
		s += fmt.Sprintf(" [%d+%d %q]", p.Offset, p.Length, p.Insert)
	}
	if b.Edits.ReversePath != nil {
		s += " from " + b.Edits.ReversePath.String()
	}
	return s + fmt.Sprintf(" %v", b.Edits.Rewrites)
}

func overGRPC(t testing.TB, f stage.Factory, st stage.Stage, raw []byte) answer {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	stages := chain.NewStages(time.Hour, log, time.Now)
	if err := stages.Replace([]chain.Instance{{Name: "under-test", Type: f.Type, Traits: f.Traits, New: func() (stage.Stage, error) { return stage.Func(st.Process), nil }}}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	runner := &chain.Runner{Stages: stages, Logger: log, Now: time.Now}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	relayv1.RegisterRelayServiceServer(server, &chain.RelayServer{Runner: runner, TempDir: t.TempDir()})
	stagev1.RegisterStageServiceServer(server, &chain.StageServer{Runner: runner, Type: f.Type, Traits: f.Traits, TempDir: t.TempDir()})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() { server.Stop(); <-served }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	network := &chain.GRPC{Conn: func(string, string) (grpc.ClientConnInterface, error) { return conn, nil }, Logger: log,
		Traits: func(string) (stage.Traits, bool) { return f.Traits, true }}
	hop := chain.Hop{Instance: "under-test", Type: f.Type, Address: l.Addr().String()}
	res, err := network.Process(t.Context(), hop, Message(raw))
	if err != nil {
		t.Logf("over gRPC the stage failed: %v", err)
	}
	return answer{branch: res.Branch, forks: res.Forks, failed: err != nil}
}

// deadline gives the stage a message that is slow to read and a context that ends meanwhile.
func (c *conformance) deadline(t testing.TB, st stage.Stage) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	m := Message(large())
	m.Content = &slow{Content: m.Content, done: ctx.Done()}
	c.returns(ctx, t, "its deadline", st, m)
}

// cancelled gives the stage a message that nobody waits for any more.
func (c *conformance) cancelled(t testing.TB, st stage.Stage) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.returns(ctx, t, "it was cancelled", st, Message(large()))
}

func (c *conformance) returns(ctx context.Context, t testing.TB, after string, st stage.Stage, m *mail.Message) {
	returned := make(chan error, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil {
				t.Errorf("after %s the stage panics: %v", after, v)
				returned <- nil
			}
		}()
		_, err := st.Process(ctx, m)
		returned <- err
	}()
	select {
	case err := <-returned:
		if err != nil {
			t.Logf("after %s the stage says: %v", after, err)
		}
	case <-time.After(50*time.Millisecond + c.soon):
		t.Errorf("the stage still runs %v after %s", c.soon, after)
	}
}

// slow is a content whose first read takes until the deadline.
type slow struct {
	mail.Content
	done <-chan struct{}
}

func (s *slow) ReadAt(p []byte, off int64) (int, error) {
	<-s.done
	return s.Content.ReadAt(p, off)
}

func (s *slow) WriteTo(w io.Writer) (int64, error) {
	<-s.done
	return s.Content.WriteTo(w)
}

func (s *slow) Retain() mail.Content { s.Content.Retain(); return s }
