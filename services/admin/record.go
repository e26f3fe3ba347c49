package admin

import (
	"context"
	"log/slog"
	"path"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/stagecoachmail/stagecoach/internal/service"
)

// maxRequest is how much of a request is put on record, in bytes.
const maxRequest = 2 << 10

// identify gives the context of a call in the name of who is at the other end of the connection; what the caller says
// of himself is dropped.
func identify(ctx context.Context) (context.Context, error) {
	p, ok := grpcpeer.FromContext(ctx)
	if ok {
		if who, ok := p.AuthInfo.(peer); ok {
			return service.AsActor(ctx, who.person()), nil
		}
	}
	return nil, status.Error(codes.Unauthenticated, "nobody is known at the other end of this connection")
}

func identifyUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := identify(ctx)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func identifyStream(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := identify(s.Context())
	if err != nil {
		return err
	}
	return next(srv, &streamAs{s, ctx})
}

// streamAs is a stream with another context.
type streamAs struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *streamAs) Context() context.Context { return s.ctx }

// record puts every call that changes something, or that shows the content of mail, into the log.
type record struct {
	log *slog.Logger
	now func() time.Time
}

func (r *record) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if !recorded(info.FullMethod) {
		return next(ctx, req)
	}
	start := r.now()
	resp, err := next(ctx, req)
	r.enter(ctx, info.FullMethod, request(req), start, err)
	return resp, err
}

func (r *record) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if !recorded(info.FullMethod) {
		return next(srv, s)
	}
	start := r.now()
	first := &firstRequest{ServerStream: s}
	err := next(srv, first)
	r.enter(s.Context(), info.FullMethod, first.text, start, err)
	return err
}

// firstRequest remembers the first message that came in.
type firstRequest struct {
	grpc.ServerStream
	seen bool
	text string
}

// RecvMsg implements grpc.ServerStream.
func (f *firstRequest) RecvMsg(m any) error {
	err := f.ServerStream.RecvMsg(m)
	if err == nil && !f.seen {
		f.seen, f.text = true, request(m)
	}
	return err
}

func (r *record) enter(ctx context.Context, method, request string, start time.Time, err error) {
	attrs := []slog.Attr{slog.String("by", service.Actor(ctx)), slog.String("method", path.Base(method)), slog.String("request", request),
		slog.Duration("took", r.now().Sub(start)), slog.String("code", status.Code(err).String())}
	if err != nil {
		attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
	}
	r.log.LogAttrs(ctx, slog.LevelInfo, "admin", attrs...)
}

// recorded says whether a method of ours changes something or gives out mail. Those that only look have names that say
// so; health and reflection are not ours.
func recorded(method string) bool {
	if !strings.HasPrefix(method, "/stagecoach.") {
		return false
	}
	name := path.Base(method)
	switch name {
	case "GetContent", "GetArchived":
		return true
	}
	for _, looks := range []string{"Get", "List", "Find", "Preview"} {
		if strings.HasPrefix(name, looks) {
			return false
		}
	}
	return true
}

// request is a request in one line, without its secrets.
func request(m any) string {
	p, ok := m.(proto.Message)
	if !ok {
		return ""
	}
	p = proto.Clone(p)
	redact(p.ProtoReflect())
	text, err := protojson.MarshalOptions{}.Marshal(p)
	if err != nil {
		return err.Error()
	}
	if len(text) > maxRequest {
		return strings.ToValidUTF8(string(text[:maxRequest]), "") + "…"
	}
	return string(text)
}

// redact empties the fields that are marked debug_redact.
func redact(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if o, ok := f.Options().(*descriptorpb.FieldOptions); ok && o.GetDebugRedact() {
			m.Clear(f)
			return true
		}
		switch {
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				redact(v.List().Get(i).Message())
			}
		default:
			redact(v.Message())
		}
		return true
	})
}
