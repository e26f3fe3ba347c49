package egress

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtpclient"
)

// metrics are those of an Egress; nil counts nothing.
type metrics struct {
	attempts, replies, connections, reused *prometheus.CounterVec
	took, connecting                       *prometheus.HistogramVec
	tracer                                 *telemetry.Tracer
}

func newMetrics(t *telemetry.Telemetry, e *Egress) *metrics {
	r := t.Registerer()
	r.MustRegister(&pools{e: e, sessions: prometheus.NewDesc("stagecoach_egress_pool_sessions", "SMTP sessions with other hosts: busy (connecting too) and idle.", []string{"route", "state"}, nil)})
	return &metrics{tracer: t.Tracer(),
		attempts:    telemetry.Counters(r, "stagecoach_egress_attempts_total", "Attempts for a recipient, by what came of it: delivered, deferred, rejected, refused, unknown.", "route", "result"),
		replies:     telemetry.Counters(r, "stagecoach_egress_replies_total", "Replies that decided an attempt, by class of code: 2xx, 4xx, 5xx.", "route", "class"),
		connections: telemetry.Counters(r, "stagecoach_egress_connections_total", "Connections to other hosts, by how it went: the TLS version, plain, or failed (also a login, or a refusing greeting).", "route", "result"),
		reused:      telemetry.Counters(r, "stagecoach_egress_sessions_reused_total", "Sessions that carried one more transaction.", "route"),
		took:        telemetry.Histograms(r, "stagecoach_egress_attempt_seconds", "From the start of an attempt to the fate of a recipient.", telemetry.Seconds, "route"),
		connecting:  telemetry.Histograms(r, "stagecoach_egress_connect_seconds", "Connecting, with greeting, TLS and login.", telemetry.Seconds, "route"),
	}
}

// routeMetrics are the counters of one route, looked up once.
type routeMetrics struct {
	m          *metrics
	name       string
	fates      map[chain.FateKind]prometheus.Counter
	classes    map[int]prometheus.Counter
	reused     prometheus.Counter
	took       prometheus.Observer
	connecting prometheus.Observer
}

func (m *metrics) route(name string) *routeMetrics {
	if m == nil {
		return nil
	}
	r := &routeMetrics{m: m, name: name, fates: map[chain.FateKind]prometheus.Counter{}, classes: map[int]prometheus.Counter{},
		reused: m.reused.WithLabelValues(name), took: m.took.WithLabelValues(name), connecting: m.connecting.WithLabelValues(name)}
	for _, kind := range []chain.FateKind{chain.Delivered, chain.Deferred, chain.Rejected, chain.Refused, chain.Unknown} {
		r.fates[kind] = m.attempts.WithLabelValues(name, string(kind))
	}
	for _, class := range []int{2, 4, 5} {
		r.classes[class] = m.replies.WithLabelValues(name, strconv.Itoa(class)+"xx")
	}
	return r
}

// settled counts the fate of one recipient.
func (r *routeMetrics) settled(f *chain.Fate, took time.Duration) {
	if r == nil {
		return
	}
	if c, ok := r.fates[f.Kind]; ok {
		c.Inc()
	}
	if f.Reply != nil {
		if c, ok := r.classes[f.Reply.Code/100]; ok {
			c.Inc()
		}
	}
	r.took.Observe(took.Seconds())
}

// connected counts a connection, or one that could not be made.
func (r *routeMetrics) connected(c *smtpclient.Client, err error, took time.Duration) {
	if r == nil {
		return
	}
	result := "plain"
	switch {
	case err != nil:
		result = "failed"
	case c.TLS() != "":
		result = c.TLS()
	}
	r.m.connections.WithLabelValues(r.name, result).Inc()
	r.connecting.Observe(took.Seconds())
}

// again counts a session that carries one more transaction.
func (r *routeMetrics) again() {
	if r != nil {
		r.reused.Inc()
	}
}

// span starts that of an attempt.
func (m *metrics) span(ctx context.Context, p *chain.Parcel) (context.Context, *telemetry.Span) {
	if m == nil {
		return ctx, nil
	}
	return m.tracer.Start(ctx, "deliver", attribute.String("stagecoach.id", p.ID), attribute.String("stagecoach.route", p.Slip.Route.Name),
		attribute.Int("stagecoach.attempt", p.Attempt), attribute.Int("stagecoach.recipients", len(p.Pending)))
}

// trace adds what became of a recipient to the span of its attempt: no address, and no text of the reply.
func (d *delivery) trace(f *chain.Fate) {
	if d.span == nil {
		return
	}
	attrs := []attribute.KeyValue{attribute.String("stagecoach.fate", string(f.Kind))}
	if f.Reply != nil {
		attrs = append(attrs, attribute.String("stagecoach.reply_class", strconv.Itoa(f.Reply.Code/100)+"xx"))
	}
	d.span.Set(attrs...)
	if f.Kind != chain.Delivered {
		d.span.Fail(string(f.Kind))
	}
}

// pools shows the sessions of every route.
type pools struct {
	e        *Egress
	sessions *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (p *pools) Describe(ch chan<- *prometheus.Desc) { ch <- p.sessions }

// Collect implements prometheus.Collector.
func (p *pools) Collect(ch chan<- prometheus.Metric) {
	for name, n := range p.e.routes.sessions() {
		ch <- prometheus.MustNewConstMetric(p.sessions, prometheus.GaugeValue, float64(n[0]), name, "busy")
		ch <- prometheus.MustNewConstMetric(p.sessions, prometheus.GaugeValue, float64(n[1]), name, "idle")
	}
}

// sessions are the busy and idle ones of every route by name.
func (rs *routes) sessions() map[string][2]int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	out := map[string][2]int{}
	for _, r := range rs.all {
		w, ok := r.way.(interface{ sessions() (busy, idle int) })
		if !ok {
			continue
		}
		busy, idle := w.sessions()
		n := out[r.name]
		out[r.name] = [2]int{n[0] + busy, n[1] + idle}
	}
	return out
}

// sessions are those of a pool.
func (o *outbound) sessions() (busy, idle int) {
	o.pool.mu.Lock()
	defer o.pool.mu.Unlock()
	for _, h := range o.pool.hosts {
		busy += len(h.slots)
		idle += len(h.idle)
	}
	return busy, idle
}
