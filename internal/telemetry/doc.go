// Package telemetry is what a process shows of itself to those who watch it: metrics over HTTP for Prometheus, and traces
// by OTLP for an OpenTelemetry collector. Everything is per process object, nothing is global: several may run side by
// side. A nil *Telemetry, and a nil *Tracer, are switched off, and cost a comparison.
//
// Labels are names from the configuration and small fixed sets. An address, a host of somebody else's, or an id is never
// one.
package telemetry
