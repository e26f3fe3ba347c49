package sevenbit

import (
	"encoding/base64"
	"io"
)

// encodedLine is how long a line may be in quoted-printable and base64, in octets without CRLF (RFC 2045, sections 6.7
// and 6.8).
const encodedLine = 76

func base64Size(n int64) int64 { return (n + 2) / 3 * 4 * (encodedLine + 2) / encodedLine }

// quotedSize is about what size octets become.
func quotedSize(n needs, size int64) int64 {
	return (size + 2*n.escapes) * (encodedLine + 2) / (encodedLine - 1)
}

// lineWriter breaks what it is given into lines.
type lineWriter struct {
	out io.Writer
	n   int
}

func (w *lineWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if w.n == encodedLine {
			if _, err := io.WriteString(w.out, "\r\n"); err != nil {
				return done, err
			}
			w.n = 0
		}
		b := p[done:min(len(p), done+encodedLine-w.n)]
		if _, err := w.out.Write(b); err != nil {
			return done, err
		}
		w.n += len(b)
		done += len(b)
	}
	return done, nil
}

// newBase64Writer writes base64 in lines, without a line end after the last one.
func newBase64Writer(out io.Writer) io.WriteCloser {
	return base64.NewEncoder(base64.StdEncoding, &lineWriter{out: out})
}

// quotedWriter writes quoted-printable (RFC 2045, section 6.7). CRLF stays a line end, every other CR or LF is encoded,
// so that decoding gives back the same octets. No line of it begins with "From ", "." or "-": so a soft line break never
// makes a delimiter of what was none.
type quotedWriter struct {
	out   io.Writer
	line  []byte
	space byte // white space that waits for what follows it, or 0
	cr    bool // a CR waits
	err   error
}

func (w *quotedWriter) Write(p []byte) (int, error) {
	for _, c := range p {
		w.octet(c)
	}
	return len(p), w.err
}

func (w *quotedWriter) octet(c byte) {
	if w.cr {
		w.cr = false
		if c == '\n' {
			w.endOfLine()
			w.flush("\r\n")
			return
		}
		w.settle()
		w.escape('\r')
	}
	if c == '\r' {
		w.cr = true
		return
	}
	w.settle()
	switch {
	case c == ' ' || c == '\t':
		w.space = c
	case len(w.line) == 0 && (c == '-' || c == '.'):
		w.escape(c)
	case c > ' ' && c < 0x7f && c != '=':
		w.literal(c)
	default:
		w.escape(c)
	}
}

// settle writes white space that something follows.
func (w *quotedWriter) settle() {
	switch c := w.space; {
	case c == 0:
	case c == ' ' && string(w.line) == "From":
		w.escape(c)
	default:
		w.literal(c)
	}
	w.space = 0
}

// endOfLine writes white space that a line ends with.
func (w *quotedWriter) endOfLine() {
	if w.space != 0 {
		w.escape(w.space)
		w.space = 0
	}
}

// literal writes an octet as it is.
func (w *quotedWriter) literal(c byte) {
	if len(w.line) >= encodedLine-1 {
		w.flush("=\r\n")
		if c == '-' || c == '.' {
			w.escape(c)
			return
		}
	}
	w.line = append(w.line, c)
}

const hexDigits = "0123456789ABCDEF"

// escape writes an octet as "=XX".
func (w *quotedWriter) escape(c byte) {
	if len(w.line) > encodedLine-4 {
		w.flush("=\r\n")
	}
	w.line = append(w.line, '=', hexDigits[c>>4], hexDigits[c&15])
}

func (w *quotedWriter) flush(end string) {
	w.line = append(w.line, end...)
	if w.err == nil {
		_, w.err = w.out.Write(w.line)
	}
	w.line = w.line[:0]
}

// Close ends the encoding. What is encoded ends without a line end if the octets did.
func (w *quotedWriter) Close() error {
	if w.cr {
		w.cr = false
		w.settle()
		w.escape('\r')
	}
	w.endOfLine()
	w.flush("")
	return w.err
}
