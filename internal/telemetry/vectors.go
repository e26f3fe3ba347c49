package telemetry

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Seconds are the buckets of what takes from a millisecond to minutes.
var Seconds = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}

// Register registers c, or gives what is registered under its name already: who is made anew after a change of the
// configuration goes on counting. With a nil r nothing is registered.
func Register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	err := r.Register(c)
	if err == nil {
		return c
	}
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if old, ok := already.ExistingCollector.(C); ok {
			return old
		}
	}
	panic(err) // two metrics of one name: a mistake in the program
}

// Counters registers a counter with labels.
func Counters(r prometheus.Registerer, name, help string, labels ...string) *prometheus.CounterVec {
	return Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
}

// Histograms registers a histogram with labels.
func Histograms(r prometheus.Registerer, name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return Register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels))
}

// Count is the value of a counter.
func Count(c prometheus.Counter) uint64 {
	var m dto.Metric
	if c.Write(&m) != nil {
		return 0
	}
	return uint64(m.GetCounter().GetValue())
}

// Bucket is a bucket of a histogram: how many took no longer than Most, without those of the buckets before it. The last
// one has no bound, and Most is 0.
type Bucket struct {
	Most  time.Duration
	Count uint64
}

// Latency gives what a histogram of seconds holds.
func Latency(h prometheus.Observer) (count uint64, total time.Duration, buckets []Bucket) {
	metric, ok := h.(prometheus.Metric)
	var m dto.Metric
	if !ok || metric.Write(&m) != nil {
		return 0, 0, nil
	}
	d := m.GetHistogram()
	before := uint64(0)
	for _, b := range d.GetBucket() {
		buckets = append(buckets, Bucket{Most: time.Duration(b.GetUpperBound() * float64(time.Second)), Count: b.GetCumulativeCount() - before})
		before = b.GetCumulativeCount()
	}
	buckets = append(buckets, Bucket{Count: d.GetSampleCount() - before})
	return d.GetSampleCount(), time.Duration(d.GetSampleSum() * float64(time.Second)), buckets
}
