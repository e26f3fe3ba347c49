// Package notices tells the postmaster by mail what he would otherwise have to look for: what is down for long and when
// it is over, certificates that end, what fills up, mail that is held, and mail loops.
//
// A Teller looks at the state of its ingress from time to time. What is worth a notice is collected for a minute, claimed
// in a bucket that all ingresses share, so that it is told once, and sent as mail of our own.
package notices
