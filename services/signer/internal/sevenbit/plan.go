// Package sevenbit says what has to change in a message so that what is signed of it survives every hop: 7-bit octets
// alone, lines of at most 998 octets, no white space at the end of a line, no line that begins with "From " (RFC 1847,
// section 2.1; RFC 3156, section 3; RFC 8551, section 3.1.3). What need not change stays as it is, octet by octet, and
// no decoded content ever changes.
package sevenbit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// maxLine is the longest line in octets without its CRLF (RFC 5322, section 2.1.1).
const maxLine = 998

// Plan is what has to change of a message before it can be signed.
type Plan struct {
	// Splices change the body: they are sorted, disjoint, and none begins before the body of the root.
	Splices []mail.Splice
	// Encoding is the new Content-Transfer-Encoding of the message itself; empty if its field stays as it is. The
	// header of the message is the caller's.
	Encoding string
}

// Unfit says why a message cannot be brought into a form that survives, in words that may stand in a trail.
type Unfit struct{ Reason string }

func (e *Unfit) Error() string { return "it cannot be signed: " + e.Reason }

func unfit(format string, args ...any) error { return &Unfit{Reason: fmt.Sprintf(format, args...)} }

// Prepare makes the plan for the message whose parts are root, as mail.Walk found them in c; the message must have no
// Ambiguity. limit bounds the octets that are encoded anew, which a plan holds in memory. An *Unfit error is about the
// message; every other one says that it could not be read, or that ctx has ended.
//
// What is inside of an attached message is changed only where 7-bit transport demands it: it may be evidence, with a
// signature of its own. Parts that are signed or encrypted are never changed.
func Prepare(ctx context.Context, c mail.Content, root *mail.Part, limit int64) (Plan, error) {
	p := planner{ctx: ctx, c: c, root: root, left: limit}
	for _, f := range root.Header.Fields {
		if !IsContentField(f.Name) {
			continue
		}
		if err := checkHeader(f.Raw, "the message"); err != nil {
			return Plan{}, err
		}
	}
	if err := p.part(root, scope{}); err != nil {
		return Plan{}, err
	}
	return p.plan, nil
}

// IsContentField says that a field describes the body (RFC 2045, section 9): it belongs to what is signed.
func IsContentField(name string) bool {
	const prefix = "content-"
	return len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}

// scope is what holds for everything within a part.
type scope struct {
	// frozen: it is signed or encrypted, not an octet may change.
	frozen bool
	// attached: it belongs to an attached message.
	attached bool
	// topmost: it is an attached message itself.
	topmost bool
}

// keepsForm says that only what 7-bit transport demands is changed.
func (s scope) keepsForm() bool { return s.frozen || s.attached }

type planner struct {
	ctx  context.Context
	c    mail.Content
	root *mail.Part
	plan Plan
	left int64
}

// part plans for one part and what is in it, in the order of the message.
func (p *planner) part(q *mail.Part, s scope) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	header := len(p.plan.Splices)
	if q != p.root {
		if err := p.header(q, s); err != nil {
			return err
		}
	}
	begin, topmost := len(p.plan.Splices), s.topmost
	s.frozen, s.topmost = s.frozen || q.IsSigned() || q.IsEncrypted(), false
	encoding, err := p.body(q, s)
	if err != nil {
		return err
	}
	if encoding == "" && !s.frozen && (q.Encoding == "8bit" || q.Encoding == "binary") {
		encoding = "7bit" // a hop that offers no 8BITMIME would go by the label, and encode
	}
	switch {
	case encoding == "":
	case q == p.root:
		p.plan.Encoding = encoding
	default:
		trims, body := slices.Clone(p.plan.Splices[header:begin]), slices.Clone(p.plan.Splices[begin:])
		fields := setEncoding(q, encoding, topmost)
		p.plan.Splices = append(append(p.plan.Splices[:header], merge(fields, trims)...), body...)
	}
	return nil
}

// body plans for the body of a part, and gives the transfer encoding that it gets, if that changes.
func (p *planner) body(q *mail.Part, s scope) (encoding string, err error) {
	switch {
	case q.IsMultipart() && len(q.Delimiters) > 0:
		return "", p.multipart(q, s)
	case q.IsMessage() && len(q.Children) == 1:
		s.attached, s.topmost = true, true
		if q.MediaType != "message/rfc822" {
			s.frozen = true // what RFC 6532 allows in a message/global has no form in 7 bits
		}
		return "", p.part(q.Children[0], s)
	}
	return p.leaf(q, s)
}

// multipart plans for what stands between the parts, and for the parts.
func (p *planner) multipart(q *mail.Part, s scope) error {
	if err := p.ignored(q.Body, q.Delimiters[0].Start, s); err != nil {
		return err
	}
	child := 0
	for i, d := range q.Delimiters {
		if err := p.delimiter(d, s); err != nil {
			return err
		}
		if q.Terminated && i == len(q.Delimiters)-1 {
			return p.ignored(d.End, q.End, s)
		}
		if child < len(q.Children) {
			if err := p.part(q.Children[child], s); err != nil {
				return err
			}
			child++
		}
	}
	return nil
}

// ignored plans for a preamble or an epilogue, which no reader shows (RFC 2046, section 5.1.1): it is left out where it
// could not stay as it is.
func (p *planner) ignored(from, to int64, s scope) error {
	if from >= to {
		return nil
	}
	n, err := p.scan(from, to)
	if err != nil {
		return err
	}
	switch {
	case n.hard() && s.frozen:
		return unfit("a signed part has 8-bit octets or overlong lines")
	case n.hard(), n.soft() && !s.keepsForm():
		p.plan.Splices = append(p.plan.Splices, mail.Splice{Offset: from, Length: to - from})
	}
	return nil
}

// delimiter takes the white space off that transport may have put behind a boundary.
func (p *planner) delimiter(d mail.Span, s scope) error {
	b, err := p.read(d.Start, d.End)
	if err != nil {
		return err
	}
	if err := checkHeader(b, "a boundary"); err != nil {
		return err
	}
	if !s.keepsForm() {
		p.trim(b, d.Start)
	}
	return nil
}

// header checks the header of a part, which cannot be encoded, and takes white space off at the end of its lines.
func (p *planner) header(q *mail.Part, s scope) error {
	if q.Header.End == mail.EndLimit {
		return unfit("the header of a part is too large")
	}
	b, err := p.read(q.Offset, q.Body)
	if err != nil {
		return err
	}
	if err := checkHeader(b, "the header of a part"); err != nil {
		return err
	}
	if !s.keepsForm() {
		p.trim(b, q.Offset)
	}
	return nil
}

// trim takes white space off at the end of lines that have something else; b stands at offset at.
func (p *planner) trim(b []byte, at int64) {
	for line := range strings.Lines(string(b)) {
		text := strings.TrimRight(line, "\r\n")
		kept := strings.TrimRight(text, " \t")
		if n := len(text) - len(kept); n > 0 && kept != "" {
			p.plan.Splices = append(p.plan.Splices, mail.Splice{Offset: at + int64(len(kept)), Length: int64(n)})
		}
		at += int64(len(line))
	}
}

// checkHeader says what of b, lines that cannot be encoded, would not survive.
func checkHeader(b []byte, where string) error {
	for line := range strings.Lines(string(b)) {
		text := strings.TrimSuffix(line, "\r\n") // the last line of a part may have no line end of its own
		switch {
		case strings.ContainsFunc(text, func(r rune) bool { return r >= 0x80 || r == 0 }):
			return unfit("%s has other than ASCII characters", where)
		case strings.ContainsAny(text, "\r\n"):
			return unfit("%s has a bare CR or LF", where)
		case len(text) > maxLine:
			return unfit("%s has a line of more than %d characters", where, maxLine)
		}
	}
	return nil
}

func (p *planner) read(from, to int64) ([]byte, error) {
	b := make([]byte, to-from)
	if n, err := p.c.ReadAt(b, from); n < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read the message: %w", err)
	}
	return b, nil
}

// merge puts the splices of a header in order; what lies within a field that is replaced is left out.
func merge(fields, trims []mail.Splice) []mail.Splice {
	for _, t := range trims {
		if !slices.ContainsFunc(fields, func(f mail.Splice) bool { return t.Offset >= f.Offset && t.Offset < f.Offset+f.Length }) {
			fields = append(fields, t)
		}
	}
	slices.SortStableFunc(fields, func(a, b mail.Splice) int { return cmp.Compare(a.Offset, b.Offset) })
	return fields
}

var errTooLarge = errors.New("more than the limit")
