// Package stagetest is the conformance suite for stages. A stage's own tests say what it does; this says that it
// keeps the rules that every stage keeps:
//
//   - it returns soon after its deadline has passed or its context was cancelled;
//   - it does not change the message it is given;
//   - run again, it gives the same verdict and the same edits, in this process and over gRPC;
//   - its edits are within its traits;
//   - nothing of it runs after it was closed.
package stagetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
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
	before := goleak.IgnoreCurrent()
	s.defaults(t)
	st := s.build(t, f)
	samples := append(builtin(), s.Samples...)
	for i, raw := range samples {
		t.Run(fmt.Sprintf("sample-%02d", i), func(t *testing.T) { conform(t, f, st, raw) })
	}
	t.Run("deadline", func(t *testing.T) { deadline(t, st) })
	if c, ok := st.(io.Closer); ok {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if err := goleak.Find(before); err != nil {
		t.Errorf("something of the stage runs after its end: %v", err)
	}
}

func (s *Suite) defaults(t *testing.T) {
	if s.ConfigDir == "" {
		s.ConfigDir = t.TempDir()
	}
	if s.DataDir == "" {
		s.DataDir = t.TempDir()
	}
}

// now is the clock of the suite: a stage that writes the time into its edits writes the same one again.
func now() time.Time { return time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC) }

func (s *Suite) build(t *testing.T, f stage.Factory) stage.Stage {
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
	m := &mail.Message{ID: fmt.Sprintf("test-%x", sha256.Sum256(raw))[:20], Attempt: 1, Received: now(), Content: mail.FromBytes(bytes.Clone(raw)),
		Envelope: mail.Envelope{ReversePath: from, Recipients: []mail.Recipient{{ID: "1", Address: to}, {ID: "2", Address: mail.Address{Local: "two", Domain: "example.org"}}},
			Origin: mail.Origin{Direction: mail.Outbound, Listener: "submission", Relay: "staff", Client: "192.0.2.1", Helo: "client.example.com"}},
		Pending: []mail.RecipientID{"1", "2"}}
	return m
}

type answer struct {
	branch stage.Branch
	forks  []stage.Fork
	failed bool
}

func conform(t *testing.T, f stage.Factory, st stage.Stage, raw []byte) {
	hop := chain.Hop{Instance: "under-test", Type: f.Type, Timeout: 30 * time.Second}
	run := func() answer {
		m := Message(raw)
		env := m.Envelope.Clone()
		res, err := chain.Judge(t.Context(), st, f.Traits, hop, m)
		kept, readErr := mail.ReadAll(m.Content)
		if readErr != nil || !bytes.Equal(kept, raw) {
			t.Fatalf("the stage changed the content it was given (%v)", readErr)
		}
		if !reflect.DeepEqual(env, m.Envelope) {
			t.Fatal("the stage changed the envelope it was given")
		}
		if err != nil {
			t.Logf("the stage failed: %v", err)
		}
		return answer{branch: res.Branch, forks: res.Forks, failed: err != nil}
	}
	first := run()
	if again := run(); !reflect.DeepEqual(normal(first), normal(again)) {
		t.Errorf("run again, the stage answers otherwise:\n%+v\n%+v", first, again)
	}
	if remote := overGRPC(t, f, st, raw); !reflect.DeepEqual(normal(first), normal(remote)) {
		t.Errorf("over gRPC, the stage answers otherwise:\n%+v\n%+v", first, remote)
	}
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

func overGRPC(t *testing.T, f stage.Factory, st stage.Stage, raw []byte) answer {
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
func deadline(t *testing.T, st stage.Stage) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	m := Message(large())
	m.Content = &slow{Content: m.Content, done: ctx.Done()}
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		_, err := st.Process(ctx, m)
		if err != nil {
			t.Logf("with its deadline passed the stage says: %v", err)
		}
	}()
	select {
	case <-returned:
	case <-time.After(soon):
		t.Errorf("the stage still runs %v after its deadline", soon)
		<-returned
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
