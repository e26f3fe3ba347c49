package admin

import (
	"context"
	"errors"
	"log/slog"
	"path"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// maxRequest is how much of a request is put on record, in bytes.
const maxRequest = 2 << 10

// record puts every call that changes something, or that shows the content of mail, on record: in the audit log before it
// is carried out, and its outcome there and in the log after.
type record struct {
	log   *slog.Logger
	audit *audit
	now   func() time.Time
}

func (r *record) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if !recorded(info.FullMethod) {
		return next(ctx, req)
	}
	c, err := r.begin(ctx, info.FullMethod, request(req))
	if err != nil {
		return nil, err
	}
	resp, err := next(ctx, req)
	r.end(ctx, c, err)
	return resp, err
}

func (r *record) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if !recorded(info.FullMethod) {
		return next(srv, s)
	}
	first := &firstRequest{ServerStream: s, begin: func(text string) (*call, error) { return r.begin(s.Context(), info.FullMethod, text) }}
	err := next(srv, first)
	if first.call != nil {
		r.end(s.Context(), first.call, err)
	}
	return err
}

// call is a call that is on record as begun.
type call struct {
	entry *adminv1.AuditEntry
	begun uint64 // its sequence in the audit log
	start time.Time
}

// begin puts a call on record. What cannot be put there is not carried out: the error is the answer.
func (r *record) begin(ctx context.Context, method, request string) (*call, error) {
	who, _ := callerOf(ctx)
	start := r.now()
	e := &adminv1.AuditEntry{At: timestamppb.New(start), By: service.Actor(ctx), Role: who.role, From: who.from, Method: shortMethod(method),
		Request: request, RequestId: requestIDOf(ctx), Code: codeBegun}
	seq, err := r.audit.append(ctx, e, 0)
	if err != nil {
		r.log.LogAttrs(ctx, slog.LevelError, "admin: nothing is changed while it cannot be put on record", slog.String("by", e.GetBy()), slog.String("method", e.GetMethod()), slog.Any("error", err))
		return nil, notBegunError{status.Newf(codes.Unavailable, "nothing was done: it cannot be put on record: %v", err)}
	}
	return &call{entry: e, begun: seq, start: start}, nil
}

// notBegunError answers a call that was not carried out.
type notBegunError struct{ s *status.Status }

// Error implements error.
func (e notBegunError) Error() string { return e.s.Err().Error() }

// GRPCStatus is what the caller is told.
func (e notBegunError) GRPCStatus() *status.Status { return e.s }

func notBegun(err error) bool {
	_, ok := errors.AsType[notBegunError](err)
	return ok
}

// end puts the outcome on record, also when the caller is gone.
func (r *record) end(ctx context.Context, c *call, err error) {
	e, took := c.entry, r.now().Sub(c.start)
	attrs := []slog.Attr{slog.String("by", e.GetBy()), slog.String("role", roleName(e.GetRole())), slog.String("from", e.GetFrom()),
		slog.String("method", path.Base(e.GetMethod())), slog.String("request", e.GetRequest()),
		slog.Duration("took", took), slog.String("code", status.Code(err).String())}
	e.Took, e.Code = durationpb.New(took), code.Code(status.Code(err)).String()
	if err != nil {
		e.Error = cut(status.Convert(err).Message())
		attrs = append(attrs, slog.String("error", e.GetError()))
	}
	r.log.LogAttrs(ctx, slog.LevelInfo, "admin", attrs...)
	if _, err := r.audit.append(context.WithoutCancel(ctx), e, c.begun); err != nil {
		r.log.LogAttrs(ctx, slog.LevelError, "admin: the outcome of a call is not on record", slog.String("by", e.GetBy()), slog.String("method", e.GetMethod()),
			slog.Uint64("begun", c.begun), slog.Any("error", err))
	}
}

// firstRequest puts the call on record when its first message has come in; the others are content.
type firstRequest struct {
	grpc.ServerStream
	begin func(text string) (*call, error)
	call  *call
}

// RecvMsg implements grpc.ServerStream.
func (f *firstRequest) RecvMsg(m any) error {
	err := f.ServerStream.RecvMsg(m)
	if err == nil && f.call == nil {
		f.call, err = f.begin(request(m))
	}
	return err
}

// SendMsg implements grpc.ServerStream: nothing is given out that is not on record.
func (f *firstRequest) SendMsg(m any) error {
	if f.call == nil {
		return status.Error(codes.Internal, "an answer before the request")
	}
	return f.ServerStream.SendMsg(m)
}

// recorded says whether a method changes something or gives out mail. Health and reflection are not ours.
func recorded(method string) bool {
	r, known := ruleOf(method)
	return !known || r.does != looks
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
	return cut(string(text))
}

// cut bounds what is put on record, and makes it UTF-8.
func cut(s string) string {
	if len(s) > maxRequest {
		s = s[:maxRequest] + "…"
	}
	return strings.ToValidUTF8(s, "")
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
