package service

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/telemetry"
)

// OpenTelemetry begins to show metrics and traces of this process, as c says. Changes of that part of the file take effect
// at the next start. pki, if not nil, is the service's own certificate, whose end is shown.
func OpenTelemetry(c *config.Config, name, instance string, pki *PKI, log *slog.Logger) (*telemetry.Telemetry, error) {
	o := telemetry.Options{Metrics: c.Telemetry.Metrics, Service: name, Instance: instance, Version: Version(), Logger: log}
	if t := c.Telemetry.Traces; t != nil {
		o.Traces = &telemetry.Traces{Endpoint: t.Endpoint, CAFile: t.CAFile, Sample: t.Sample}
	}
	t, err := telemetry.Open(o)
	if err != nil {
		return nil, err
	}
	t.SetRevision(c.Revision)
	if pki != nil {
		observe(t, pki)
	}
	return t, nil
}

// observe shows when the service's own certificate ends.
func observe(t *telemetry.Telemetry, pki *PKI) {
	t.Registerer().MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "stagecoach_service_certificate_expiry_timestamp_seconds",
		Help: "When the certificate ends that the service shows to other services, in Unix time."}, func() float64 { return float64(pki.Ends().Unix()) }))
}
