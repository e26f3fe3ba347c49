package embedded

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net"
	"net/smtp"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/stagecoachmail/stagecoach/internal/telemetry"
)

// spans is a collector that keeps what it is sent.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu  sync.Mutex
	all []*tracev1.Span
}

func (s *spans) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range r.GetResourceSpans() {
		for _, scope := range one.GetScopeSpans() {
			s.all = append(s.all, scope.GetSpans()...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// of are the spans of a trace by name.
func (s *spans) of(trace string) map[string][]*tracev1.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string][]*tracev1.Span{}
	for _, one := range s.all {
		if hex.EncodeToString(one.GetTraceId()) == trace {
			out[one.GetName()] = append(out[one.GetName()], one)
		}
	}
	return out
}

// collecting serves a collector until the test ends.
func collecting(t *testing.T) (*spans, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, srv := &spans{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(srv, s)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return s, l.Addr().String()
}

// The way of a message is one trace, from its receipt to its delivery, and names nobody.
func TestTrace(t *testing.T) {
	t.Parallel()
	got, address := collecting(t)
	text := strings.Replace(everything, `traces: {endpoint: "http://127.0.0.1:1", sample: 1}`, `traces: {endpoint: "http://`+address+`", sample: 0}`, 1)
	if text == everything {
		t.Fatal("the configuration is another one")
	}
	in := startWith(t, text, slog.New(slog.DiscardHandler))
	if err := send(in, "bob@example.net", "Nobody asked for a trace."); err != nil {
		t.Fatal(err)
	}
	const sender = "4bf92f3577b34da6a3ce929d0e0e4736"
	id := traced(t, in, "Traceparent: 00-"+sender+"-00f067aa0ba902b7-01\r\n")
	trace := telemetry.TraceID(id)
	for end := time.Now().Add(15 * time.Second); len(got.of(trace)["attempt"]) == 0 || len(got.of(trace)["receive"]) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no spans", got.of(trace))
		}
	}
	way := got.of(trace)
	for name, n := range map[string]int{"receive": 1, "spool append": 1, "attempt": 1, "process": 4, "deliver": 1} {
		if len(way[name]) != n {
			t.Errorf("%d spans %q, want %d", len(way[name]), name, n)
		}
	}
	root := way["receive"][0]
	if len(root.GetParentSpanId()) != 0 || len(root.GetLinks()) != 1 || hex.EncodeToString(root.GetLinks()[0].GetTraceId()) != sender {
		t.Error("the first span:", root)
	}
	if a := way["attempt"][0]; string(a.GetParentSpanId()) != string(root.GetSpanId()) {
		t.Error("the attempt is not below the first span")
	}
	got.mu.Lock()
	defer got.mu.Unlock()
	for _, s := range got.all {
		if hex.EncodeToString(s.GetTraceId()) != trace {
			t.Error("a message that is not sampled has a span", s.GetName())
		}
		// As JSON the ids, which are random, are in base64, and have no @.
		if text := protojson.Format(s); strings.Contains(text, "@") || strings.Contains(text, "127.0.0.1") {
			t.Error("a span names somebody:", text)
		}
	}
}

// traced sends a message with further header fields, and gives its id.
func traced(t *testing.T, in *Installation, fields string) string {
	t.Helper()
	c, err := smtp.Dial(in.Addr("local").String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Mail("alice@relay.example.com"); err != nil {
		t.Fatal(err)
	}
	if err := c.Rcpt("bob@example.net"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Text.Cmd("DATA"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Text.ReadResponse(354); err != nil {
		t.Fatal(err)
	}
	w := c.Text.DotWriter()
	if _, err := w.Write([]byte(fields + "From: alice@relay.example.com\r\nSubject: hello\r\n\r\nHello.\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, text, err := c.Text.ReadResponse(250)
	if err != nil {
		t.Fatal(err)
	}
	id, _, ok := strings.Cut(strings.TrimPrefix(text, "2.0.0 "), " ")
	if !ok {
		t.Fatal(text)
	}
	return id
}
