// Package spool is the log of one ingress: the only place that decides whether a message was accepted and what
// became of it. A 250 is sent after the accepted entry is on stable storage, a message is forgotten after its
// settled entry is.
//
// An ingress instance owns one shard: the JetStream streams SPOOL_<instance> (the log), BODY_<instance> (bodies
// over 256 KiB, in chunks of 1 MiB) and DEPOT_<instance> (where mail waits, a view of the log). Ownership is a
// lease and a fence: every append carries the expected last sequence, so that of two writers one is refused.
//
// Messages run straight from memory. The log is read only when a shard is taken over: its entries are replayed,
// from the floor, onto the depot, and what is then unsettled runs again.
package spool
