package smtpclient

import (
	"errors"
	"fmt"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Steps of a session at which an Error can arise; the rest are the verbs of RFC 5321.
const (
	StepConnect  = "connect"
	StepGreeting = "greeting"
	StepEHLO     = "EHLO"
	StepSTARTTLS = "STARTTLS"
	StepTLS      = "TLS handshake"
	StepAUTH     = "AUTH"
	StepMAIL     = "MAIL"
	StepRCPT     = "RCPT"
	StepDATA     = "DATA"
	StepBody     = "message body"
	StepDot      = "end of data"
	StepRSET     = "RSET"
)

// Error is the failure of a session: the peer refused a step, or the connection did not carry it through.
type Error struct {
	Step string
	// Reply is what the peer answered; nil if the connection failed or the answer was no SMTP.
	Reply *mail.Reply
	// Err is the cause where there was no Reply. It holds no secret.
	Err error
}

// Error names the step, and the reply or the cause.
func (e *Error) Error() string {
	if e.Reply != nil {
		return fmt.Sprintf("%s: %s", e.Step, e.Reply.Public())
	}
	return fmt.Sprintf("%s: %v", e.Step, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// AsError finds an Error in err's chain.
func AsError(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

// ErrInjected says that the peer, or somebody between, sent bytes in plaintext after its answer to STARTTLS
// (CVE-2021-38371 and kin). The session is not to be trusted, and not to be repeated in plaintext.
var ErrInjected = errors.New("plaintext after the answer to STARTTLS")

// ErrNoTLS says that TLS is required and STARTTLS is not offered.
var ErrNoTLS = errors.New("the server does not offer STARTTLS, which is required")

// ErrNoMechanism says that the server offers none of the allowed AUTH mechanisms.
var ErrNoMechanism = errors.New("the server offers none of the allowed AUTH mechanisms")

// ErrBareControl says that a message holds a bare CR, a bare LF or a NUL, which SMTP cannot carry (RFC 5321, section 2.3.8).
var ErrBareControl = errors.New("the message contains a bare CR, a bare LF or a NUL")
