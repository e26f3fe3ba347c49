// Package chain carries one message along its slip: run a stage, apply its edits, hand the message to the next
// hop, and stream back what becomes of every recipient.
//
// The dispatcher in ingress is hop zero of every chain; each stage's Relay server and `stagecoach up` run the very
// same code. A hop is in this process (a Local stage) or behind gRPC; Runner.Run does not let its caller see which.
package chain
