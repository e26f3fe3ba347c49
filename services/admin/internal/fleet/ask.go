package fleet

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/service"
)

const (
	// lookWithin bounds what only looks, changeWithin what changes something; a caller may want it sooner.
	lookWithin   = 10 * time.Second
	changeWithin = time.Minute
	// aliveWithin is how soon a process has to say that it is there, where any of several will do.
	aliveWithin = 2 * time.Second
	// mostWhy bounds what is told of one process that is missing, in bytes.
	mostWhy = 300
)

// Missing is the trailer that names the processes whose part is not in an answer, and why.
const Missing = "stagecoach-missing"

// dialer makes a client of a service of the API.
type dialer[C any] func(grpc.ClientConnInterface) C

// answer is what one process said.
type answer[A any] struct {
	from  *process
	value A
	err   error
}

// all makes the same call to several processes at once, in the name of who calls us.
func all[A any](ctx context.Context, to []*process, within time.Duration, call func(context.Context, *process) (A, error)) []answer[A] {
	ctx, cancel := context.WithTimeout(service.WithActor(ctx, service.Actor(ctx)), within)
	defer cancel()
	out := make([]answer[A], len(to))
	var wg sync.WaitGroup
	for i, p := range to {
		out[i].from = p
		if out[i].err = p.err; p.err != nil {
			continue
		}
		wg.Go(func() { out[i].value, out[i].err = call(ctx, p) })
	}
	wg.Wait()
	return out
}

// each asks all processes of a service.
func each[C, Q, A any](ctx context.Context, f *Fleet, of string, within time.Duration, dial dialer[C], method func(C, context.Context, Q, ...grpc.CallOption) (A, error), req Q) []answer[A] {
	return all(ctx, f.find(ctx, of), within, func(ctx context.Context, p *process) (A, error) { return method(dial(p.conn), ctx, req) })
}

// good gives the answers that came; those that are missing are told in the trailer. The error is that none came.
func good[A any](ctx context.Context, of string, answers []answer[A]) ([]answer[A], error) {
	var out []answer[A]
	var gone []string
	var worst error
	for _, a := range answers {
		if a.err == nil {
			out = append(out, a)
			continue
		}
		gone = append(gone, a.from.name()+": "+why(a.err))
		if worst == nil || away(worst) && !away(a.err) {
			worst = named(a.from, a.err)
		}
	}
	switch {
	case len(out) > 0:
		missing(ctx, gone)
		return out, nil
	case worst != nil:
		return nil, worst
	}
	return nil, none(of)
}

func none(of string) error {
	switch of {
	case ingress, egress:
		return status.Errorf(codes.FailedPrecondition, "%s has no address in the configuration", of)
	}
	return status.Errorf(codes.NotFound, "there is no stage of the type %s", of)
}

// missing puts into the trailer what is not in the answer.
func missing(ctx context.Context, gone []string) {
	for _, text := range gone {
		_ = grpc.SetTrailer(ctx, metadata.Pairs(Missing, text)) //nolint:errcheck // fails where nobody listens: in a test
	}
}

// why is an error in one line of ASCII, as a trailer can carry it.
func why(err error) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, service.Why(err))
	return text[:min(len(text), mostWhy)]
}

// named is an error with the name of the process in it.
func named(p *process, err error) error {
	return status.Errorf(status.Code(err), "%s: %s", p.name(), why(err))
}

// away says that an error is not an answer: nobody was there, or not in time.
func away(err error) bool {
	c := status.Code(err)
	return c == codes.Unavailable || c == codes.DeadlineExceeded || c == codes.Unknown || c == codes.Canceled
}

// alive gives the processes of a service that answer, those first that say that they serve.
func (f *Fleet) alive(ctx context.Context, of string) ([]*process, error) {
	answers := all(ctx, f.find(ctx, of), aliveWithin, func(ctx context.Context, p *process) (bool, error) {
		h, err := healthv1.NewHealthClient(p.conn).Check(ctx, &healthv1.HealthCheckRequest{})
		if err != nil && away(err) {
			return false, err
		}
		return h.GetStatus() == healthv1.HealthCheckResponse_SERVING, nil
	})
	var serving, others []*process
	var worst error
	for _, a := range answers {
		switch {
		case a.err != nil:
			worst = named(a.from, a.err)
		case a.value:
			serving = append(serving, a.from)
		default:
			others = append(others, a.from)
		}
	}
	if out := append(serving, others...); len(out) > 0 {
		return out, nil
	}
	if worst != nil {
		return nil, worst
	}
	return nil, none(of)
}

// look asks one process of a service, whichever answers.
func look[C, Q, A any](ctx context.Context, f *Fleet, of string, dial dialer[C], method func(C, context.Context, Q, ...grpc.CallOption) (A, error), req Q) (A, error) {
	return one(ctx, f, of, true, changeWithin, dial, method, req)
}

// change has one process of a service do something. It is not asked of another one when the first breaks off: it may
// have been done.
func change[C, Q, A any](ctx context.Context, f *Fleet, of string, dial dialer[C], method func(C, context.Context, Q, ...grpc.CallOption) (A, error), req Q) (A, error) {
	return one(ctx, f, of, false, changeWithin, dial, method, req)
}

func one[C, Q, A any](ctx context.Context, f *Fleet, of string, again bool, within time.Duration, dial dialer[C], method func(C, context.Context, Q, ...grpc.CallOption) (A, error), req Q) (resp A, err error) {
	to, err := f.alive(ctx, of)
	if err != nil {
		return resp, err
	}
	ctx, cancel := context.WithTimeout(service.WithActor(ctx, service.Actor(ctx)), within)
	defer cancel()
	for _, p := range to {
		if resp, err = method(dial(p.conn), ctx, req); err == nil || !again || status.Code(err) != codes.Unavailable {
			break
		}
	}
	return resp, err
}
