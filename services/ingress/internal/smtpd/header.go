package smtpd

import (
	"bytes"
	netmail "net/mail"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
)

const (
	// maxHeader bounds the header section in octets.
	maxHeader = 1 << 20
	// maxField bounds what is kept of a field that is looked at.
	maxField = 16 << 10
)

// headerScan looks at the header of a message as it passes: it counts Received fields, knows ours, and keeps From. It
// needs little memory, however large the header.
type headerScan struct {
	policy   *policy.Policy
	done     bool
	size     int64
	received int
	passes   map[string]bool // ids of messages that came through here
	from     []string
	first    map[string]string // values of the first Message-ID and Subject

	line  []byte // the line so far, at most maxField of it
	cut   bool   // the line is longer than that
	field []byte // the field so far, if it is one that is looked at
	kind  string
	doubt bool // another reader may see other authors: a From that is too long, or a line that is no field
}

func newHeaderScan(p *policy.Policy) *headerScan {
	return &headerScan{policy: p, passes: map[string]bool{}, first: map[string]string{}}
}

// write takes the next octets of the message.
func (h *headerScan) write(p []byte) {
	for len(p) > 0 && !h.done {
		i := bytes.IndexByte(p, '\n')
		n := i + 1
		if i < 0 {
			n = len(p)
		}
		h.size += int64(n)
		h.keep(p[:n])
		p = p[n:]
		if i >= 0 {
			h.endLine()
		}
	}
}

func (h *headerScan) keep(p []byte) {
	if room := maxField - len(h.line); len(p) > room {
		p = p[:max(room, 0)]
		h.cut = true
	}
	h.line = append(h.line, p...)
}

func (h *headerScan) endLine() {
	line := bytes.TrimRight(h.line, "\r\n")
	cut := h.cut
	h.line, h.cut = h.line[:0], false
	switch {
	case len(line) == 0:
		h.end()
	case line[0] == ' ' || line[0] == '\t':
		if h.kind != "" && len(h.field)+len(line) <= maxField {
			h.field = append(append(h.field, '\n'), line...)
		} else {
			cut = true
		}
		h.doubt = h.doubt || cut && h.kind == "from"
	default:
		h.endField()
		name, _, ok := bytes.Cut(line, []byte{':'})
		name = bytes.TrimRight(name, " \t")
		if !ok || !fieldName(name) {
			// What is no field begins the body, for most readers.
			h.doubt = true
			h.end()
			return
		}
		switch strings.ToLower(string(name)) {
		case "received", "from", "message-id", "subject":
			h.kind = strings.ToLower(string(name))
			h.field = append(h.field[:0], line...)
			h.doubt = h.doubt || cut && h.kind == "from"
		}
	}
}

// fieldName is RFC 5322, section 3.6.8.
func fieldName(b []byte) bool {
	for _, x := range b {
		if x <= ' ' || x > '~' {
			return false
		}
	}
	return len(b) > 0
}

func (h *headerScan) endField() {
	_, value, _ := bytes.Cut(h.field, []byte{':'})
	switch h.kind {
	case "received":
		h.received++
		if id, ok := h.policy.Pass(value); ok {
			h.passes[id] = true
		}
	case "from":
		h.from = append(h.from, string(value))
	case "message-id", "subject":
		if _, again := h.first[h.kind]; !again {
			h.first[h.kind] = strings.Trim(strings.ReplaceAll(string(value), "\n", ""), " \t")
		}
	}
	h.kind, h.field = "", h.field[:0]
}

// end says that the header, or the message, has ended.
func (h *headerScan) end() {
	if h.done {
		return
	}
	if len(h.line) > 0 {
		h.endLine()
	}
	h.endField()
	h.done = true
	h.line, h.field = nil, nil
}

var (
	errHeader = reply(552, "5.3.4", "header too large")
	errLoop   = reply(554, "5.4.6", "mail loop")
)

// refused is the reply to headers without end, and to messages that go in a circle (RFC 5321, section 6.3).
func (h *headerScan) refused() *mail.Reply {
	switch {
	case h.size > maxHeader:
		return errHeader
	case h.received >= policy.MaxReceived || len(h.passes) >= policy.MaxPasses:
		return errLoop
	}
	return nil
}

// authors are the addresses of the header From; none if there is not exactly one such field, or if it cannot be
// read: what two readers may read differently proves nothing.
func (h *headerScan) authors() []mail.Address {
	if len(h.from) != 1 || h.doubt {
		return nil
	}
	list, err := netmail.ParseAddressList(strings.NewReplacer("\r", "", "\n", "").Replace(h.from[0]))
	if err != nil {
		return nil
	}
	var out []mail.Address
	for _, one := range list {
		at := strings.LastIndexByte(one.Address, '@')
		if at < 0 {
			return nil
		}
		out = append(out, mail.Address{Local: one.Address[:at], Domain: one.Address[at+1:]})
	}
	return out
}
