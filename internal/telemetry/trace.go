package telemetry

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Tracer makes the spans of one process. The trace of a message is derived from the message's id, and so is whether it is
// sampled: every attempt, also after days and by another process, is in the same trace, and nothing is kept for that.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	spans    *bounded
	below    uint64 // sampled, if the last 63 bits of the trace id are
}

// Span is one that is under way; a nil one is not sampled, and all its methods do nothing.
type Span struct{ s trace.Span }

// derived are the ids of a message: those of its trace, and of the span that began it.
func derived(id string) (trace.TraceID, trace.SpanID) {
	sum := sha256.Sum256([]byte("stagecoach message " + id))
	return trace.TraceID(sum[:16]), trace.SpanID(sum[16:24])
}

// TraceID is the id of a message's trace, in hex.
func TraceID(id string) string {
	t, _ := derived(id)
	return t.String()
}

// threshold is below which the last 63 bits of a trace id are sampled: the rule of OpenTelemetry's TraceIdRatioBased, so
// that others who go by it agree.
func threshold(part float64) uint64 {
	if part >= 1 {
		return math.MaxUint64
	}
	return uint64(part * (1 << 63))
}

func (t *Tracer) sampled(id trace.TraceID) bool {
	return binary.BigEndian.Uint64(id[8:])>>1 < t.below
}

// On says whether traces are sent at all.
func (t *Tracer) On() bool { return t != nil }

// Message makes spans started under the context part of the trace of the message id, if that is sampled; force samples
// it in any case. A context that bears a sampled span already keeps it: a caller's trace goes on.
func (t *Tracer) Message(ctx context.Context, id string, force bool) context.Context {
	if t == nil || trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx
	}
	tid, sid := derived(id)
	if !force && !t.sampled(tid) {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: tid, SpanID: sid, TraceFlags: trace.FlagsSampled, Remote: true}))
}

// Begin starts the first span of the message id, which began at the given time; all others are below it. link, if it is
// valid, is what the sender has traced: it is linked, and the message is sampled.
func (t *Tracer) Begin(ctx context.Context, id, name string, at time.Time, link trace.SpanContext, attrs ...attribute.KeyValue) (context.Context, *Span) {
	if t == nil {
		return ctx, nil
	}
	tid, _ := derived(id)
	if !link.IsValid() && !t.sampled(tid) {
		return ctx, nil
	}
	opts := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithTimestamp(at), trace.WithAttributes(attrs...)}
	if link.IsValid() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: link}))
	}
	ctx, s := t.tracer.Start(context.WithValue(ctx, beginning{}, id), name, opts...)
	return ctx, &Span{s}
}

// About is the place of the message id in its trace, to be linked from another one's.
func About(id string) trace.SpanContext {
	tid, sid := derived(id)
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: tid, SpanID: sid, TraceFlags: trace.FlagsSampled, Remote: true})
}

// Start starts a span below the one of the context, if that is sampled.
func (t *Tracer) Start(ctx context.Context, name string, attrs ...attribute.KeyValue) (context.Context, *Span) {
	if t == nil || !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, nil
	}
	ctx, s := t.tracer.Start(ctx, name, trace.WithAttributes(attrs...))
	return ctx, &Span{s}
}

// Set adds attributes.
func (s *Span) Set(attrs ...attribute.KeyValue) {
	if s != nil {
		s.s.SetAttributes(attrs...)
	}
}

// Fail marks the span as failed. why is a word of ours, never what others say: a reply may hold an address.
func (s *Span) Fail(why string) {
	if s != nil {
		s.s.SetStatus(codes.Error, why)
	}
}

// End ends the span.
func (s *Span) End() {
	if s != nil {
		s.s.End()
	}
}

// beginning is the key of the message whose first span is being made.
type beginning struct{}

// ids gives the first span of a message the ids that are derived from the message's id; others get random ones.
type ids struct{ random }

// NewIDs implements sdktrace.IDGenerator.
func (g ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if id, ok := ctx.Value(beginning{}).(string); ok {
		return derived(id)
	}
	return g.random.NewIDs(ctx)
}
