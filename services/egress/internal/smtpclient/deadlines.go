package smtpclient

import (
	"cmp"
	"time"
)

// Deadlines bound each step of a session (RFC 5321, section 4.5.3.2). A zero field takes the RFC's value; where the RFC
// names none, the one stated here.
type Deadlines struct {
	Greeting time.Duration // 5 min
	// Hello, for EHLO, HELO, STARTTLS with its handshake, and each step of AUTH: 5 min.
	Hello    time.Duration
	Mail     time.Duration // 5 min
	Rcpt     time.Duration // 5 min
	Data     time.Duration // 2 min
	Block    time.Duration // 3 min for each block of the body
	Dot      time.Duration // 10 min
	Reset    time.Duration // 10 s: a peer that is slower than that is not worth keeping
	Farewell time.Duration // 2 s for QUIT
}

func (d Deadlines) withDefaults() Deadlines {
	return Deadlines{
		Greeting: cmp.Or(d.Greeting, 5*time.Minute),
		Hello:    cmp.Or(d.Hello, 5*time.Minute),
		Mail:     cmp.Or(d.Mail, 5*time.Minute),
		Rcpt:     cmp.Or(d.Rcpt, 5*time.Minute),
		Data:     cmp.Or(d.Data, 2*time.Minute),
		Block:    cmp.Or(d.Block, 3*time.Minute),
		Dot:      cmp.Or(d.Dot, 10*time.Minute),
		Reset:    cmp.Or(d.Reset, 10*time.Second),
		Farewell: cmp.Or(d.Farewell, 2*time.Second),
	}
}
