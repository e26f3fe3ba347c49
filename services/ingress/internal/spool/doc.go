// Package spool is the log of one ingress: the only place that decides whether a message was accepted and what
// became of it. A 250 is sent after the accepted entry is on stable storage, a message is forgotten after its
// settled entry is.
//
// An ingress instance owns one Shard: the JetStream streams SPOOL_<instance> (the log), BODY_<instance> (bodies
// over 256 KiB, in chunks of 1 MiB) and DEPOT_<instance> (where mail waits, a view of the log). Ownership is a
// lease and a fence: every append carries the expected last sequence, so that of two writers one is refused.
//
// Messages run straight from memory. The log is read only when a shard is taken over: its entries are replayed,
// from the floor, onto the depot, and what is then unsettled runs again.
//
// # The way of a record
//
// Accept, Settle and Void make entries and put them into the queue. While one record is being synced the entries
// that arrive wait; together they become the next record (small ones up to 512 KiB, one of 32 KiB or more by
// itself): one publish, one sync, one acknowledgement for all of them. What one call of Settle brings, the DSNs too,
// stands in one record.
//
// The appender publishes the records in order. Each carries the sequence that the stream must have before it, and a
// Msg-Id. When an acknowledgement does not come, or is a refusal, nothing more is published until the fate of every
// record in flight is known: what stands at a record's sequence is read back. It is ours: stored. There is nothing:
// the record is repeated, with the same Msg-Id and expected sequence, so that a late first copy and the repeat
// cannot both be stored. It is another's: the shard is fenced; Done is closed and every call gives ErrFenced.
//
// When a record is durable the ledger learns its entries, in the order of the log, and then the callers are
// answered. An Accept whose caller gave up before that (Times.Append, or its context) is followed in the queue by a
// void entry; as the log has one order, the void always stands after what it voids.
//
// A message that waits is written into the depot after its entry: first, once, its bytes, then its value with the
// log sequence that it reflects. One that is over is deleted there, and its chunks with it. The depot's writes have
// an appender of their own, so that those of a stale owner are refused as well. Every end and wait goes on the
// trail.
//
// A record is needed while a message accepted or settled in it has unsettled recipients, or a change of the depot
// or an end on the trail that is not acknowledged. The floor is the oldest record that is needed; about once a
// second what is below it is purged.
//
// # Taking over
//
// Open takes the lease, appends a takeover entry to the log and a mark to the depot (from here on every earlier
// owner is refused in both), reads the log up to the entry and the depot up to the mark, in this order, and applies
// the log to the depot's values. A value says which sequence it reflects, and an end is never replaced: replaying
// twice changes nothing. Chunks that belong to no message are deleted. Recovered.NotBefore is when the first of
// what was found may be run.
//
// A process that has not renewed its lease for half of its time has no leave: MayGo is false, and it purges
// nothing. It may go on accepting: if another had taken over, the fence would have refused it.
//
// # What is stored
//
// Protocol buffers, proto/stagecoach/spool/v1: Record in SPOOL, Waiting in DEPOT, Lease in LEASES, TrailRecord in
// TRAIL. Each carries its format's version.
package spool
