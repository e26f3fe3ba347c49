package tally

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// Read gives everything counted so far, names in order. Each number is of its own moment.
func (t *Tally) Read() *adminv1.GetStatisticsResponse {
	out := &adminv1.GetStatisticsResponse{RefusedForGood: telemetry.Count(t.refusedGood), RefusedForNow: telemetry.Count(t.refusedNow), Latency: latency(t.delivery)}
	each(&t.listeners, func(name string, l *Listener) {
		out.Accepted += telemetry.Count(l.mail)
		out.AcceptedBytes += telemetry.Count(l.bytes)
		out.Listeners = append(out.Listeners, &adminv1.ListenerStatistics{Name: name, Open: gauge(l.open), Sessions: telemetry.Count(l.sessions), FailedLogins: telemetry.Count(l.failedLogins)})
	})
	each(&t.chains, func(name string, c *chainOf) {
		n := func(e Event) uint64 { return telemetry.Count(c.count[e]) }
		out.Chains = append(out.Chains, &adminv1.ChainStatistics{Name: name, Accepted: n(Accepted), Delivered: n(Delivered), Discarded: n(Discarded),
			Reported: n(Reported), Deleted: n(Deleted), Waits: n(Waited), Held: n(Held)})
	})
	each(&t.stages, func(name string, s *stageOf) {
		n := func(outcome int) uint64 { return telemetry.Count(s.outcome[outcome]) }
		out.Stages = append(out.Stages, &adminv1.StageStatistics{Name: name, Continued: n(continued), Rejected: n(rejected), Deferred: n(deferred),
			Quarantined: n(quarantined), Discarded: n(discarded), Failed: n(failed), Skipped: n(skipped), Edited: telemetry.Count(s.edited),
			Shadow: n(shadow), Latency: latency(s.took)})
	})
	each(&t.routes, func(name string, r *routeOf) {
		out.Routes = append(out.Routes, &adminv1.RouteStatistics{Name: name, Delivered: telemetry.Count(r.fate[0]), Deferred: telemetry.Count(r.fate[1]),
			Rejected: telemetry.Count(r.fate[2]), Unknown: telemetry.Count(r.fate[4])})
	})
	return out
}

// each calls f for every name, in order.
func each[T any](n *named, f func(string, *T)) {
	var names []string
	n.m.Range(func(k, _ any) bool { names = append(names, k.(string)); return true })
	slices.SortFunc(names, strings.Compare)
	for _, name := range names {
		if v, ok := n.m.Load(name); ok {
			f(name, v.(*T))
		}
	}
}

func gauge(g prometheus.Gauge) uint64 {
	var m dto.Metric
	if g.Write(&m) != nil {
		return 0
	}
	return uint64(max(m.GetGauge().GetValue(), 0))
}

func latency(h prometheus.Observer) *adminv1.Latency {
	count, total, buckets := telemetry.Latency(h)
	l := &adminv1.Latency{Count: count, Total: durationpb.New(total)}
	for _, b := range buckets {
		one := &adminv1.LatencyBucket{Count: b.Count}
		if b.Most > time.Duration(0) {
			one.Most = durationpb.New(b.Most)
		}
		l.Buckets = append(l.Buckets, one)
	}
	return l
}
