package chain

import (
	"context"
	"slices"

	"github.com/stagecoachmail/stagecoach/mail"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
)

// SlipProto is s on the wire.
func SlipProto(s Slip) *relayv1.Slip { return slipProto(s) }

// WithoutEffect is the reason in the report of a hop that a preview passes over.
const WithoutEffect = "has effects outside of the message: not run in a preview"

// Viewer sees what a preview comes to. It is safe for concurrent use.
type Viewer interface {
	// Report tells that a hop was run; it comes before anything that follows from it.
	Report(Report)
	// Leaves tells that p would go out by the route of the slip, for its pending recipients, as it is now.
	Leaves(ctx context.Context, p *Parcel)
	// Ends tells what else became of a recipient.
	Ends(Fate)
}

// Preview runs p along its slip as Run would, without effect: each hop judges (Process, never Relay), its edits are
// applied, and what would be delivered is shown to v instead. Hops for which effects says so are passed over, with a
// report. Each of p.Pending comes to one end.
func (r *Runner) Preview(ctx context.Context, p *Parcel, effects func(Hop) bool, v Viewer) {
	q := *p
	q.Slip.Hops = slices.Clone(p.Slip.Hops)
	for i := range q.Slip.Hops {
		q.Slip.Hops[i].ProcessOnly = true
	}
	leg := previewLeg{runner: r, effects: effects, viewer: v, route: p.Slip.Route}
	leg.run(ctx, &q)
}

// previewLeg is the part of a preview from one hop with effects to the next. It ends as a chain does: by being carried
// out.
type previewLeg struct {
	runner  *Runner
	effects func(Hop) bool
	viewer  Viewer
	route   Route
	rest    []Hop // behind this leg; the first one is passed over
}

// run runs p up to the next hop with effects, or to its end.
func (l previewLeg) run(ctx context.Context, p *Parcel) {
	n := slices.IndexFunc(p.Slip.Hops, l.effects)
	if n < 0 {
		n = len(p.Slip.Hops)
	}
	l.rest = p.Slip.Hops[n:]
	leg := *p
	leg.Slip.Hops = p.Slip.Hops[:n:n]
	leg.Slip.Route.Address = "" // it ends in this process
	r := l.runner.With(l, l.runner.Logger)
	r.Run(ctx, &leg, previewSink{l.viewer})
}

// Carry implements Carrier.
func (l previewLeg) Carry(ctx context.Context, p *Parcel, s Sink) {
	defer fates(s, p.Pending, Fate{Kind: Delivered})
	if len(l.rest) == 0 {
		p.Slip.Route = l.route
		l.viewer.Leaves(ctx, p)
		return
	}
	h := l.rest[0]
	s.Report(Report{Instance: h.Instance, Hash: h.Hash, Recipients: slices.Clone(p.Pending), Outcome: Skipped, Reason: WithoutEffect, Shadow: h.Shadow})
	next := *p
	next.Slip.Hops = l.rest[1:]
	l.run(ctx, &next)
}

// previewSink is a Viewer as a Sink. What Carry gives is no end: it has been shown.
type previewSink struct{ v Viewer }

func (s previewSink) Report(r Report) { s.v.Report(r) }

func (s previewSink) Fate(f Fate) {
	if f.Kind != Delivered {
		s.v.Ends(f)
	}
}

// Ready gives no leave: nothing is delivered.
func (s previewSink) Ready(context.Context, []mail.RecipientID) error { return context.Canceled }
