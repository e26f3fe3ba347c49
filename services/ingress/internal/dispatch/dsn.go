package dispatch

import (
	"bytes"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

const (
	// lineLimit is the longest line, without its end (RFC 5322, section 2.1.1); foldAt is where fields are folded.
	lineLimit = 998
	foldAt    = 78
)

// extent is how much of what came from outside stands in a report, in bytes.
type extent struct{ header, reply int }

// extents are tried in turn until a report fits into a log entry.
var extents = [...]extent{{32 << 10, 1 << 10}, {0, 200}}

// failure is one recipient that a report is about.
type failure struct {
	to   mail.Recipient // as accepted
	fate chain.Fate
	// expired: given up after lifetime; the fate is that of the last attempt.
	expired bool
}

// report writes a delivery status notification (RFC 3464) about failures of m. It is of seven bits, so that every next
// host takes it, unless the sender's own address is not (RFC 6531). Its boundary holds an id that nobody could know
// when the original was written.
func report(hostname string, postmaster mail.Address, id string, m *mail.Message, failures []failure, now time.Time) (raw []byte) {
	for _, x := range extents {
		if raw = x.report(hostname, postmaster, id, m, failures, now); len(raw) <= spool.InlineLimit {
			break
		}
	}
	return raw
}

func (x extent) report(hostname string, postmaster mail.Address, id string, m *mail.Message, failures []failure, now time.Time) []byte {
	boundary := "=_dsn_" + id
	from := postmaster
	if from.IsNull() || !from.IsASCII() {
		from = mail.Address{Local: "postmaster", Domain: hostname}
	}
	b := &writer{}
	b.line("From: Mail Delivery System <" + from.String() + ">")
	b.line("To: <" + oneLine(m.Envelope.ReversePath.String()) + ">")
	b.line("Subject: Your message could not be delivered")
	b.line("Date: " + now.Format(time.RFC1123Z))
	b.line("Message-ID: <" + id + "@" + hostname + ">")
	b.line("Auto-Submitted: auto-replied")
	if ref := messageID(m); ref != "" {
		b.line("In-Reply-To: " + ref)
		b.line("References: " + ref)
	}
	b.line("MIME-Version: 1.0")
	b.line("Content-Type: multipart/report; report-type=delivery-status;")
	b.line("\tboundary=\"" + boundary + "\"")
	b.line("")
	b.line("--" + boundary)
	b.text("text/plain; charset=utf-8", x.explanation(hostname, m, failures))
	b.line("--" + boundary)
	b.line("Content-Type: message/delivery-status")
	b.line("")
	x.status(b, hostname, m, failures, now)
	b.line("--" + boundary)
	b.text("text/rfc822-headers", x.returned(m))
	b.line("--" + boundary + "--")
	return b.Bytes()
}

// messageID is the original's, if it can stand in a field of ours.
func messageID(m *mail.Message) string {
	ref := m.Content.Header().Get("Message-ID")
	if len(ref) > 900 || !strings.HasPrefix(ref, "<") || !strings.HasSuffix(ref, ">") || strings.ContainsFunc(ref, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return ref
}

// explanation is the part for people.
func (x extent) explanation(hostname string, m *mail.Message, failures []failure) []byte {
	b := &writer{}
	b.line("Hello,")
	b.line("")
	b.line("this is the mail relay " + hostname + ". Your message")
	b.line("")
	if s := decoded(m.Content.Header().Get("Subject")); s != "" {
		b.line("    " + s)
		b.line("")
	}
	b.line("could not be delivered to the following recipients, and will not be tried again.")
	for _, f := range failures {
		b.line("")
		b.line("  <" + oneLine(f.to.Address.String()) + ">")
		switch {
		case f.expired:
			b.line(fmt.Sprintf("    could not be delivered for %d days. The last answer was:", int(lifetime.Hours()/24)))
		case f.fate.Host != "":
			b.line("    was refused by " + oneLine(cut(f.fate.Host, 255)) + ":")
		default:
			b.line("    was refused:")
		}
		for line := range strings.SplitSeq(x.answer(f.fate), "\n") {
			b.line("      " + oneLine(line))
		}
	}
	return b.Bytes()
}

// status writes the fields of RFC 3464, section 2.
func (x extent) status(b *writer, hostname string, m *mail.Message, failures []failure, now time.Time) {
	b.field("Reporting-MTA", "dns; "+hostname)
	if m.Envelope.EnvID != "" {
		b.field("Original-Envelope-Id", cut(m.Envelope.EnvID, 100))
	}
	if !m.Received.IsZero() {
		b.field("Arrival-Date", m.Received.Format(time.RFC1123Z))
	}
	for _, f := range failures {
		b.line("")
		if typ, of, ok := strings.Cut(f.to.ORcpt, ";"); ok && len(f.to.ORcpt) <= 500 {
			if isASCII(of) {
				b.field("Original-Recipient", typ+"; "+of)
			} else {
				b.field("Original-Recipient", "utf-8; "+utf8Address(of))
			}
		}
		if to := f.to.Address; to.IsASCII() {
			b.field("Final-Recipient", "rfc822; "+to.String())
		} else {
			b.field("Final-Recipient", "utf-8; "+utf8Address(to.String()))
		}
		b.field("Action", "failed")
		b.field("Status", statusCode(f))
		if f.fate.Host != "" {
			b.field("Remote-MTA", "dns; "+cut(f.fate.Host, 255))
		}
		if f.fate.Reply != nil {
			b.field("Diagnostic-Code", "smtp; "+x.answer(f.fate))
		}
		b.field("Last-Attempt-Date", now.Format(time.RFC1123Z))
	}
	b.line("")
}

// utf8Address is an address in the seven bit form of RFC 6533, section 3.
func utf8Address(a string) string {
	var b strings.Builder
	for _, r := range a {
		if r > ' ' && r < 0x7f && r != '\\' && r != '+' && r != '=' {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\x{%X}", r)
		}
	}
	return b.String()
}

// statusCode is the RFC 3463 code of a failure; one of class 4 becomes 4.4.7 when the message expired, and anything
// that is not of class 5 otherwise 5.0.0.
func statusCode(f failure) string {
	if f.expired {
		return "4.4.7"
	}
	if f.fate.Reply != nil && enhanced(f.fate.Reply.Enhanced) {
		return f.fate.Reply.Enhanced
	}
	return "5.0.0"
}

// enhanced says that s is a code of class 5 as RFC 3463, section 2 has them.
func enhanced(s string) bool {
	class, detail, ok := strings.Cut(s, ".")
	subject, detail, more := strings.Cut(detail, ".")
	number := func(s string) bool {
		return s != "" && len(s) <= 3 && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	}
	return ok && more && class == "5" && number(subject) && number(detail)
}

// answer is what the next host, or a stage of ours, said; without the private part.
func (x extent) answer(f chain.Fate) string {
	if f.Reply != nil {
		return cut(f.Reply.Public(), x.reply)
	}
	return "no answer"
}

// returned is the original header section, cut at a field's end. A report is ours: its lines end in CRLF, whatever the
// original's did.
func (x extent) returned(m *mail.Message) []byte {
	var b bytes.Buffer
	for _, f := range m.Content.Header().Fields {
		if b.Len()+len(f.Raw) > x.header {
			break
		}
		b.Write(bytes.TrimRight(f.Raw, "\r\n"))
		b.WriteByte('\n')
	}
	out := bytes.ReplaceAll(b.Bytes(), []byte("\r\n"), []byte("\n"))
	out = bytes.ReplaceAll(out, []byte("\r"), nil)
	return bytes.ReplaceAll(out, []byte("\n"), []byte("\r\n"))
}

// writer gathers lines that end in CRLF.
type writer struct{ bytes.Buffer }

func (b *writer) line(s string) {
	b.WriteString(s)
	b.WriteString("\r\n")
}

// field writes a field of seven bits, folded where it has spaces.
func (b *writer) field(name, value string) {
	value = strings.Map(func(r rune) rune {
		if r > '~' {
			return '?'
		}
		return r
	}, oneLine(value))
	used := len(name) + 1
	b.WriteString(name + ":")
	for word := range strings.FieldsSeq(value) {
		for len(word) > lineLimit-1 { // no such field is longer than a few lines
			b.WriteString("\r\n " + word[:lineLimit-1])
			word, used = word[lineLimit-1:], lineLimit
		}
		if used+1+len(word) > foldAt && used > len(name)+1 {
			b.WriteString("\r\n")
			used = 0
		}
		b.WriteString(" " + word)
		used += 1 + len(word)
	}
	b.line("")
}

// text writes the header and the body of a part of text: as it is, if it is of seven bits and short lines. Quoted, no
// line can be the boundary, which has an equals sign.
func (b *writer) text(contentType string, body []byte) {
	b.line("Content-Type: " + contentType)
	if plain(body) {
		b.line("Content-Transfer-Encoding: 7bit")
		b.line("")
		b.Write(body)
		b.line("")
		return
	}
	b.line("Content-Transfer-Encoding: quoted-printable")
	b.line("")
	w := quotedprintable.NewWriter(b)
	_, _ = w.Write(body) // to memory
	_ = w.Close()
	b.line("")
}

func plain(body []byte) bool {
	for line := range bytes.Lines(body) {
		line = bytes.TrimSuffix(line, []byte("\r\n"))
		if len(line) > lineLimit || bytes.HasPrefix(line, []byte("--")) || bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r > '~' }) {
			return false
		}
	}
	return true
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > '~' || r < ' ' })
}

func decoded(s string) string {
	var d mime.WordDecoder
	if t, err := d.DecodeHeader(s); err == nil {
		s = t
	}
	s = oneLine(s)
	if r := []rune(s); len(r) > 200 {
		s = string(r[:200]) + "…"
	}
	return s
}

// oneLine keeps text from outside from starting a line of its own.
func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s))
}
