package admin

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// callTime is the deadline of a call whose caller sets none.
	callTime = time.Minute
	// streamTime is that of a stream: a large message over a slow line. Previews bound themselves to ten minutes.
	streamTime = 15 * time.Minute
)

// admit lets a call through to those that may make it, in the name of who is at the other end of the connection; what the
// caller says of himself is dropped.
func (a *access) admit(ctx context.Context, method string) (context.Context, caller, error) {
	c, ok := callerOf(ctx)
	if !ok {
		return ctx, c, status.Error(codes.Unauthenticated, "nobody is known at the other end of this connection")
	}
	if err := a.may(c, method); err != nil {
		if status.Code(err) == codes.PermissionDenied {
			a.log.Warn("admin: a call was refused", "by", c.name, "from", c.from, "method", shortMethod(method), "error", status.Convert(err).Message())
		}
		return ctx, c, err
	}
	return service.AsActor(ctx, c.name), c, nil
}

func (a *access) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, c, err := a.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(ctx, callTime)
	defer cancel()
	resp, err := next(ctx, req)
	if err != nil {
		return nil, err
	}
	return shownTo(c, resp), nil
}

func (a *access) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, c, err := a.admit(s.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	var cancel context.CancelFunc
	rule, _ := ruleOf(info.FullMethod)
	if rule.endless {
		ctx, cancel = context.WithCancel(ctx)
		defer context.AfterFunc(a.stopping, cancel)()
	} else {
		ctx, cancel = within(ctx, streamTime)
	}
	defer cancel()
	err = next(srv, &admitted{ServerStream: s, ctx: ctx, caller: c, access: a, method: info.FullMethod})
	if rule.endless && a.stopping.Err() != nil {
		return status.Error(codes.Unavailable, "this process stops")
	}
	return err
}

// within gives a call a deadline that has none.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

// admitted is a stream of somebody who may have it. Who may not any more gets nothing further.
type admitted struct {
	grpc.ServerStream
	ctx    context.Context
	caller caller
	access *access
	method string
}

// Context implements grpc.ServerStream.
func (s *admitted) Context() context.Context { return s.ctx }

// SendMsg implements grpc.ServerStream.
func (s *admitted) SendMsg(m any) error {
	if err := s.access.may(s.caller, s.method); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(shownTo(s.caller, m))
}

// shownTo is an answer as a caller may see it: a viewer does not look into mail, and edits have pieces of it in them.
func shownTo(c caller, m any) any {
	p, ok := m.(proto.Message)
	if !ok || c.by == bySocket || c.role > adminv1.Role_ROLE_VIEWER {
		return m
	}
	if !hasContent(p.ProtoReflect()) {
		return m
	}
	p = proto.Clone(p) // the owner may keep what it answered
	dropContent(p.ProtoReflect())
	return p
}

// content are the messages whose bytes are pieces of mail.
var content = map[protoreflect.FullName]bool{
	"stagecoach.stage.v1.Splice": true,
	"stagecoach.relay.v1.Hunk":   true,
	"stagecoach.admin.v1.Hunk":   true,
}

func hasContent(m protoreflect.Message) (found bool) {
	if content[m.Descriptor().FullName()] {
		return true
	}
	below(m, func(sub protoreflect.Message) bool {
		found = hasContent(sub)
		return !found
	})
	return found
}

func dropContent(m protoreflect.Message) {
	if content[m.Descriptor().FullName()] {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			if f := fields.Get(i); f.Kind() == protoreflect.BytesKind {
				m.Clear(f)
			}
		}
	}
	below(m, func(sub protoreflect.Message) bool { dropContent(sub); return true })
}

// below calls f with each message in the fields of m, until it returns false.
func below(m protoreflect.Message, f func(protoreflect.Message) bool) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() == nil {
				return true
			}
			goOn := true
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				goOn = f(v.Message())
				return goOn
			})
			return goOn
		case fd.Message() == nil:
			return true
		case fd.IsList():
			for i := range v.List().Len() {
				if !f(v.List().Get(i).Message()) {
					return false
				}
			}
			return true
		}
		return f(v.Message())
	})
}
