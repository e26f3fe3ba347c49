// Package depot is where mail waits: for a time, for a hop or route to come back, for a person. It is a view of
// the log (package spool), held in memory by the shard's owner and stored, last value per message, in the stream
// DEPOT_<instance> so that the log's floor can pass messages that wait.
//
// A Message is immutable: Settle makes the next one out of it, and that is the only way in which a message changes,
// live and when the log is replayed. View is the index over the messages that wait. Neither knows NATS: package
// spool keeps them stored.
package depot
