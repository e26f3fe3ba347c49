// Package promcheck checks deploy/observability by Prometheus' own code: the alerts' form and what they fire on, and that
// every metric and label of the alerts and of the dashboard stands in docs/metrics.md. It is a module outside the workspace,
// since Prometheus is large: GOWORK=off go -C tools/promcheck test ./...
package promcheck
