//go:build broken_fence && !broken_ack

package spool

// The expected last sequence is switched off, and a lost lease does not end the shard: in a test of whole processes
// the one would hide that the other is missing. Only test/faults builds this.
const (
	ackAfterAppend = true
	fenced         = false
)
