package config

import "net/url"

// Telemetry is what a service tells of itself to those who watch it.
type Telemetry struct {
	// Metrics is the host:port on which each service serves its metrics over HTTP; empty: none.
	Metrics string
	// Traces is nil: none are sent.
	Traces *Traces
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

type rawTelemetry struct {
	Metrics val[string]    `yaml:"metrics"`
	Traces  val[rawTraces] `yaml:"traces"`
}

type rawTraces struct {
	Endpoint val[string]  `yaml:"endpoint"`
	CAFile   val[string]  `yaml:"ca_file"`
	Sample   val[float64] `yaml:"sample"`
}

// DefaultSample is the part of the messages that is traced.
const DefaultSample = 0.01

func (b *builder) telemetry() {
	raw, t := &b.raw.Telemetry.V, &b.c.Telemetry
	if v := &raw.Metrics; v.ok() {
		if _, _, err := hostPort(v.V, 0); err != nil {
			b.p.add(v.at, v.path, "%v", err)
		}
		t.Metrics = v.V
	}
	if !raw.Traces.set {
		return
	}
	traces := &raw.Traces.V
	t.Traces = &Traces{Endpoint: traces.Endpoint.V, CAFile: b.file(&traces.CAFile, b.o.Service), Sample: DefaultSample}
	if traces.Endpoint.missing() {
		b.missing(raw.Traces.at, raw.Traces.path, "endpoint", "")
	} else if v := &traces.Endpoint; v.ok() {
		u, err := url.Parse(v.V)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Port() == "" || u.Hostname() == "" || u.User != nil || (u.Path != "" && u.Path != "/") {
			b.p.add(v.at, v.path, "is not a collector such as http://collector:4317")
		}
	}
	if v := &traces.Sample; v.ok() {
		if v.V < 0 || v.V > 1 {
			b.p.add(v.at, v.path, "must be between 0 and 1")
		}
		t.Traces.Sample = v.V
	}
}
