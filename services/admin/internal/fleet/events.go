package fleet

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// lookAgain is how often new ingresses are looked for while events are followed.
	lookAgain = 5 * time.Second
	// tailAgain is the wait before one that broke off is followed again.
	tailAgain = time.Second
)

// Events follows all ingresses.
func (f *Fleet) Events() adminv1.EventServiceServer { return &events{f: f} }

type events struct {
	adminv1.UnimplementedEventServiceServer
	f *Fleet
}

// TailEvents implements the service. Of an ingress that cannot be followed a text tells, once until it can be.
func (e *events) TailEvents(r *adminv1.TailEventsRequest, stream grpc.ServerStreamingServer[adminv1.TailEventsResponse]) error {
	ctx, cancel := context.WithCancelCause(service.WithActor(stream.Context(), service.Actor(stream.Context())))
	defer cancel(nil)
	t := &tail{f: e.f, request: r, stream: stream, end: cancel, follows: map[string]bool{}}
	defer t.followers.Wait()
	defer cancel(nil)
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		for _, p := range e.f.find(ctx, ingress) {
			t.follow(ctx, p)
		}
		select {
		case <-ctx.Done():
			return tailEnd(stream.Context(), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// tailEnd is how a stream ends: because the caller wants no more, or because no ingress takes the request.
func tailEnd(caller context.Context, cause error) error {
	if caller.Err() != nil {
		return status.FromContextError(caller.Err()).Err()
	}
	return cause
}

// tail is one caller that follows.
type tail struct {
	f         *Fleet
	request   *adminv1.TailEventsRequest
	end       context.CancelCauseFunc
	followers sync.WaitGroup

	mu      sync.Mutex // one Send at a time
	stream  grpc.ServerStreamingServer[adminv1.TailEventsResponse]
	follows map[string]bool // by name
}

// send gives one event on. A caller that does not take it ends everything.
func (t *tail) send(r *adminv1.TailEventsResponse) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.stream.Send(r); err != nil {
		t.end(err)
	}
}

// follow begins to follow an ingress that is not followed yet, and goes on until it is gone from the configuration and the
// DNS, or the caller is.
func (t *tail) follow(ctx context.Context, p *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.follows[p.name()] {
		return
	}
	t.follows[p.name()] = true
	t.followers.Go(func() {
		told := false
		for ctx.Err() == nil {
			err := t.through(ctx, p, &told)
			switch {
			case ctx.Err() != nil:
				return
			case status.Code(err) == codes.InvalidArgument || status.Code(err) == codes.ResourceExhausted:
				t.end(err) // the request is wrong, or there are too many like it
				return
			case !told:
				told = true
				text := p.name() + " does not tell what happens there"
				if err != nil {
					text += ": " + why(err)
				}
				t.send(&adminv1.TailEventsResponse{Event: &adminv1.TraceEvent{At: timestamppb.New(t.f.now()), Text: text}})
			}
			if !wait(ctx, tailAgain) || !t.still(ctx, p) {
				t.mu.Lock()
				delete(t.follows, p.name())
				t.mu.Unlock()
				return
			}
		}
	})
}

// still says that an ingress is to be found yet.
func (t *tail) still(ctx context.Context, p *process) bool {
	for _, one := range t.f.find(ctx, ingress) {
		if one.name() == p.name() {
			return true
		}
	}
	return false
}

// through gives on what one ingress tells, until that breaks.
func (t *tail) through(ctx context.Context, p *process, told *bool) error {
	if p.err != nil {
		return p.err
	}
	from, err := adminv1.NewEventServiceClient(p.conn).TailEvents(ctx, t.request)
	return pass(from, err, func(r *adminv1.TailEventsResponse) error {
		*told = false
		t.send(r)
		return nil
	})
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
