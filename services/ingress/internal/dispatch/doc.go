// Package dispatch is hop zero of every chain: it takes an accepted message, runs it along its chains, settles each
// recipient as its fate arrives, and wakes what waits.
//
// A run is one Relay of some recipients of a message along one slip. It is made from the configuration that is
// current when the run starts: what the message has behind it (the hops done) is kept as far as it equals the head
// of the chain, and run again from the first difference.
//
//	delivered, discarded            -> ended
//	rejected                        -> a DSN to a trusted sender; else dead (a stranger), or discarded (null sender)
//	deferred by a recipient or host -> retry, by the schedule; after five days as rejected
//	deferred or refused by a hop or route -> park: a failure of ours never becomes a bounce
//	unknown                         -> retry, or park if a hop broke; if leave for the final dot was given, no sooner
//	                                   than 15 s after it
//	quarantined                     -> held for a person
//
// A hop or route that is down has a gate: what needs it is parked at once, one message probes it, and the rest
// follows when it is well. After a break, the messages that were at the hop are tried one at a time; those that may
// not run yet, because leave for the dot was given, do not keep the others. Whoever opens or removes a gate, and
// whoever has put on record that a message waits before one, looks for messages that nothing keeps any more: so no
// message sleeps for ever.
//
// A route that a person has paused is another thing: its mail is parked for it before all else, gets no leave for a final
// dot, and nothing probes it. Whether it is down besides is its gate's business.
package dispatch
