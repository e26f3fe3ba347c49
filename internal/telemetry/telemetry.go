package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// EnvMetrics is the environment variable with the host:port for metrics, in place of telemetry.metrics: several services
// of one file may run on one machine. "off" serves none.
const EnvMetrics = "STAGECOACH_METRICS"

// Options of a Telemetry.
type Options struct {
	// Metrics is the host:port on which metrics are served over HTTP; empty: none.
	Metrics string
	// Traces is nil: none are sent.
	Traces *Traces
	// Service is the name of the program: ingress, egress, a type of stage, up.
	Service string
	// Instance tells replicas apart in traces; the machine's name if empty.
	Instance string
	// Version of the program.
	Version string
	Logger  *slog.Logger
	// Getenv is os.Getenv if nil.
	Getenv func(string) string
}

// Traces are sent to a collector by OTLP over gRPC.
type Traces struct {
	// Endpoint is http://host:port or https://host:port.
	Endpoint string
	// CAFile has the roots by which an https endpoint is verified; empty: the system's.
	CAFile string
	// Sample is the part of the messages that is traced, 0 to 1.
	Sample float64
}

// Telemetry is that of one process. Make one with Open, and Close it last.
type Telemetry struct {
	registry *prometheus.Registry
	tracer   *Tracer
	server   *server
	revision atomic.Pointer[string]
	health   atomic.Pointer[func() error]
}

// Open opens the port for metrics, if one is configured, and begins to send traces, if a collector is. A port that
// cannot be opened is an error; a collector that cannot be reached is none.
func Open(o Options) (*Telemetry, error) {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Instance == "" {
		o.Instance, _ = os.Hostname() // without one the traces have no instance
	}
	t := &Telemetry{registry: prometheus.NewRegistry()}
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "stagecoach_build_info", Help: "Always 1: the version of the program, its service and the Go version.",
			ConstLabels: prometheus.Labels{"version": o.Version, "service": o.Service, "go": runtime.Version()}}, func() float64 { return 1 }),
		&revisionCollector{t: t, desc: prometheus.NewDesc("stagecoach_config_info", "Always 1: the revision of the configuration in force.", []string{"service", "revision"}, nil), service: o.Service})
	var err error
	if t.tracer, err = newTracer(o, t.registry); err != nil {
		return nil, err
	}
	address := o.Metrics
	if v := o.Getenv(EnvMetrics); v != "" {
		address = v
	}
	if address == "" || address == "off" {
		return t, nil
	}
	if t.server, err = listen(address, t, o.Logger); err != nil {
		return nil, errors.Join(fmt.Errorf("serve metrics: %w (telemetry.metrics, or %s)", err, EnvMetrics), t.tracer.close(context.Background()))
	}
	o.Logger.Info("metrics", "address", t.Addr())
	return t, nil
}

// Registerer takes metrics; that of a nil Telemetry shows them to nobody.
func (t *Telemetry) Registerer() prometheus.Registerer {
	if t == nil {
		return prometheus.NewRegistry()
	}
	return t.registry
}

// Gatherer gives all metrics.
func (t *Telemetry) Gatherer() prometheus.Gatherer { return t.registry }

// Tracer is nil if no traces are sent.
func (t *Telemetry) Tracer() *Tracer {
	if t == nil {
		return nil
	}
	return t.tracer
}

// Addr is the address at which metrics are served; empty: they are not.
func (t *Telemetry) Addr() string {
	if t == nil || t.server == nil {
		return ""
	}
	return t.server.addr()
}

// SetRevision tells which revision of the configuration is in force.
func (t *Telemetry) SetRevision(revision string) {
	if t != nil {
		t.revision.Store(&revision)
	}
}

// SetHealth gives /healthz its answer: nil is 200, an error 503 with its text. Without it /healthz is 200.
func (t *Telemetry) SetHealth(f func() error) {
	if t != nil {
		t.health.Store(&f)
	}
}

// closeGrace is how long the last spans may take to be sent.
const closeGrace = 2 * time.Second

// Close stops serving, and sends what spans are left if that takes no longer than 2 s.
func (t *Telemetry) Close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	err := t.tracer.close(ctx)
	if t.server != nil {
		err = errors.Join(err, t.server.close())
	}
	return err
}

// revisionCollector shows the revision as a label: of several processes the values can be compared.
type revisionCollector struct {
	t       *Telemetry
	desc    *prometheus.Desc
	service string
}

func (c *revisionCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *revisionCollector) Collect(ch chan<- prometheus.Metric) {
	if r := c.t.revision.Load(); r != nil {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, 1, c.service, *r)
	}
}
