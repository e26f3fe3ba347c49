package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/stagecoachmail/stagecoach/mail"
)

// kept is an exporter that keeps spans.
type kept struct {
	mu    sync.Mutex
	spans []sdktrace.ReadOnlySpan
	err   error
	hold  chan struct{} // if not nil, nothing gets through until it is closed
}

func (k *kept) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	if k.hold != nil {
		<-k.hold
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spans = append(k.spans, spans...)
	return k.err
}

func (k *kept) Shutdown(context.Context) error { return nil }

func (k *kept) named(name string) sdktrace.ReadOnlySpan {
	for _, s := range k.spans {
		if s.Name() == name {
			return s
		}
	}
	return nil
}

func tracing(t *testing.T, k *kept, part float64) (*Tracer, func()) {
	t.Helper()
	x := traceTo(k, part, Options{Logger: quiet, Service: "test"}, prometheus.NewRegistry())
	var once sync.Once
	end := func() {
		once.Do(func() {
			if err := x.close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(end)
	return x, end
}

// Attempts of one message are in one trace, whoever makes them, below the span that began it.
func TestOneTraceForAMessage(t *testing.T) {
	t.Parallel()
	var first, second kept
	a, endA := tracing(t, &first, 1)
	b, endB := tracing(t, &second, 1)
	ctx, root := a.Begin(t.Context(), "m1", "receive", time.Now(), trace.SpanContext{})
	_, child := a.Start(ctx, "append")
	child.End()
	root.End()
	_, later := b.Start(b.Message(t.Context(), "m1", false), "attempt")
	later.End()
	_, other := b.Start(b.Message(t.Context(), "m2", false), "other")
	other.End()
	endA()
	endB()
	receive, append_, attempt := first.named("receive"), first.named("append"), second.named("attempt")
	if receive == nil || append_ == nil || attempt == nil {
		t.Fatal(first.spans, second.spans)
	}
	id := receive.SpanContext().TraceID()
	if id.String() != TraceID("m1") || append_.SpanContext().TraceID() != id || attempt.SpanContext().TraceID() != id {
		t.Error("not one trace")
	}
	if receive.Parent().IsValid() || append_.Parent().SpanID() != receive.SpanContext().SpanID() || attempt.Parent().SpanID() != receive.SpanContext().SpanID() {
		t.Error("not below the first span")
	}
	if second.named("other").SpanContext().TraceID() == id {
		t.Error("another message is in the same trace")
	}
}

// Every process samples the same messages, about as many as asked for.
func TestSampling(t *testing.T) {
	t.Parallel()
	var k kept
	tenth, _ := tracing(t, &k, 0.1)
	again, _ := tracing(t, &k, 0.1)
	none, _ := tracing(t, &k, 0)
	n := 0
	for i := range 4000 {
		id := fmt.Sprint("message ", i)
		yes := trace.SpanContextFromContext(tenth.Message(t.Context(), id, false)).IsSampled()
		if yes {
			n++
		}
		if trace.SpanContextFromContext(again.Message(t.Context(), id, false)).IsSampled() != yes {
			t.Fatal(id, "is sampled by one, and not by the other")
		}
		if trace.SpanContextFromContext(none.Message(t.Context(), id, false)).IsSampled() {
			t.Fatal(id, "is sampled by 0")
		}
		if !trace.SpanContextFromContext(none.Message(t.Context(), id, true)).IsSampled() {
			t.Fatal(id, "is not sampled though it has to be")
		}
	}
	if n < 320 || n > 480 {
		t.Error(n, "of 4000 with a tenth")
	}
	// The rule is the library's.
	ratio := sdktrace.TraceIDRatioBased(0.1)
	for i := range 200 {
		tid, _ := derived(fmt.Sprint(i))
		want := ratio.ShouldSample(sdktrace.SamplingParameters{ParentContext: t.Context(), TraceID: tid}).Decision == sdktrace.RecordAndSample
		if tenth.sampled(tid) != want {
			t.Fatal(i, want)
		}
	}
}

func TestTraceparent(t *testing.T) {
	t.Parallel()
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	sc := ParseTraceparent(good)
	if !sc.IsValid() || format(sc) != good {
		t.Error(sc)
	}
	for _, later := range []string{"01" + good[2:] + "-more", "01" + good[2:]} {
		if !ParseTraceparent(later).IsValid() {
			t.Error("not taken:", later)
		}
	}
	for _, bad := range []string{"", "00", good[:54], good + "-more", good + "x", "01" + good[2:] + "x", "ff" + good[2:], good[:53] + "00", strings.ToUpper(good),
		strings.Replace(good, "4bf92f3577b34da6a3ce929d0e0e4736", strings.Repeat("0", 32), 1), strings.Replace(good, "00f067aa0ba902b7", strings.Repeat("0", 16), 1),
		strings.Replace(good, "-", "_", 1), "0x" + good[2:]} {
		if ParseTraceparent(bad).IsValid() {
			t.Error("taken:", bad)
		}
	}
}

// A trusted sender's trace is linked, and forces sampling; a stranger's is nobody's.
func TestSenderTrace(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	m := &mail.Message{ID: "m", Content: mail.FromBytes([]byte("Traceparent: " + parent + "\r\n\r\nx"))}
	if SenderTrace(m).IsValid() {
		t.Error("a stranger's is taken")
	}
	m.Envelope.Origin.Relay = "rule"
	link := SenderTrace(m)
	if format(link) != parent {
		t.Error(link)
	}
	var k kept
	x, end := tracing(t, &k, 0)
	if !x.Traced(m) {
		t.Error("not traced")
	}
	_, s := x.Begin(t.Context(), "m", "receive", time.Now(), link)
	s.End()
	end()
	got := k.named("receive")
	if got == nil || got.SpanContext().TraceID().String() != TraceID("m") || len(got.Links()) != 1 || got.Links()[0].SpanContext.TraceID() != link.TraceID() {
		t.Error(got)
	}
}

// A collector that hangs holds nobody up: spans beyond the queue are dropped, and counted; so are those it refuses.
func TestDroppedSpans(t *testing.T) {
	t.Parallel()
	k := &kept{hold: make(chan struct{}), err: errors.New("refused")}
	x, end := tracing(t, k, 1)
	begun := time.Now()
	for range queued + 1000 {
		_, s := x.Begin(t.Context(), "m", "s", time.Now(), trace.SpanContext{})
		s.End()
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Error("held up for", took)
	}
	if n := Count(x.spans.lost); n < 400 || n > 1000 {
		t.Error(n, "dropped while nothing was sent")
	}
	close(k.hold)
	end()
	if n := Count(x.spans.lost); n != queued+1000 {
		t.Error(n, "dropped at the end")
	}
	if Count(x.spans.sent) != 0 || x.spans.waiting.Load() != 0 {
		t.Error(Count(x.spans.sent), x.spans.waiting.Load())
	}
}

type asked struct {
	healthv1.UnimplementedHealthServer
	saw chan trace.SpanContext
}

func (a *asked) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	a.saw <- trace.SpanContextFromContext(ctx)
	return &healthv1.HealthCheckResponse{}, nil
}

func (a *asked) Watch(_ *healthv1.HealthCheckRequest, s grpc.ServerStreamingServer[healthv1.HealthCheckResponse]) error {
	a.saw <- trace.SpanContextFromContext(s.Context())
	return nil
}

// A sampled trace goes on in the process that is called; what is not sampled leaves no trace in the call.
func TestPropagation(t *testing.T) {
	t.Parallel()
	var k kept
	x, end := tracing(t, &k, 0)
	srv := grpc.NewServer(x.ServerOptions()...)
	a := &asked{saw: make(chan trace.SpanContext, 1)}
	healthv1.RegisterHealthServer(srv, a)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }()
	defer srv.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), append(x.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := healthv1.NewHealthClient(conn)
	calls := map[string]func(context.Context) error{
		"unary": func(ctx context.Context) error {
			_, err := c.Check(ctx, &healthv1.HealthCheckRequest{})
			return err
		},
		"stream": func(ctx context.Context) error {
			s, err := c.Watch(ctx, &healthv1.HealthCheckRequest{})
			if err == nil {
				_, _ = s.Recv()
			}
			return err
		},
	}
	for name, call := range calls {
		if err := call(t.Context()); err != nil {
			t.Fatal(err)
		}
		if sc := <-a.saw; sc.IsValid() {
			t.Error(name, "not sampled, and yet", sc)
		}
		if err := call(x.Message(t.Context(), "m", true)); err != nil {
			t.Fatal(err)
		}
		if sc := <-a.saw; !sc.IsSampled() || sc.TraceID().String() != TraceID("m") {
			t.Error(name, sc)
		}
	}
	srv.GracefulStop()
	end()
	if len(k.spans) != 2 || k.spans[0].Parent().SpanID() != About("m").SpanID() {
		t.Error(k.spans)
	}
}
