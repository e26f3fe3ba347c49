package notices

import (
	"bytes"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"strings"
	"time"
	"unicode"

	"github.com/stagecoachmail/stagecoach/mail"
)

const (
	// Of texts from outside, in runes.
	reasonLimit  = 300
	nameLimit    = 200
	subjectLimit = 160
	// mostHeldBack is how many titles of notices that were held back are listed.
	mostHeldBack = 100
)

// envelope is who tells, and who is told.
type envelope struct {
	to       mail.Address
	hostname string
}

func subjectOf(items []*item) string {
	s := items[0].title
	if len(items) > 1 {
		s = fmt.Sprintf("%d notices: %s, and more", len(items), s)
	}
	return line("[stagecoach] "+s, subjectLimit)
}

// message is a notice as it goes out (RFC 5322, RFC 3834): in UTF-8, its lines short and of seven bits on the wire. What
// is too large has its lines cut.
func (e envelope) message(id string, at time.Time, subject string, items []*item) (raw []byte) {
	for _, n := range []int{1000, 300, 100, 40} {
		if raw = e.cut(id, at, subject, items, n); len(raw) <= sizeLimit {
			break
		}
	}
	return raw
}

// cut is the notice with lines of at most n runes.
func (e envelope) cut(id string, at time.Time, subject string, items []*item, n int) []byte {
	var text strings.Builder
	fmt.Fprintf(&text, "Hello,\r\n\r\nthis is the mail relay %s.\r\n", line(e.hostname, nameLimit))
	for _, i := range items {
		text.WriteString("\r\n" + capital(line(i.title, min(n, reasonLimit))) + "\r\n")
		for _, l := range i.lines {
			text.WriteString(strings.TrimRight("  "+line(l, n), " ") + "\r\n")
		}
	}
	text.WriteString("\r\n`stagecoach status` says how it is now.\r\n")

	var b bytes.Buffer
	field := func(name, value string) { b.WriteString(name + ": " + value + "\r\n") }
	field("From", "Stagecoach <MAILER-DAEMON@"+e.hostname+">")
	field("To", "<"+e.to.String()+">")
	field("Subject", strings.ReplaceAll(mime.QEncoding.Encode("utf-8", subject), "?= =?", "?=\r\n =?"))
	field("Date", at.Format(time.RFC1123Z))
	field("Message-ID", "<"+id+"@"+e.hostname+">")
	field("Auto-Submitted", "auto-generated")
	field("MIME-Version", "1.0")
	field("Content-Type", "text/plain; charset=utf-8")
	field("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	_, _ = w.Write([]byte(text.String())) // to memory
	_ = w.Close()
	return b.Bytes()
}

// sizeLimit of a notice, in bytes: what the log takes into one entry.
const sizeLimit = 256 << 10

// line is a text, from wherever, that stays in its line and shows what it is: nothing in it ends the line, moves the
// cursor or turns the direction of writing.
func line(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
	s = strings.TrimSpace(s)
	if r := []rune(s); len(r) > limit {
		s = string(r[:limit]) + "…"
	}
	return s
}

func capital(s string) string {
	r := []rune(s)
	if len(r) > 0 {
		r[0] = unicode.ToUpper(r[0])
	}
	return string(r)
}

// length is a time for people.
func length(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", max(d, 0)/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
