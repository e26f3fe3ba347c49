//go:build broken_ack

package spool

// The acknowledgement is moved before the append. Only test/faults builds this.
const (
	ackAfterAppend = false
	fenced         = true
)
