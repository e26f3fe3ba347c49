package telemetry

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/credentials"
)

const (
	// queued is the most spans that wait to be sent; more are dropped.
	queued = 2048
	// batch is the most that is sent at once, and batchDelay the longest that a span waits for more.
	batch      = 512
	batchDelay = 2 * time.Second
	// exportTime bounds one batch on its way.
	exportTime = 5 * time.Second
	// complain is how often at most the log is told that spans are dropped.
	complain = time.Minute
)

// newTracer is nil if no traces are configured. The collector is reached when there is something to send.
func newTracer(o Options, reg prometheus.Registerer) (*Tracer, error) {
	c := o.Traces
	if c == nil {
		return nil, nil
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("telemetry.traces.endpoint: %w", err)
	}
	opts := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(u.Host), otlptracegrpc.WithTimeout(exportTime), otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{})}
	if u.Scheme == "https" {
		conf := &tls.Config{MinVersion: tls.VersionTLS12}
		if c.CAFile != "" {
			pem, err := os.ReadFile(c.CAFile)
			if err != nil {
				return nil, fmt.Errorf("telemetry.traces.ca_file: %w", err)
			}
			if conf.RootCAs = x509.NewCertPool(); !conf.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("telemetry.traces.ca_file: %s holds no certificate", c.CAFile)
			}
		}
		opts = append(opts, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(conf)))
	} else {
		opts = append(opts, otlptracegrpc.WithInsecure())
	}
	exporter, err := otlptracegrpc.New(context.Background(), opts...)
	if err != nil {
		return nil, fmt.Errorf("telemetry.traces: %w", err)
	}
	return traceTo(exporter, c.Sample, o, reg), nil
}

// traceTo makes a tracer that sends to an exporter.
func traceTo(exporter sdktrace.SpanExporter, part float64, o Options, reg prometheus.Registerer) *Tracer {
	spans := Counters(reg, "stagecoach_trace_spans_total", "Spans that were sent to the collector, or dropped because it did not take them in time.", "outcome")
	b := &bounded{exporter: exporter, log: o.Logger, sent: spans.WithLabelValues("sent"), lost: spans.WithLabelValues("dropped")}
	b.SpanProcessor = sdktrace.NewBatchSpanProcessor((*counted)(b), sdktrace.WithMaxQueueSize(queued), sdktrace.WithMaxExportBatchSize(batch),
		sdktrace.WithBatchTimeout(batchDelay), sdktrace.WithExportTimeout(exportTime))
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithIDGenerator(ids{}), sdktrace.WithSpanProcessor(b),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.namespace", "stagecoach"), attribute.String("service.name", o.Service),
			attribute.String("service.instance.id", o.Instance), attribute.String("service.version", o.Version))),
		sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{AttributeValueLengthLimit: 256, AttributeCountLimit: 32, EventCountLimit: 16, LinkCountLimit: 4,
			AttributePerEventCountLimit: 8, AttributePerLinkCountLimit: 4}))
	return &Tracer{provider: provider, tracer: provider.Tracer("github.com/stagecoachmail/stagecoach"), spans: b, below: threshold(part)}
}

func (t *Tracer) close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// bounded takes no more spans than the batches' queue holds, and so never waits, and knows what is dropped.
type bounded struct {
	sdktrace.SpanProcessor
	exporter   sdktrace.SpanExporter
	log        *slog.Logger
	sent, lost prometheus.Counter
	waiting    atomic.Int64

	mu       sync.Mutex
	unsaid   int
	last     error
	lastSaid time.Time
}

// OnEnd implements sdktrace.SpanProcessor.
func (b *bounded) OnEnd(s sdktrace.ReadOnlySpan) {
	if b.waiting.Add(1) > queued {
		b.waiting.Add(-1)
		b.dropped(1, errors.New("too many wait to be sent"))
		return
	}
	b.SpanProcessor.OnEnd(s)
}

// dropped counts spans, and tells the log once a minute.
func (b *bounded) dropped(n int, cause error) {
	b.lost.Add(float64(n))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unsaid += n
	b.last = cause
	if now := time.Now(); now.Sub(b.lastSaid) >= complain {
		b.log.Warn("spans were dropped", "spans", b.unsaid, "error", b.last)
		b.lastSaid, b.unsaid = now, 0
	}
}

// counted is the exporter behind the batches. It never fails: what it could not send is dropped.
type counted bounded

// ExportSpans implements sdktrace.SpanExporter.
func (c *counted) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := c.exporter.ExportSpans(ctx, spans)
	c.waiting.Add(-int64(len(spans)))
	if err != nil {
		(*bounded)(c).dropped(len(spans), err)
		return nil
	}
	c.sent.Add(float64(len(spans)))
	return nil
}

// Shutdown implements sdktrace.SpanExporter.
func (c *counted) Shutdown(ctx context.Context) error { return c.exporter.Shutdown(ctx) }

// random gives ids that nobody has.
type random struct{}

// NewIDs implements sdktrace.IDGenerator.
func (random) NewIDs(ctx context.Context) (t trace.TraceID, s trace.SpanID) {
	_, _ = rand.Read(t[:]) // never fails
	return t, random{}.NewSpanID(ctx, t)
}

// NewSpanID implements sdktrace.IDGenerator.
func (random) NewSpanID(context.Context, trace.TraceID) (s trace.SpanID) {
	_, _ = rand.Read(s[:]) // never fails
	return s
}
