package guard

import (
	"errors"
	"io"
	"strings"
)

// ParsePath parses what stands between the angle brackets of MAIL and RCPT.
func ParsePath(s string) (Path, bool) {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return Path{}, false
	}
	return parsePath(s)
}

// Plain is a message as it would come through Body if a client sent what r holds, with CRLF in the place of a bare LF:
// lines that end with CRLF, the last one too. What Body refuses is the same *mail.Reply.
type Plain struct {
	r     io.Reader
	limit int // octets of a line

	buf  []byte
	in   []byte // of buf, what is not taken yet
	line int
	cr   bool  // a CR waits for its LF
	end  error // of r
	err  error
}

// NewPlain makes a Plain.
func NewPlain(r io.Reader) *Plain {
	return &Plain{r: r, limit: Limits{}.withDefaults().DataLine, buf: make([]byte, 4<<10)}
}

// Read implements io.Reader. dst has room for two octets at least.
func (p *Plain) Read(dst []byte) (n int, err error) {
	if len(dst) < 2 {
		return 0, io.ErrShortBuffer
	}
	for n+2 <= len(dst) && p.err == nil {
		switch {
		case len(p.in) > 0:
			n += p.take(dst[n:], p.in[0])
			p.in = p.in[1:]
		case p.end != nil:
			n += p.finish(dst[n:])
		case n > 0:
			return n, nil
		default:
			var k int
			k, p.end = p.r.Read(p.buf)
			p.in = p.buf[:k]
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, p.err
}

// finish ends the last line, if it is not ended.
func (p *Plain) finish(dst []byte) int {
	p.err = p.end
	if !errors.Is(p.end, io.EOF) {
		return 0
	}
	p.err = io.EOF
	switch {
	case p.cr:
		p.err = errBodyCR
	case p.line > 0:
		return copy(dst, "\r\n")
	}
	return 0
}

// take puts one octet, or the end of a line, into dst.
func (p *Plain) take(dst []byte, b byte) int {
	switch {
	case b == '\n':
		p.cr, p.line = false, 0
		return copy(dst, "\r\n")
	case p.cr:
		p.err = errBodyCR
		return 0
	case b == '\r':
		p.cr = true
		return 0
	case b == 0:
		p.err = errBodyNUL
		return 0
	case p.line >= p.limit:
		p.err = errBodyLine
		return 0
	}
	p.line++
	dst[0] = b
	return 1
}
