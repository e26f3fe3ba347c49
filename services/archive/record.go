package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/stagecoachmail/stagecoach/mail"
)

// ErrDamaged says that a file of the archive is not what was written.
var ErrDamaged = errors.New("damaged")

// A record file is one line "stagecoach-archive 1 SHA256", then JSON, of which SHA256 is the digest.
const recordMagic = "stagecoach-archive 1 "

// maxRecord bounds a record file in bytes: some ten thousand recipients with the longest addresses fit.
const maxRecord = 32 << 20

// record is what is kept of one message besides its bytes.
type record struct {
	ID       text      `json:"id"`
	Received time.Time `json:"received"`
	Archived time.Time `json:"archived"`
	SHA256   string    `json:"sha256"`
	Size     int64     `json:"size"`
	Envelope envelope  `json:"envelope"`
	// Recipients are the ids of those that this form of the message was on its way to, sorted.
	Recipients []text `json:"recipients"`
}

type envelope struct {
	ReversePath  address     `json:"reverse_path"`
	Recipients   []recipient `json:"recipients"`
	Ret          text        `json:"ret,omitempty"`
	EnvID        text        `json:"envid,omitempty"`
	EightBitMIME bool        `json:"8bitmime,omitempty"`
	SMTPUTF8     bool        `json:"smtputf8,omitempty"`
	Origin       origin      `json:"origin"`
}

type address struct {
	Local  text `json:"local"`
	Domain text `json:"domain"`
}

type recipient struct {
	ID      text    `json:"id"`
	Address address `json:"address"`
	Notify  text    `json:"notify,omitempty"`
	ORcpt   text    `json:"orcpt,omitempty"`
}

type origin struct {
	Direction text `json:"direction,omitempty"`
	Listener  text `json:"listener,omitempty"`
	Relay     text `json:"relay,omitempty"`
	User      text `json:"user,omitempty"`
	Client    text `json:"client,omitempty"`
	Helo      text `json:"helo,omitempty"`
	TLS       bool `json:"tls,omitempty"`
}

// text is a string that survives JSON byte for byte: what is not UTF-8 (a HELO may be anything) is kept as base64,
// in an object, because encoding/json would put U+FFFD in its place.
type text string

type rawText struct {
	Base64 []byte `json:"base64"`
}

func (t text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal(rawText{Base64: []byte(t)})
}

func (t *text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var raw rawText
		if err := json.Unmarshal(b, &raw); err != nil {
			return err
		}
		*t = text(raw.Base64)
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*t = text(s)
	return nil
}

func newRecord(m *mail.Message, sum string, size int64, now time.Time) record {
	r := record{
		ID:         text(m.ID),
		Received:   m.Received.UTC().Round(0),
		Archived:   now.UTC().Round(0),
		SHA256:     sum,
		Size:       size,
		Envelope:   storedEnvelope(&m.Envelope),
		Recipients: make([]text, 0, len(m.Pending)),
	}
	for _, id := range m.Pending {
		r.Recipients = append(r.Recipients, text(id))
	}
	slices.Sort(r.Recipients)
	r.Recipients = slices.Compact(r.Recipients)
	return r
}

func storedEnvelope(e *mail.Envelope) envelope {
	out := envelope{
		ReversePath:  address{text(e.ReversePath.Local), text(e.ReversePath.Domain)},
		Recipients:   make([]recipient, 0, len(e.Recipients)),
		Ret:          text(e.Ret),
		EnvID:        text(e.EnvID),
		EightBitMIME: e.EightBitMIME,
		SMTPUTF8:     e.SMTPUTF8,
		Origin: origin{
			Direction: text(e.Origin.Direction), Listener: text(e.Origin.Listener), Relay: text(e.Origin.Relay),
			User: text(e.Origin.User), Client: text(e.Origin.Client), Helo: text(e.Origin.Helo), TLS: e.Origin.TLS,
		},
	}
	for _, r := range e.Recipients {
		out.Recipients = append(out.Recipients, recipient{
			ID: text(r.ID), Address: address{text(r.Address.Local), text(r.Address.Domain)},
			Notify: text(r.Notify), ORcpt: text(r.ORcpt),
		})
	}
	return out
}

func (e *envelope) mail() mail.Envelope {
	out := mail.Envelope{
		ReversePath:  mail.Address{Local: string(e.ReversePath.Local), Domain: string(e.ReversePath.Domain)},
		Ret:          string(e.Ret),
		EnvID:        string(e.EnvID),
		EightBitMIME: e.EightBitMIME,
		SMTPUTF8:     e.SMTPUTF8,
		Origin: mail.Origin{
			Direction: mail.Direction(e.Origin.Direction), Listener: string(e.Origin.Listener),
			Relay: string(e.Origin.Relay), User: string(e.Origin.User), Client: string(e.Origin.Client),
			Helo: string(e.Origin.Helo), TLS: e.Origin.TLS,
		},
	}
	for _, r := range e.Recipients {
		out.Recipients = append(out.Recipients, mail.Recipient{
			ID:      mail.RecipientID(r.ID),
			Address: mail.Address{Local: string(r.Address.Local), Domain: string(r.Address.Domain)},
			Notify:  string(r.Notify), ORcpt: string(r.ORcpt),
		})
	}
	return out
}

// same says that two records are of one form of a message: the same bytes under the same envelope.
func (r *record) same(o *record) bool {
	a, b := r.Envelope, o.Envelope
	recipients := slices.Equal(a.Recipients, b.Recipients)
	a.Recipients, b.Recipients = nil, nil
	return recipients && r.SHA256 == o.SHA256 && r.Size == o.Size && a.equal(&b)
}

// equal compares all but the recipients.
func (e *envelope) equal(o *envelope) bool {
	return e.ReversePath == o.ReversePath && e.Ret == o.Ret && e.EnvID == o.EnvID &&
		e.EightBitMIME == o.EightBitMIME && e.SMTPUTF8 == o.SMTPUTF8 && e.Origin == o.Origin
}

// key names a record after all that makes it differ from another record of the same message. Two processes that
// keep the same thing at the same time so give it the same name.
func (r *record) key() (string, error) {
	k := *r
	k.Received, k.Archived = time.Time{}, time.Time{}
	b, err := json.Marshal(k)
	if err != nil {
		return "", err
	}
	return hexSum(b)[:32], nil
}

func (r *record) encode() ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	b = append(b, '\n')
	out := make([]byte, 0, len(recordMagic)+65+len(b))
	out = append(out, recordMagic...)
	out = append(out, hexSum(b)...)
	out = append(out, '\n')
	out = append(out, b...)
	if len(out) > maxRecord {
		return nil, fmt.Errorf("a record of %d bytes, more than %d", len(out), maxRecord)
	}
	return out, nil
}

// parseRecord reads a record file. Its errors are ErrDamaged, except for a format that is newer than this program.
func parseRecord(b []byte) (*record, error) {
	rest, ok := bytes.CutPrefix(b, []byte(recordMagic))
	if !ok {
		if line, _, _ := bytes.Cut(b, []byte("\n")); bytes.HasPrefix(line, []byte("stagecoach-archive ")) && len(line) < 128 {
			return nil, fmt.Errorf("record format %q is not known here", line)
		}
		return nil, fmt.Errorf("record without its first line: %w", ErrDamaged)
	}
	sum, body, ok := bytes.Cut(rest, []byte("\n"))
	if !ok || string(sum) != hexSum(body) {
		return nil, fmt.Errorf("record's digest does not match: %w", ErrDamaged)
	}
	var r record
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("record's JSON: %w (%w)", ErrDamaged, err)
	}
	if !isHexSum(r.SHA256) || r.Size < 0 {
		return nil, fmt.Errorf("record without a digest or size: %w", ErrDamaged)
	}
	return &r, nil
}

func isHexSum(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
