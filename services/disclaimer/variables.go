package disclaimer

import (
	"io"
	"mime"
	"net/mail"
	"reflect"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/encoding/htmlindex"

	stagemail "github.com/stagecoachmail/stagecoach/mail"
)

// Variables are what a template can name. They come from outside: every value is cleaned before it is used.
type Variables struct {
	// Sender is the address of the author (the first in the header From), else the reverse-path.
	Sender string
	// SenderName is the author's display name, or Sender if there is none.
	SenderName string
	// SenderDomain is the domain of Sender.
	SenderDomain string
	// Recipient is the address of the recipient, if the envelope has just one; else it is empty, since a list would
	// show the blind copies.
	Recipient string
	// Subject of the message.
	Subject string
	// Date of acceptance, UTC, as 2006-01-02.
	Date string
	// MessageID is the Message-ID, with its angle brackets.
	MessageID string
}

// maxValue bounds the characters of one value.
const maxValue = 256

// variablesOf reads the variables from a message. now is for a message that does not say when it was accepted.
func variablesOf(m *stagemail.Message, now time.Time) Variables {
	h := m.Content.Header()
	v := Variables{
		Subject:   decodeWords(h.Get("Subject")),
		MessageID: h.Get("Message-ID"),
	}
	if !m.Received.IsZero() {
		now = m.Received
	}
	v.Date = now.UTC().Format(time.DateOnly)
	if len(m.Envelope.Recipients) == 1 {
		v.Recipient = m.Envelope.Recipients[0].Address.String()
	}
	v.Sender, v.SenderName = author(h.Get("From"))
	if v.Sender == "" {
		v.Sender = m.Envelope.ReversePath.String()
	}
	if v.SenderName == "" {
		v.SenderName = v.Sender
	}
	if i := strings.LastIndexByte(v.Sender, '@'); i >= 0 {
		v.SenderDomain = strings.ToLower(v.Sender[i+1:])
	}
	return v
}

// maxFrom bounds the header From that is parsed.
const maxFrom = 16 << 10

// author gives address and display name of the first mailbox in a From field; empty if it cannot be read.
func author(from string) (address, name string) {
	if len(from) > maxFrom {
		return "", ""
	}
	p := mail.AddressParser{WordDecoder: &wordDecoder}
	list, err := p.ParseList(from)
	if err != nil || len(list) == 0 {
		return "", ""
	}
	return list[0].Address, list[0].Name
}

// wordDecoder reads encoded words (RFC 2047); in a charset that nobody knows, what is not ASCII is replaced.
var wordDecoder = mime.WordDecoder{CharsetReader: func(charset string, r io.Reader) (io.Reader, error) {
	e, err := htmlindex.Get(charset)
	if err != nil {
		b, err := io.ReadAll(r)
		return strings.NewReader(strings.ToValidUTF8(string(b), "\ufffd")), err
	}
	return e.NewDecoder().Reader(r), nil
}}

func decodeWords(s string) string {
	if decoded, err := wordDecoder.DecodeHeader(s); err == nil {
		return decoded
	}
	return s
}

// clean makes all values fit to stand in a text.
func (v Variables) clean() Variables {
	fields := reflect.ValueOf(&v).Elem()
	for i := range fields.NumField() {
		f := fields.Field(i)
		f.SetString(cleanValue(f.String()))
	}
	return v
}

// cleanValue makes one line of visible characters: line ends and other white space become a space, control and format
// characters (which reorder or hide text) go, and what is too long is cut.
func cleanValue(s string) string {
	var b strings.Builder
	n, space := 0, false
	for _, r := range strings.ToValidUTF8(s, "\ufffd") {
		switch {
		case unicode.IsSpace(r) || r == '\u2028' || r == '\u2029':
			space = b.Len() > 0
			continue
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs):
			continue
		}
		if n++; n > maxValue {
			b.WriteString("…")
			break
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}

func variableNames() string {
	t := reflect.TypeFor[Variables]()
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = "." + t.Field(i).Name
	}
	return strings.Join(names, ", ")
}
