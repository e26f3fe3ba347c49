// Package smtpclient is the sending side of SMTP (RFC 5321) as a gateway needs it: it says what every recipient was
// answered, tells "before the final dot" from "after it", pipelines (RFC 2920), and changes no byte of a message.
//
// A Client is one session. It is used by one goroutine at a time, except that Close may come from any. Every method
// that takes a context is cut short by it, and leaves a broken session behind; Dot takes none, because nothing may
// cancel what has been handed over.
package smtpclient
