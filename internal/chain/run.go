package chain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// Runner carries parcels: through the stages of this process, and to hops elsewhere.
type Runner struct {
	// Stages are those of this process; nil if there are none.
	Stages *Stages
	// Egress is the Carrier of this process; nil if there is none.
	Egress Carrier
	// Network reaches hops in other processes; nil if there are none.
	Network Network
	Logger  *slog.Logger
	// Now is the clock of the hop reports.
	Now func() time.Time
	// Observer counts and traces; nil: nobody does.
	Observer *Observer

	shadows atomic.Int64 // that judge now
}

// With is a Runner with another end and another log. What it judges in shadow it counts for itself.
func (r *Runner) With(egress Carrier, log *slog.Logger) *Runner {
	return &Runner{Stages: r.Stages, Egress: egress, Network: r.Network, Logger: log, Now: r.Now, Observer: r.Observer}
}

// Network reaches hops in other processes.
type Network interface {
	// Relay hands p to its first hop (or to egress, if none is left) and passes on what comes back. If it returns
	// a NotHandedOver, nothing was handed over and no fate was given; else recipients without a fate are unknown.
	Relay(ctx context.Context, p *Parcel, s Sink) error
	// Process lets the hop judge m and no more.
	Process(ctx context.Context, h Hop, m *mail.Message) (stage.Result, error)
}

// NotHandedOver says that a hop did not take the message.
type NotHandedOver struct {
	// Unknown says that the hop is there but does not know the instance or its configuration: the message waits,
	// whatever on_error says.
	Unknown bool
	Cause   error
}

// Error gives the cause.
func (e *NotHandedOver) Error() string {
	if e.Unknown {
		return "refused: " + e.Cause.Error()
	}
	return "not handed over: " + e.Cause.Error()
}

// Unwrap returns the cause.
func (e *NotHandedOver) Unwrap() error { return e.Cause }

// EgressHop is the name under which fates speak of the egress service itself.
const EgressHop = "egress"

// Run carries p along its slip. When it returns, each of p.Pending has had its fate, and the stages in shadow have said
// what they had to say, which may be long after the last fate. It holds on to p.Content for no longer than that.
func (r *Runner) Run(ctx context.Context, p *Parcel, s Sink) {
	l := newLedger(p.Pending, s)
	r.run(ctx, p, l)
	l.settle(Fate{Kind: Unknown, Concern: AboutHop, About: r.name(p), Reason: "the hop ended without a fate"})
	l.shadows.Wait()
}

// RunHere is Run for the service that the first hop names: it judges here, whatever address the hop bears.
func (r *Runner) RunHere(ctx context.Context, p *Parcel, s Sink) error {
	l := newLedger(p.Pending, s)
	ctx = r.Observer.message(ctx, p.ID)
	if len(p.Slip.Hops) == 0 {
		if r.Egress == nil {
			return &NotHandedOver{Unknown: true, Cause: errors.New("no egress here")}
		}
		r.Egress.Carry(ctx, p, l)
	} else if h := p.Slip.Hops[0]; h.Shadow { // the hop before does not know that it could have gone on
		q := *p
		q.Slip.Hops = slices.Clone(p.Slip.Hops)
		q.Slip.Hops[0].Address = ""
		r.run(ctx, &q, l)
	} else {
		local, ok := r.Stages.acquire(h.Instance, h.Hash)
		if !ok {
			return &NotHandedOver{Unknown: true, Cause: fmt.Errorf("stage %s with configuration %.12s is not here", h.Instance, h.Hash)}
		}
		defer local.release()
		r.judge(ctx, p, local, local.traits, l)
	}
	l.settle(Fate{Kind: Unknown, Concern: AboutHop, About: r.name(p), Reason: "the hop ended without a fate"})
	l.shadows.Wait()
	return nil
}

func (r *Runner) name(p *Parcel) string {
	if len(p.Slip.Hops) == 0 {
		return EgressHop
	}
	return p.Slip.Hops[0].Instance
}

func (r *Runner) run(ctx context.Context, p *Parcel, s *ledger) {
	if err := ctx.Err(); err != nil {
		fates(s, p.Pending, Fate{Kind: Refused, Concern: AboutHop, About: r.name(p), Reason: err.Error()})
		return
	}
	if len(p.Slip.Hops) == 0 {
		r.deliver(ctx, p, s)
		return
	}
	h := p.Slip.Hops[0]
	switch {
	case h.Shadow:
		r.beside(ctx, p, s)
		r.run(ctx, p.next(p.Message), s)
	case h.Address == "":
		local, ok := r.Stages.acquire(h.Instance, h.Hash)
		if !ok {
			r.wait(p, h, "this process does not run it with this configuration", s)
			return
		}
		defer local.release()
		r.judge(ctx, p, local, local.traits, s)
	case r.Network == nil:
		r.wait(p, h, "no network to reach "+h.Address, s)
	case h.ProcessOnly || p.Slip.comesBack():
		remote := stage.Func(func(ctx context.Context, m *mail.Message) (stage.Result, error) {
			return r.Network.Process(ctx, h, m)
		})
		// The caller's table of traits was checked against Describe when the connection was made.
		r.judge(ctx, p, remote, r.Stages.foreign(h.Type), s)
	default:
		ctx, end := r.Observer.relay(ctx, p, h.Instance)
		err := r.Network.Relay(ctx, p, s)
		end(err)
		if not, ok := errors.AsType[*NotHandedOver](err); ok {
			r.unreached(ctx, p, h, not, s)
		}
	}
}

// comesBack says that what follows the first hop is in this process, where that hop cannot reach it: then it judges
// and no more.
// Stages in shadow are followed by others.
func (s *Slip) comesBack() bool {
	for _, h := range s.Hops[1:] {
		if h.Address == "" || !h.Shadow {
			return h.Address == ""
		}
	}
	return s.Route.Address == ""
}

func (r *Runner) deliver(ctx context.Context, p *Parcel, s Sink) {
	route := p.Slip.Route
	if route.Address == "" {
		if r.Egress == nil {
			fates(s, p.Pending, Fate{Kind: Refused, Concern: AboutHop, About: EgressHop, Reason: "no egress in this process"})
			return
		}
		r.Egress.Carry(ctx, p, s)
		return
	}
	if r.Network == nil {
		fates(s, p.Pending, Fate{Kind: Refused, Concern: AboutHop, About: EgressHop, Reason: "no network to reach " + route.Address})
		return
	}
	ctx, end := r.Observer.relay(ctx, p, EgressHop)
	err := r.Network.Relay(ctx, p, s)
	end(err)
	if not, ok := errors.AsType[*NotHandedOver](err); ok {
		f := Fate{Kind: Refused, Concern: AboutHop, About: EgressHop, Reason: err.Error()}
		if not.Unknown {
			f.Concern, f.About = AboutRoute, route.Name
		}
		fates(s, p.Pending, f)
	}
}

// wait refuses the message at h: it waits, whatever on_error says.
func (r *Runner) wait(p *Parcel, h Hop, why string, s Sink) {
	fates(s, p.Pending, Fate{Kind: Refused, Concern: AboutHop, About: h.Instance, Reason: why})
}

// judge runs one stage here and acts on its result.
func (r *Runner) judge(ctx context.Context, p *Parcel, st stage.Stage, traits stage.Traits, s *ledger) {
	h := p.Slip.Hops[0]
	start := r.Now()
	res, err := r.observed(ctx, st, traits, h, &p.Message)
	took := r.Now().Sub(start)
	if ctx.Err() != nil && err != nil {
		// The caller has gone, the stage did not fail: nothing was handed on.
		r.wait(p, h, ctx.Err().Error(), s)
		return
	}
	// Whatever its timeout ran out on, even on connecting: it did not answer in time.
	if not, ok := errors.AsType[*NotHandedOver](err); ok && status.Code(err) != codes.DeadlineExceeded {
		r.unreached(ctx, p, h, not, s)
		return
	}
	var branches []branch
	if err == nil {
		branches, err = split(res, &p.Message, h)
	}
	if err != nil {
		r.failed(ctx, p, h, err, took, s)
		return
	}
	defer func() {
		for _, b := range branches {
			b.message.Content.Release()
		}
	}()
	for _, b := range branches {
		s.Report(b.report(h, res, p.Content, took))
	}
	var wg sync.WaitGroup
	for i, b := range branches {
		if b.Verdict.Kind != stage.KindContinue {
			fates(s, b.to, FateOf(h, b.Verdict))
			continue
		}
		next := p.next(b.message)
		if i == len(branches)-1 {
			r.run(ctx, next, s)
			break
		}
		wg.Go(func() { r.run(ctx, next, s) })
	}
	wg.Wait()
}

func (p *Parcel) next(m mail.Message) *Parcel {
	q := &Parcel{Message: m, Slip: p.Slip}
	q.Slip.Hops = p.Slip.Hops[1:]
	return q
}

// FateOf is the fate that a verdict other than Continue gives.
func FateOf(h Hop, v stage.Verdict) Fate {
	f := Fate{Concern: AboutRecipient, About: h.Instance, Reply: v.Reply, Reason: v.Reason}
	switch v.Kind {
	case stage.KindReject:
		f.Kind = Rejected
	case stage.KindDefer:
		f.Kind, f.After = Deferred, v.After
	case stage.KindQuarantine:
		f.Kind = Quarantined
	case stage.KindDiscard:
		f.Kind = Discarded
	}
	return f
}

// failed does what on_error says of a stage that ran and failed.
func (r *Runner) failed(ctx context.Context, p *Parcel, h Hop, cause error, took time.Duration, s *ledger) {
	r.Logger.LogAttrs(ctx, slog.LevelWarn, "stage failed", slog.String("id", p.ID), slog.String("stage", h.Instance),
		slog.String("on_error", string(h.OnError)), slog.String("error", cause.Error()))
	rep := Report{Instance: h.Instance, Hash: h.Hash, Recipients: slices.Clone(p.Pending), Outcome: Failed, Took: took, Reason: cause.Error()}
	switch {
	case h.OnError == OnErrorSkip:
		rep.Outcome = Skipped
		s.Report(rep)
		r.run(ctx, p.next(p.Message), s)
	case h.OnError == OnErrorQuarantine:
		s.Report(rep)
		fates(s, p.Pending, Fate{Kind: Quarantined, Concern: AboutHop, About: h.Instance, Reason: cause.Error(), ByError: true})
	default:
		s.Report(rep)
		f := Fate{Kind: Deferred, Concern: AboutHop, About: h.Instance, Reason: cause.Error()}
		if reply, ok := mail.AsReply(cause); ok {
			f.Reply = reply
		}
		fates(s, p.Pending, f)
	}
}

// over says that the caller's time was over. A callee may have noticed it first, and said so.
func over(ctx context.Context, err error) bool {
	code := status.Code(err)
	return ctx.Err() != nil || code == codes.DeadlineExceeded || code == codes.Canceled
}

// unreached does what on_error says of a stage that did not take the message. One that does not know the instance or
// its configuration is no failure of the stage: the message waits for it.
func (r *Runner) unreached(ctx context.Context, p *Parcel, h Hop, not *NotHandedOver, s *ledger) {
	defers := h.OnError != OnErrorSkip && h.OnError != OnErrorQuarantine
	if over(ctx, not) || not.Unknown || defers {
		r.wait(p, h, not.Error(), s)
		return
	}
	r.failed(ctx, p, h, not, 0, s)
}
