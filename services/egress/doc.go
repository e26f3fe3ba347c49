// Package egress makes delivery attempts: it ends each slip by handing the message to a smarthost, to the exchangers of the
// recipients' domains, or to a maildir, and says what became of every recipient. It keeps no queue: what has to wait
// waits at the ingress.
package egress
