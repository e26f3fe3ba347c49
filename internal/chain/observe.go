package chain

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"

	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// Observer counts what the stages of a process do, and makes spans of the hops of sampled messages. A nil one does nothing.
type Observer struct {
	process *prometheus.HistogramVec
	tracer  *telemetry.Tracer
}

// NewObserver registers with t; nil: an Observer that nobody looks at.
func NewObserver(t *telemetry.Telemetry) *Observer {
	return &Observer{tracer: t.Tracer(), process: telemetry.Histograms(t.Registerer(), "stagecoach_stage_process_seconds",
		"How long stages of this process judged, by what they said: continue, reject, defer, quarantine, discard, fork (not the same for all), failed, timeout.", telemetry.Seconds, "stage", "outcome")}
}

// observed is Judge, counted and traced. What is judged elsewhere is counted there.
func (r *Runner) observed(ctx context.Context, st stage.Stage, traits stage.Traits, h Hop, m *mail.Message) (stage.Result, error) {
	o := r.Observer
	if o == nil {
		return Judge(ctx, st, traits, h, m)
	}
	_, here := st.(*entry)
	ctx, span := o.tracer.Start(ctx, "process", attribute.String("stagecoach.stage", h.Instance), attribute.String("stagecoach.id", m.ID), attribute.Bool("stagecoach.remote", !here))
	start := r.Now()
	res, err := Judge(ctx, st, traits, h, m)
	said := verdictOf(&res, err)
	if here {
		o.process.WithLabelValues(h.Instance, said).Observe(r.Now().Sub(start).Seconds())
	}
	span.Set(attribute.String("stagecoach.verdict", said))
	if err != nil {
		span.Fail(said)
	}
	span.End()
	return res, err
}

func verdictOf(res *stage.Result, err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case err != nil:
		return "failed"
	case len(res.Forks) > 0:
		return "fork"
	}
	return res.Verdict.Kind.String()
}

// message makes the spans of what came from elsewhere part of the trace of its message.
func (o *Observer) message(ctx context.Context, id string) context.Context {
	if o == nil {
		return ctx
	}
	return o.tracer.Message(ctx, id, false)
}

// relay starts the span of a Relay to another process; the function ends it.
func (o *Observer) relay(ctx context.Context, p *Parcel, to string) (context.Context, func(error)) {
	if o == nil || o.tracer == nil {
		return ctx, func(error) {}
	}
	ctx, span := o.tracer.Start(ctx, "relay", attribute.String("stagecoach.hop", to), attribute.String("stagecoach.id", p.ID))
	return ctx, func(err error) {
		if err != nil {
			span.Fail("not handed over")
		}
		span.End()
	}
}
