// Package tally counts what an ingress does. One set of counters feeds both the metrics and the operator's statistics. A nil
// *Tally counts nothing. Who is on the way of every message keeps what it counts with; looking a name up takes no lock.
package tally

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// Tally is that of one process.
type Tally struct {
	listeners, chains, stages, routes named

	opened                    *prometheus.GaugeVec
	sessions, failedLogins    *prometheus.CounterVec
	refusals                  *prometheus.CounterVec
	acceptedMail, acceptBytes *prometheus.CounterVec
	recipients                *prometheus.CounterVec
	reports, edits            *prometheus.CounterVec
	hopTime                   *prometheus.HistogramVec
	fates                     *prometheus.CounterVec
	delivery                  prometheus.Histogram
	refusedNow, refusedGood   prometheus.Counter
	spool                     Spool
}

// named are the counters of names, made when a name is first counted.
type named struct{ m sync.Map }

// of gives what name counts with.
func of[T any](n *named, name string, make func(string) *T) *T {
	if v, ok := n.m.Load(name); ok {
		return v.(*T)
	}
	v, _ := n.m.LoadOrStore(name, make(name))
	return v.(*T)
}

// New registers the counters with r.
func New(r prometheus.Registerer) *Tally {
	t := &Tally{
		opened:       telemetry.Register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "stagecoach_smtp_sessions_open", Help: "SMTP sessions now."}, []string{"listener"})),
		sessions:     telemetry.Counters(r, "stagecoach_smtp_sessions_total", "SMTP sessions that began.", "listener"),
		failedLogins: telemetry.Counters(r, "stagecoach_smtp_login_failures_total", "Logins with a wrong user or password.", "listener"),
		refusals: telemetry.Counters(r, "stagecoach_smtp_refusals_total", "Refusing replies to connections, MAIL, RCPT, DATA, and messages (commit), by class of code and subject of the enhanced code (RFC 3463, section 4).",
			"listener", "at", "class", "reason"),
		acceptedMail: telemetry.Counters(r, "stagecoach_accepted_messages_total", "Messages with a 250.", "listener"),
		acceptBytes:  telemetry.Counters(r, "stagecoach_accepted_bytes_total", "Bytes of the messages with a 250.", "listener"),
		recipients: telemetry.Counters(r, "stagecoach_recipients_total", "Recipients by what became of them: accepted, and then delivered, discarded, reported (to the sender) or deleted (by a person), once each; waited and held as often as it happens.",
			"chain", "event"),
		reports: telemetry.Counters(r, "stagecoach_hop_reports_total", "Reports of stages that messages passed, one for each branch: continue, reject, defer, quarantine, discard, failed, skipped, shadow.", "stage", "outcome"),
		edits:   telemetry.Counters(r, "stagecoach_hop_edits_total", "Reports of stages with edits.", "stage"),
		hopTime: telemetry.Histograms(r, "stagecoach_hop_seconds", "How long stages judged, as they report it.", telemetry.Seconds, "stage"),
		fates:   telemetry.Counters(r, "stagecoach_route_fates_total", "Fates of recipients that egress gave: delivered, deferred, rejected, refused, unknown.", "route", "fate"),
		delivery: telemetry.Register(r, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "stagecoach_delivery_seconds",
			Help: "From the 250 to the last delivery of a message that met no wait, once for each of its chains.", Buckets: telemetry.Seconds})),
		refusedNow:  prometheus.NewCounter(prometheus.CounterOpts{Name: "refused_now"}), // sums of refusals, for the statistics
		refusedGood: prometheus.NewCounter(prometheus.CounterOpts{Name: "refused_good"}),
	}
	t.spool = Spool{
		append: telemetry.Register(r, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "stagecoach_spool_append_seconds",
			Help: "How long a record of the log took until it was durable.", Buckets: telemetry.Seconds})),
		entries: telemetry.Register(r, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "stagecoach_spool_append_entries",
			Help: "How many entries shared a record of the log, and so a sync.", Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256}})),
	}
	return t
}

// Spool counts what the log does.
type Spool struct{ append, entries prometheus.Histogram }

// Spool is nil for a nil Tally.
func (t *Tally) Spool() *Spool {
	if t == nil {
		return nil
	}
	return &t.spool
}

// Appended counts a record that is durable.
func (s *Spool) Appended(took time.Duration, entries int) {
	if s != nil {
		s.append.Observe(took.Seconds())
		s.entries.Observe(float64(entries))
	}
}

// Listener counts for one listener.
type Listener struct {
	t            *Tally
	name         string
	open         prometheus.Gauge
	sessions     prometheus.Counter
	failedLogins prometheus.Counter
	mail, bytes  prometheus.Counter
}

// Listener gives the counters of a listener of the configuration.
func (t *Tally) Listener(name string) *Listener {
	if t == nil {
		return nil
	}
	return of(&t.listeners, name, func(name string) *Listener {
		return &Listener{t: t, name: name, open: t.opened.WithLabelValues(name), sessions: t.sessions.WithLabelValues(name),
			failedLogins: t.failedLogins.WithLabelValues(name), mail: t.acceptedMail.WithLabelValues(name), bytes: t.acceptBytes.WithLabelValues(name)}
	})
}

// Opened counts a session that begins.
func (l *Listener) Opened() {
	if l != nil {
		l.open.Inc()
		l.sessions.Inc()
	}
}

// Closed counts a session that ends.
func (l *Listener) Closed() {
	if l != nil {
		l.open.Dec()
	}
}

// LoginFailed counts a wrong user or password.
func (l *Listener) LoginFailed() {
	if l != nil {
		l.failedLogins.Inc()
	}
}

// Accepted counts a message with its 250.
func (l *Listener) Accepted(bytes int64) {
	if l != nil {
		l.mail.Inc()
		l.bytes.Add(float64(bytes))
	}
}

// Refused counts a refusing reply; at is connect, mail, rcpt, data or commit.
func (l *Listener) Refused(at string, r *mail.Reply) {
	if l == nil || r == nil {
		return
	}
	if r.Temporary() {
		l.t.refusedNow.Inc()
	} else {
		l.t.refusedGood.Inc()
	}
	l.t.refusals.WithLabelValues(l.name, at, strconv.Itoa(r.Code/100)+"xx", subject(r.Enhanced)).Inc()
}

// subjects are those of an enhanced code (RFC 3463, section 4).
var subjects = [...]string{"other", "address", "mailbox", "system", "network", "protocol", "content", "policy"}

func subject(enhanced string) string {
	part := strings.Split(enhanced, ".")
	if len(part) != 3 {
		return subjects[0]
	}
	n, err := strconv.Atoi(part[1])
	if err != nil || n < 0 || n >= len(subjects) {
		return subjects[0]
	}
	return subjects[n]
}

// Event is what happened to recipients.
type Event int

// The events.
const (
	Accepted Event = iota
	Delivered
	Discarded
	Reported
	Deleted
	Waited
	Held
	events
)

var eventNames = [events]string{"accepted", "delivered", "discarded", "reported", "deleted", "waited", "held"}

type chainOf struct{ count [events]prometheus.Counter }

func (t *Tally) chain(name string) *chainOf {
	return of(&t.chains, name, func(name string) *chainOf {
		c := &chainOf{}
		for i, event := range eventNames {
			c.count[i] = t.recipients.WithLabelValues(name, event)
		}
		return c
	})
}

// Recipients counts an event of n recipients of a chain.
func (t *Tally) Recipients(chain string, e Event, n int) {
	if t != nil && n > 0 {
		t.chain(chain).count[e].Add(float64(n))
	}
}

// Delivered counts how long a message took that met no wait.
func (t *Tally) Delivered(took time.Duration) {
	if t != nil {
		t.delivery.Observe(took.Seconds())
	}
}

// The outcomes of a hop.
const (
	continued = iota
	rejected
	deferred
	quarantined
	discarded
	failed
	skipped
	shadow
	outcomes
)

var outcomeNames = [outcomes]string{"continue", "reject", "defer", "quarantine", "discard", "failed", "skipped", "shadow"}

type stageOf struct {
	outcome [outcomes]prometheus.Counter
	edited  prometheus.Counter
	took    prometheus.Observer
}

func (t *Tally) stage(name string) *stageOf {
	return of(&t.stages, name, func(name string) *stageOf {
		s := &stageOf{edited: t.edits.WithLabelValues(name), took: t.hopTime.WithLabelValues(name)}
		for i, outcome := range outcomeNames {
			s.outcome[i] = t.reports.WithLabelValues(name, outcome)
		}
		return s
	})
}

// Report counts what a hop said; inShadow: without effect.
func (t *Tally) Report(rep *chain.Report, inShadow bool) {
	if t == nil {
		return
	}
	s := t.stage(rep.Instance)
	s.took.Observe(rep.Took.Seconds())
	if !rep.Edits.Empty() || rep.EditsOmitted {
		s.edited.Inc()
	}
	s.outcome[outcomeOf(rep, inShadow)].Inc()
}

func outcomeOf(rep *chain.Report, inShadow bool) int {
	switch {
	case inShadow:
		return shadow
	case rep.Outcome == chain.Skipped:
		return skipped
	case rep.Outcome == chain.Failed:
		return failed
	}
	switch rep.Verdict {
	case stage.KindContinue:
		return continued
	case stage.KindReject:
		return rejected
	case stage.KindDefer:
		return deferred
	case stage.KindQuarantine:
		return quarantined
	case stage.KindDiscard:
		return discarded
	}
	return failed
}

var fateNames = [...]chain.FateKind{chain.Delivered, chain.Deferred, chain.Rejected, chain.Refused, chain.Unknown}

type routeOf struct {
	fate [len(fateNames)]prometheus.Counter
}

func (t *Tally) route(name string) *routeOf {
	return of(&t.routes, name, func(name string) *routeOf {
		r := &routeOf{}
		for i, fate := range fateNames {
			r.fate[i] = t.fates.WithLabelValues(name, string(fate))
		}
		return r
	})
}

// Fate counts a fate under a route, if it is egress's and not a stage's.
func (t *Tally) Fate(route string, f *chain.Fate) {
	if t == nil || f.Concern == chain.AboutHop && f.About != chain.EgressHop || f.Concern == chain.AboutRecipient && f.About != "" {
		return
	}
	for i, kind := range fateNames {
		if f.Kind == kind {
			t.route(route).fate[i].Inc()
		}
	}
}
