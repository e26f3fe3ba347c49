package guard

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// bodyState is the reader of one message's data: the only end of data is CRLF "." CRLF (RFC 5321, section 4.1.1.4).
type bodyState struct {
	at    place
	line  int // octets of the line so far
	ended bool
	fault error // why the message is refused
	spent int64 // octets read after the refusal
	bare  bool  // there was a bare CR in what was read away
}

type place int

const (
	lineStart place = iota
	dot             // "." at the start of a line
	dotCR           // "." CR at the start of a line
	within          // within a line
	cr              // CR within a line
	lf              // CR LF, of which the CR has been handed on
)

var (
	errBodyCR   = &mail.Reply{Code: 554, Enhanced: "5.6.0", Text: "bare CR in the message; lines end with CRLF (RFC 5321, section 2.3.8)"}
	errBodyLF   = &mail.Reply{Code: 554, Enhanced: "5.6.0", Text: "bare LF in the message; lines end with CRLF (RFC 5321, section 2.3.8)"}
	errBodyNUL  = &mail.Reply{Code: 554, Enhanced: "5.6.0", Text: "NUL in the message"}
	errBodyLine = &mail.Reply{Code: 554, Enhanced: "5.6.0", Text: "line too long in the message"}
)

func (c *Conn) beginBody() {
	c.mode = inData
	c.verb = "" // the reply to the message is not the reply to DATA
	c.body = bodyState{}
	c.forgetRate()
}

func (c *Conn) endBody() {
	c.mode = afterData
	c.forgetRate()
}

func (c *Conn) forgetRate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rate = rate{}
}

// Body is the message data that follows the 354, as it was sent but for the dots of RFC 5321, section 4.5.2: it
// always consists of whole lines ended by CRLF. io.EOF is the end of data. A *mail.Reply is the refusal of a message
// that is malformed; every other error is the end of the connection. It is read by the handler, once, before go-smtp
// reads on; what it leaves is read away.
func (c *Conn) Body() io.Reader { return bodyReader{c} }

type bodyReader struct{ c *Conn }

// Read implements io.Reader.
func (b bodyReader) Read(p []byte) (int, error) {
	c := b.c
	s := &c.body
	for {
		switch {
		case s.ended:
			return 0, io.EOF
		case s.fault != nil:
			return 0, s.fault
		case c.mode != inData:
			return 0, fmt.Errorf("guard: no message data is expected: %w", io.ErrUnexpectedEOF)
		case len(p) == 0:
			return 0, nil
		}
		if c.buffered() == 0 {
			if err := c.fillBody(); err != nil {
				return 0, err
			}
		}
		used, n := s.scan(p, c.in[c.head:c.tail], c.opts.Limits.DataLine)
		c.head += used
		if s.ended {
			c.endBody()
		}
		if n > 0 {
			return n, nil
		}
	}
}

func (c *Conn) fillBody() error {
	l := c.opts.Limits
	c.mu.Lock()
	left := l.Grace + time.Duration(float64(c.rate.bytes)/float64(l.Rate)*float64(time.Second)) - c.rate.waited
	c.mu.Unlock()
	if left <= 0 {
		c.fail(ErrTimeout)
		return ErrTimeout
	}
	return c.fill(min(left, l.Data), dataBuffer, false)
}

// scan copies message data from src to dst until one of them is used up, the data ends, or a fault is found. It says
// how much of src was used and how much of dst was filled.
func (s *bodyState) scan(dst, src []byte, limit int) (used, n int) {
	for used < len(src) && !s.ended && s.fault == nil {
		b := src[used]
		switch s.at {
		case lineStart:
			s.line = 0
			if b == '.' {
				s.at = dot
				used++
				continue
			}
			s.at = within
		case dot:
			// The dot is dropped: it is the end, or was added by the client.
			s.at = within
			if b == '\r' {
				s.at = dotCR
				used++
				continue
			}
		case dotCR:
			if b != '\n' {
				s.at, s.fault = cr, errBodyCR
				return used, n
			}
			s.ended = true
			return used + 1, n
		case cr:
			// The CR waited for its LF: what follows it decides whether it is one of ours.
			if b != '\n' {
				s.fault = errBodyCR
				return used, n
			}
			if n == len(dst) {
				return used, n
			}
			dst[n] = '\r'
			n++
			s.at = lf
			continue
		case lf:
			if n == len(dst) {
				return used, n
			}
			dst[n] = '\n'
			n++
			used++
			s.at = lineStart
			continue
		}
		k := run(src[used:], min(len(dst)-n, limit-s.line))
		copy(dst[n:], src[used:used+k])
		used, n, s.line = used+k, n+k, s.line+k
		if used == len(src) {
			break
		}
		switch b = src[used]; {
		case b == '\r':
			used++
			s.at = cr
		case b == '\n':
			s.fault = errBodyLF
		case b == 0:
			s.fault = errBodyNUL
		case s.line >= limit:
			s.fault = errBodyLine
		default:
			return used, n // dst is full
		}
	}
	return used, n
}

// run is the length of the longest prefix of b, at most limit, that holds no CR, LF or NUL.
func run(b []byte, limit int) int {
	if len(b) > limit {
		b = b[:limit]
	}
	for i, x := range b {
		if x <= '\r' && (x == '\r' || x == '\n' || x == 0) {
			return i
		}
	}
	return len(b)
}

// discardBody reads away what is left of a message that is refused, for the sake of staying in step; only the true
// end of data ends it. What is too large for that ends the connection.
func (c *Conn) discardBody() {
	s := &c.body
	for !s.ended {
		if c.buffered() == 0 {
			if err := c.fillBody(); err != nil {
				c.timeoutInBody(err)
				return
			}
		}
		used := s.skip(c.in[c.head:c.tail])
		c.head += used
		if s.spent += int64(used); s.spent > c.opts.Limits.Discard {
			c.fault("a refused message has no end")
			c.unread = true
			c.fail(ErrCut)
			return
		}
	}
	// Where CR CR LF is no end of a line for whoever passed the message on, what follows is still a part of it.
	c.doubtful = s.bare
	c.endBody()
}

// skip looks for CRLF "." CRLF alone.
func (s *bodyState) skip(src []byte) int {
	for i, b := range src {
		if b != '\n' && (s.at == cr || s.at == dotCR) {
			s.bare = true
		}
		switch {
		case b == '\n' && s.at == dotCR:
			s.ended = true
			return i + 1
		case b == '\n' && (s.at == cr || s.at == lf):
			s.at = lineStart
		case b == '\r' && s.at == dot:
			s.at = dotCR
		case b == '\r':
			s.at = cr
		case b == '.' && s.at == lineStart:
			s.at = dot
		default:
			s.at = within
		}
	}
	return len(src)
}

func (c *Conn) timeoutInBody(err error) {
	if errors.Is(err, ErrTimeout) {
		c.fault("timeout in message data")
	}
}
