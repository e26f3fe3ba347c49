package chain

import (
	"context"
	"log/slog"
	"slices"

	"github.com/stagecoachmail/stagecoach/mail"
)

// mostShadows is how many messages a process judges in shadow at once. Others are passed over: a stage on trial must not
// hold much memory, or work that is needed.
const mostShadows = 64

// TooManyShadows is the reason in the report of a stage in shadow that did not judge a message.
const TooManyShadows = "there are too many messages in shadow at once"

// beside lets the first hop of p, which is in shadow, judge the message while it goes on. What it says is reported when
// it has said it: after the fates of the message, if need be. It keeps nobody from going on, and fails for nobody.
func (r *Runner) beside(ctx context.Context, p *Parcel, l *ledger) {
	h := p.Slip.Hops[0]
	if r.shadows.Add(1) > mostShadows {
		r.shadows.Add(-1)
		l.Report(Report{Instance: h.Instance, Hash: h.Hash, Recipients: slices.Clone(p.Pending), Outcome: Skipped, Reason: TooManyShadows, Shadow: true})
		return
	}
	m := p.Message
	m.Content = p.Content.Retain()
	m.Pending = slices.Clone(p.Pending)
	l.shadows.Go(func() {
		defer r.shadows.Add(-1)
		defer m.Content.Release()
		r.inShadow(ctx, h, &m, l)
	})
}

func (r *Runner) inShadow(ctx context.Context, h Hop, m *mail.Message, l *ledger) {
	start := r.Now()
	judged, err := r.Inline(ctx, h, m)
	if err != nil {
		rep := Report{Instance: h.Instance, Hash: h.Hash, Recipients: m.Pending, Outcome: Failed, Took: r.Now().Sub(start), Reason: err.Error(), Shadow: true}
		if ctx.Err() != nil { // the caller has gone, the stage did not fail
			rep.Outcome = Skipped
		}
		r.Logger.LogAttrs(ctx, slog.LevelInfo, "stage in shadow failed", slog.String("id", m.ID), slog.String("stage", h.Instance), slog.String("error", err.Error()))
		l.Report(rep)
		return
	}
	for _, j := range judged {
		j.Message.Content.Release()
		l.Report(j.Report)
	}
}
