// Package ingress is the service that accepts mail: SMTP in, the log, and the dispatcher that runs every message
// along its chains.
package ingress
