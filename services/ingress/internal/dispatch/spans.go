package dispatch

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// traceRun starts the span of a run. Whether the message is traced is told by its id, and by a traceparent of its trusted
// sender, which stands in its header: an attempt after days finds the same.
func (d *Dispatcher) traceRun(ctx context.Context, r *run, m *mail.Message) (context.Context, *telemetry.Span) {
	t := d.o.Tracer
	if !t.On() {
		return ctx, nil
	}
	ctx = t.Message(ctx, m.ID, telemetry.SenderTrace(&r.job.message).IsValid())
	return t.Start(ctx, "attempt", attribute.String("stagecoach.id", m.ID), attribute.String("stagecoach.chain", r.slip.Chain), attribute.String("stagecoach.route", r.slip.Route.Name),
		attribute.String("stagecoach.revision", r.slip.Revision), attribute.Int("stagecoach.attempt", m.Attempt), attribute.Int("stagecoach.recipients", len(m.Pending)))
}

// traceEnd ends the span of a run.
func (r *run) traceEnd(span *telemetry.Span) {
	r.mu.Lock()
	delivered := r.arrivals
	r.mu.Unlock()
	span.Set(attribute.Int("stagecoach.delivered", delivered))
	span.End()
}

// traceReport makes the span with which the trace of a report of ours begins, and links it with that of its cause.
func (d *Dispatcher) traceReport(r *run, dsn *spool.Accepted, at time.Time) {
	t := d.o.Tracer
	if !t.Traced(&r.job.message) {
		return
	}
	_, span := t.Begin(context.Background(), dsn.ID, "report", at, telemetry.About(r.job.message.ID), attribute.String("stagecoach.id", dsn.ID),
		attribute.String("stagecoach.reports", r.job.message.ID))
	span.End()
}
