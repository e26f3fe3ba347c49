package dispatch

import (
	"bytes"
	"fmt"
	"mime"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
)

// returnedHeader is how much of the original header a report carries, in bytes.
const returnedHeader = 64 << 10

// failure is one recipient that a report is about.
type failure struct {
	to   mail.Recipient // as accepted
	fate chain.Fate
	// expired: given up after lifetime; the fate is that of the last attempt.
	expired bool
}

// report writes a delivery status notification (RFC 3464) about failures of m. boundary must not occur in it.
func report(hostname string, postmaster mail.Address, id string, m *mail.Message, failures []failure, now time.Time) []byte {
	boundary := "=_dsn_" + id
	from := postmaster
	if from.IsNull() {
		from = mail.Address{Local: "postmaster", Domain: hostname}
	}
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	p("From: Mail Delivery System <%s>", from)
	p("To: <%s>", m.Envelope.ReversePath)
	p("Subject: Your message could not be delivered")
	p("Date: %s", now.Format(time.RFC1123Z))
	p("Message-ID: <%s@%s>", id, hostname)
	p("Auto-Submitted: auto-replied")
	if ref := oneLine(m.Content.Header().Get("Message-ID")); ref != "" && len(ref) < 900 {
		p("In-Reply-To: %s", ref)
		p("References: %s", ref)
	}
	p("MIME-Version: 1.0")
	p("Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"%s\"", boundary)
	p("")
	p("--%s", boundary)
	p("Content-Type: text/plain; charset=utf-8")
	p("Content-Transfer-Encoding: 8bit")
	p("")
	explain(p, hostname, m, failures)
	p("--%s", boundary)
	p("Content-Type: message/delivery-status")
	p("")
	status(p, hostname, m, failures, now)
	p("--%s", boundary)
	p("Content-Type: text/rfc822-headers")
	p("Content-Transfer-Encoding: 8bit")
	p("")
	b.Write(header(m))
	p("")
	p("--%s--", boundary)
	return b.Bytes()
}

func explain(p func(string, ...any), hostname string, m *mail.Message, failures []failure) {
	p("Hello,")
	p("")
	p("this is the mail relay %s. Your message", hostname)
	p("")
	if s := decoded(m.Content.Header().Get("Subject")); s != "" {
		p("    %s", s)
		p("")
	}
	p("could not be delivered to the following recipients, and will not be tried again.")
	for _, f := range failures {
		p("")
		p("  <%s>", f.to.Address)
		switch {
		case f.expired:
			p("    could not be delivered for %d days. The last answer was:", int(lifetime.Hours()/24))
		case f.fate.Host != "":
			p("    was refused by %s:", oneLine(f.fate.Host))
		default:
			p("    was refused:")
		}
		for line := range strings.SplitSeq(answer(f.fate), "\n") {
			p("      %s", oneLine(line))
		}
	}
	p("")
}

// status writes the fields of RFC 3464, section 2.
func status(p func(string, ...any), hostname string, m *mail.Message, failures []failure, now time.Time) {
	p("Reporting-MTA: dns; %s", hostname)
	if m.Envelope.EnvID != "" {
		p("Original-Envelope-Id: %s", oneLine(m.Envelope.EnvID))
	}
	if !m.Received.IsZero() {
		p("Arrival-Date: %s", m.Received.Format(time.RFC1123Z))
	}
	for _, f := range failures {
		p("")
		if f.to.ORcpt != "" {
			p("Original-Recipient: %s", oneLine(f.to.ORcpt))
		}
		p("Final-Recipient: rfc822; %s", f.to.Address)
		p("Action: failed")
		p("Status: %s", statusCode(f))
		if f.fate.Host != "" {
			p("Remote-MTA: dns; %s", oneLine(f.fate.Host))
		}
		if f.fate.Reply != nil {
			p("Diagnostic-Code: smtp; %s", oneLine(strings.ReplaceAll(f.fate.Reply.Public(), "\n", " ")))
		}
		p("Last-Attempt-Date: %s", now.Format(time.RFC1123Z))
	}
	p("")
}

// statusCode is the RFC 3463 code of a failure; one of class 4 becomes 4.4.7 when the message expired, and anything
// that is not of class 5 otherwise 5.0.0.
func statusCode(f failure) string {
	if f.expired {
		return "4.4.7"
	}
	if f.fate.Reply != nil && strings.HasPrefix(f.fate.Reply.Enhanced, "5.") {
		return oneLine(f.fate.Reply.Enhanced)
	}
	return "5.0.0"
}

// answer is what the next host, or a stage of ours, said; without the private part.
func answer(f chain.Fate) string {
	if f.Reply != nil {
		return f.Reply.Public()
	}
	return "no answer"
}

// header is the original header section, cut at a field's end.
func header(m *mail.Message) []byte {
	var b bytes.Buffer
	for _, f := range m.Content.Header().Fields {
		if b.Len()+len(f.Raw) > returnedHeader {
			break
		}
		b.Write(f.Raw)
	}
	// A report is ours: its lines end in CRLF, whatever the original's did.
	out := bytes.ReplaceAll(b.Bytes(), []byte("\r\n"), []byte("\n"))
	out = bytes.ReplaceAll(out, []byte("\r"), nil)
	return bytes.ReplaceAll(out, []byte("\n"), []byte("\r\n"))
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
		if r < ' ' || r == 0x7f || r == '\u0085' || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s))
}
