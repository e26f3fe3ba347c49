package telemetry

import (
	"context"
	"encoding/hex"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// traceparent is the metadata key, and the header field of a mail, with the place in a trace (W3C Trace Context, section 3.2).
const traceparent = "traceparent"

// ParseTraceparent reads a traceparent; what is malformed, or not sampled, gives an invalid context.
func ParseTraceparent(v string) trace.SpanContext {
	// version "-" trace-id "-" parent-id "-" trace-flags; a later version may have more after another "-".
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' || v[:2] == "ff" || (v[:2] == "00" && len(v) != 55) || (len(v) > 55 && v[55] != '-') {
		return trace.SpanContext{}
	}
	var version, flags [1]byte
	if !lowerHex(v[:2], version[:]) || !lowerHex(v[53:55], flags[:]) || flags[0]&1 == 0 {
		return trace.SpanContext{}
	}
	var t trace.TraceID
	var s trace.SpanID
	if !lowerHex(v[3:35], t[:]) || !lowerHex(v[36:52], s[:]) {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: t, SpanID: s, TraceFlags: trace.FlagsSampled, Remote: true})
}

// lowerHex decodes, and takes no capitals (section 3.2.2).
func lowerHex(s string, into []byte) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	_, err := hex.Decode(into, []byte(s))
	return err == nil
}

func format(sc trace.SpanContext) string {
	return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-01"
}

// outgoing adds the place in the trace to a call, if that is sampled.
func outgoing(ctx context.Context) context.Context {
	if sc := trace.SpanContextFromContext(ctx); sc.IsSampled() {
		return metadata.AppendToOutgoingContext(ctx, traceparent, format(sc))
	}
	return ctx
}

// DialOptions carry sampled traces to other processes; none if t is off. The library's instrumentation costs each call, also
// those that nobody traces; this costs the others a look into the context.
func (t *Tracer) DialOptions() []grpc.DialOption {
	if t == nil {
		return nil
	}
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return call(outgoing(ctx), method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(outgoing(ctx), desc, cc, method, opts...)
		}),
	}
}

// ServerOptions go on with the sampled traces of callers; none if t is off.
func (t *Tracer) ServerOptions() []grpc.ServerOption {
	if t == nil {
		return nil
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			ctx, span := t.incoming(ctx, info.FullMethod)
			resp, err := next(ctx, req)
			span.ended(err)
			return resp, err
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			ctx, span := t.incoming(stream.Context(), info.FullMethod)
			if span == nil {
				return next(srv, stream)
			}
			err := next(srv, &tracedStream{stream, ctx})
			span.ended(err)
			return err
		}),
	}
}

// incoming starts a span below the caller's, if that is sampled.
func (t *Tracer) incoming(ctx context.Context, method string) (context.Context, *Span) {
	v := metadata.ValueFromIncomingContext(ctx, traceparent)
	if len(v) != 1 {
		return ctx, nil
	}
	sc := ParseTraceparent(v[0])
	if !sc.IsValid() {
		return ctx, nil
	}
	return t.Start(trace.ContextWithRemoteSpanContext(ctx, sc), "serve", attribute.String("rpc.method", method))
}

func (s *Span) ended(err error) {
	if err != nil {
		s.Fail(status.Code(err).String())
	}
	s.End()
}

type tracedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *tracedStream) Context() context.Context { return s.ctx }
