package ingress

import (
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

// states are the metrics that are looked up when they are asked for: how this ingress is now.
type states struct {
	in  *Ingress
	all []*prometheus.Desc

	running, admitted, admissible             *prometheus.Desc
	messages, recipients, bytes, oldest       *prometheus.Desc
	down, downSince, paused                   *prometheus.Desc
	accepting, adopted, filled, lease         *prometheus.Desc
	trailEvents, trailBytes, trailDropped     *prometheus.Desc
	natsConnected, natsReconnects, free, ends *prometheus.Desc
}

// observed shows this ingress to those who watch it.
func (in *Ingress) observed() {
	t := in.o.Telemetry
	t.SetRevision(in.o.Config.Revision)
	t.Registerer().MustRegister(newStates(in))
	t.SetHealth(func() error {
		sh := in.shard()
		if sh == nil {
			return errors.New("the shard is not open")
		}
		return sh.log.Ready()
	})
}

func newStates(in *Ingress) *states {
	s := &states{in: in}
	d := func(name, help string, labels ...string) *prometheus.Desc {
		one := prometheus.NewDesc("stagecoach_"+name, help, labels, nil)
		s.all = append(s.all, one)
		return one
	}
	s.running = d("running_messages", "Messages that are on their way through a chain now.")
	s.admitted = d("admission_bytes", "Bytes that are reserved for messages under way.")
	s.admissible = d("admission_limit_bytes", "Bytes that may be reserved; strangers get half.")
	s.messages = d("waiting_messages", "Messages that wait, by room: retry, park, demand, quarantine, dead.", "room")
	s.recipients = d("waiting_recipients", "Recipients that wait.", "room")
	s.bytes = d("waiting_bytes", "Bytes of the messages that wait.", "room")
	s.oldest = d("waiting_oldest_seconds", "How long the one that has been in the room the longest has been there; 0 if the room is empty.", "room")
	s.down = d("down", "1 while a hop or a route is down: its mail waits.", "kind", "name")
	s.downSince = d("down_since_timestamp_seconds", "Since when it is down, in Unix time.", "kind", "name")
	s.paused = d("route_paused", "1 while a person has stopped the route.", "route")
	s.accepting = d("shard_accepting", "1 while the shard takes mail, 0 while clients hear 451 or 452.", "shard")
	s.adopted = d("shard_adopted", "1 if the shard is another instance's, and was taken over.", "shard")
	s.filled = d("shard_filled_ratio", "How full the fullest stream of the shard is; at 0.8 intake stops.", "shard")
	s.lease = d("shard_lease_age_seconds", "How long ago the lease was renewed; nothing is started from 10 s on, at 20 s it has run out.", "shard")
	s.trailEvents = d("trail_waiting_events", "Events that are not written to the trail yet.", "shard")
	s.trailBytes = d("trail_waiting_bytes", "Their bytes; beyond 16 MiB details are dropped.", "shard")
	s.trailDropped = d("trail_dropped_events_total", "Details that the trail does not have, because it was behind, since the shard was opened.", "shard")
	s.natsConnected = d("nats_connected", "1 while NATS is connected.")
	s.natsReconnects = d("nats_reconnects_total", "How often the connection to NATS was made again.")
	s.free = d("disk_free_bytes", "Free bytes of the disk under the embedded NATS.")
	s.ends = d("certificate_expiry_timestamp_seconds", "When the certificate ends that listeners with TLS show, in Unix time.")
	return s
}

// Describe implements prometheus.Collector.
func (s *states) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range s.all {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *states) Collect(ch chan<- prometheus.Metric) {
	in, now := s.in, s.in.now()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(s.running, float64(in.running()))
	used, limit := in.admission.state()
	gauge(s.admitted, float64(used))
	gauge(s.admissible, float64(limit))
	s.rooms(gauge, now)
	for _, b := range in.down() {
		if b.Concern != chain.AboutDestination {
			gauge(s.down, 1, string(b.Concern), b.About)
			gauge(s.downSince, float64(b.Since.UnixMilli())/1000, string(b.Concern), b.About)
		}
	}
	paused := in.pauses.all()
	for name := range in.policy.View().Config().Routes {
		_, stopped := paused[name]
		gauge(s.paused, bit(stopped), name)
	}
	s.shards(ch, gauge, now)
	gauge(s.natsConnected, bit(in.o.Conn.Status() == nats.CONNECTED))
	ch <- prometheus.MustNewConstMetric(s.natsReconnects, prometheus.CounterValue, float64(in.o.Conn.Stats().Reconnects))
	if in.o.FreeSpace != nil {
		if n, err := in.o.FreeSpace(); err == nil {
			gauge(s.free, float64(n))
		}
	}
	if c, ok := in.smtp.Certificate(); ok {
		gauge(s.ends, float64(c.Ends.Unix()))
	}
}

func (s *states) rooms(gauge func(*prometheus.Desc, float64, ...string), now time.Time) {
	for _, name := range roomNames() {
		var all depot.Tally
		for _, one := range s.in.shards() {
			all = sum(all, one.log.Waiting().Room(depot.Room(name)))
		}
		gauge(s.messages, float64(all.Messages), name)
		gauge(s.recipients, float64(all.Recipients), name)
		gauge(s.bytes, float64(all.Bytes), name)
		age := time.Duration(0)
		if !all.Oldest.IsZero() {
			age = max(now.Sub(all.Oldest), 0)
		}
		gauge(s.oldest, age.Seconds(), name)
	}
}

func (s *states) shards(ch chan<- prometheus.Metric, gauge func(*prometheus.Desc, float64, ...string), now time.Time) {
	own := s.in.shard()
	if own == nil {
		gauge(s.accepting, 0, s.in.o.Instance)
	}
	for _, one := range s.in.shards() {
		name := one.log.Instance()
		gauge(s.accepting, bit(one.log.Ready() == nil), name)
		gauge(s.adopted, bit(one != own), name)
		gauge(s.filled, one.log.Filled(), name)
		gauge(s.lease, max(now.Sub(one.log.LastRenewal()), 0).Seconds(), name)
		events, bytes, dropped := one.log.TrailLag()
		gauge(s.trailEvents, float64(events), name)
		gauge(s.trailBytes, float64(bytes), name)
		ch <- prometheus.MustNewConstMetric(s.trailDropped, prometheus.CounterValue, float64(dropped), name)
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
