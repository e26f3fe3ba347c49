package mail

import (
	"errors"
	"fmt"
)

// Reply is an SMTP reply (RFC 5321, section 4.2) as a value and as an error: what the client is told,
// and, apart from it, what only the log is told. It travels over gRPC intact.
type Reply struct {
	// Code is 2xx, 4xx or 5xx.
	Code int
	// Enhanced is the RFC 3463 status code, "5.7.1"; empty if there is none.
	Enhanced string
	// Text is public: what the client is told. No CR, LF or NUL, except that a multi-line reply of another server
	// keeps its lines, separated by "\n".
	Text string
	// Private is the cause, for the log alone.
	Private string
}

// Error gives the public and the private part.
func (r *Reply) Error() string {
	s := r.Public()
	if r.Private != "" {
		s += " (" + r.Private + ")"
	}
	return s
}

// Public is the reply as the client sees it: "550 5.7.1 text".
func (r *Reply) Public() string {
	if r.Enhanced == "" {
		return fmt.Sprintf("%d %s", r.Code, r.Text)
	}
	return fmt.Sprintf("%d %s %s", r.Code, r.Enhanced, r.Text)
}

// Temporary says that trying again may help (4xx).
func (r *Reply) Temporary() bool { return r.Code >= 400 && r.Code < 500 }

// AsReply finds a Reply in err's chain.
func AsReply(err error) (*Reply, bool) {
	var r *Reply
	ok := errors.As(err, &r)
	return r, ok
}
