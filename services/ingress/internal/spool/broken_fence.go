//go:build broken_fence && !broken_ack

package spool

// The expected last sequence is switched off. Only test/faults builds this.
const (
	ackAfterAppend = true
	fenced         = false
)
