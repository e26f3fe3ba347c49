package sevenbit

import (
	"bytes"
	"io"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// leaf plans for a part without parts, and gives its new transfer encoding if it gets one.
func (p *planner) leaf(q *mail.Part, s scope) (string, error) {
	if q.Body >= q.End {
		return "", nil
	}
	n, err := p.scan(q.Body, q.End)
	if err != nil {
		return "", err
	}
	switch {
	case !n.hard() && (!n.soft() || s.keepsForm()):
		return "", nil
	case s.frozen:
		return "", unfit("a signed or encrypted part of it has 8-bit octets or overlong lines")
	}
	switch q.Encoding {
	case "7bit", "8bit", "binary":
		if strings.HasPrefix(q.MediaType, "message/") || q.IsMultipart() {
			// RFC 2046, section 5.2: these have no encoding.
			if n.hard() {
				return "", unfit("its part %s has 8-bit octets or overlong lines", printable(q.MediaType))
			}
			return "", nil
		}
		// Text stays readable as long as that does not make it much larger.
		if size := q.End - q.Body; isText(q) && quotedSize(n, size) <= base64Size(size)*3/2 {
			return "quoted-printable", p.encode(q, q.Raw(p.c), quotedSize(n, q.End-q.Body), true)
		}
		return "base64", p.encode(q, q.Raw(p.c), base64Size(q.End-q.Body), false)
	case "base64":
		clean, err := p.cleanBase64(q)
		if err != nil {
			return "", err
		}
		if !clean {
			return "", unfit("a part in base64 has characters that are not base64")
		}
		return "", p.again(q, false)
	case "quoted-printable":
		return "", p.again(q, true)
	}
	if n.hard() {
		return "", unfit("a part in the transfer encoding %s has 8-bit octets or overlong lines", printable(q.Encoding))
	}
	return "", nil
}

func isText(q *mail.Part) bool { return strings.HasPrefix(q.MediaType, "text/") }

// again encodes what is encoded once more, in the same encoding.
func (p *planner) again(q *mail.Part, quoted bool) error {
	decoded, err := q.Decoded(p.c)
	if err != nil {
		return err
	}
	return p.encode(q, decoded, q.End-q.Body, quoted)
}

// encode replaces the body of q by what r gives, encoded. expect is about how long that will be.
func (p *planner) encode(q *mail.Part, r io.Reader, expect int64, quoted bool) error {
	if expect > p.left {
		return p.tooLarge()
	}
	out := limited{left: p.left}
	out.b.Grow(int(expect + expect/64 + 128))
	var e io.WriteCloser
	if quoted {
		e = &quotedWriter{out: &out}
	} else {
		e = newBase64Writer(&out)
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{e}, cancelled{p, r}, make([]byte, block))
	if err == nil {
		err = e.Close()
	}
	if err == errTooLarge {
		return p.tooLarge()
	}
	if err != nil {
		return err
	}
	p.left -= int64(out.b.Len())
	p.plan.Splices = append(p.plan.Splices, mail.Splice{Offset: q.Body, Length: q.End - q.Body, Insert: out.b.Bytes()})
	return nil
}

func (p *planner) tooLarge() error {
	return unfit("more of it would have to be encoded anew than max_encoded allows")
}

// cleanBase64 says that every reader takes the same out of q: letters, line ends and white space, padding at the end.
func (p *planner) cleanBase64(q *mail.Part) (bool, error) {
	clean, padded, letters := true, 0, 0
	err := p.blocks(q.Body, q.End, func(b []byte) {
		for _, c := range b {
			switch {
			case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			case c == '=':
				padded++
			case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '+', c == '/':
				letters++
				clean = clean && padded == 0
			default:
				clean = false
			}
		}
	})
	return clean && padded <= 2 && (letters+padded)%4 == 0, err
}

// setEncoding gives a part its transfer encoding. An attached message that has no MIME-Version gets one: without it,
// readers may not look at the encoding (RFC 2045, section 4).
func setEncoding(q *mail.Part, encoding string, isMessage bool) []mail.Splice {
	const name = "Content-Transfer-Encoding"
	var out []mail.Splice
	end, version := q.Offset, false
	for _, f := range q.Header.Fields {
		end = f.Offset + int64(len(f.Raw))
		switch {
		case strings.EqualFold(f.Name, "MIME-Version"):
			version = true
		case strings.EqualFold(f.Name, name):
			s := mail.Splice{Offset: f.Offset, Length: int64(len(f.Raw))}
			if !hasInsert(out) {
				s.Insert = []byte(f.Name + ": " + encoding + "\r\n")
			}
			out = append(out, s)
		}
	}
	var more string
	if !hasInsert(out) {
		more = name + ": " + encoding + "\r\n"
	}
	if isMessage && !version {
		more = "MIME-Version: 1.0\r\n" + more
	}
	if more != "" {
		out = append(out, mail.Splice{Offset: end, Insert: []byte(more)})
	}
	return out
}

func hasInsert(splices []mail.Splice) bool {
	for _, s := range splices {
		if len(s.Insert) > 0 {
			return true
		}
	}
	return false
}

// printable makes what comes from outside fit for a trail.
func printable(s string) string {
	clean := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return clean[:min(len(clean), 60)]
}

// limited is a buffer that refuses to grow beyond what is left.
type limited struct {
	b    bytes.Buffer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	if int64(l.b.Len()+len(p)) > l.left {
		return 0, errTooLarge
	}
	return l.b.Write(p)
}

// cancelled reads until the context of the planner ends.
type cancelled struct {
	p *planner
	r io.Reader
}

func (c cancelled) Read(b []byte) (int, error) {
	if err := c.p.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
