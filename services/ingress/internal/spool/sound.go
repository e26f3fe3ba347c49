//go:build !broken_ack && !broken_fence

package spool

// What the fault tests must be able to see missing: each has a build that is broken on purpose, behind a tag of its
// own, and a test that expects the ledger to show it.
const (
	// ackAfterAppend: a 250 waits for its record.
	ackAfterAppend = true
	// fenced: an append says which sequence it must get, and an owner gives up when the lease is another's.
	fenced = true
)
