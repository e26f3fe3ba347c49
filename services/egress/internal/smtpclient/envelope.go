package smtpclient

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Envelope is what one transaction says before its DATA. Parameters that the peer does not offer are left out.
type Envelope struct {
	From mail.Address
	// Size is the length of the message in bytes (RFC 1870).
	Size int64
	// EightBit says that the message holds bytes above 127 (RFC 6152).
	EightBit bool
	// UTF8 says that the message or an address needs SMTPUTF8 (RFC 6531).
	UTF8  bool
	Ret   string
	EnvID string
	To    []mail.Recipient
}

// Path is an address as it stands in MAIL and RCPT, with the angle brackets. It fails for what is no Mailbox, so that
// nothing but an address ever stands between them.
func Path(a mail.Address) (string, error) {
	if err := a.Validate(); err != nil {
		return "", fmt.Errorf("address %q: %w", clip(a.String(), 80), err)
	}
	return "<" + a.String() + ">", nil
}

func (c *Client) mailLine(e *Envelope) (string, error) {
	path, err := Path(e.From)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("MAIL FROM:" + path)
	if c.Offers("SIZE") && e.Size > 0 {
		b.WriteString(" SIZE=" + strconv.FormatInt(e.Size, 10))
	}
	if c.Offers("8BITMIME") && e.EightBit {
		b.WriteString(" BODY=8BITMIME")
	}
	if c.Offers("SMTPUTF8") && e.UTF8 {
		b.WriteString(" SMTPUTF8")
	}
	if c.Offers("DSN") {
		if e.Ret == "FULL" || e.Ret == "HDRS" {
			b.WriteString(" RET=" + e.Ret)
		}
		if x := xtext(e.EnvID); x != "" && len(x) <= 100 {
			b.WriteString(" ENVID=" + x)
		}
	}
	return b.String(), nil
}

func (c *Client) rcptLine(r *mail.Recipient) (string, error) {
	if r.Address.IsNull() {
		return "", errors.New("a recipient without an address")
	}
	path, err := Path(r.Address)
	if err != nil {
		return "", err
	}
	line := "RCPT TO:" + path
	if c.Offers("DSN") {
		if n := notify(r.Notify); n != "" {
			line += " NOTIFY=" + n
		}
		if o := orcpt(r.ORcpt); o != "" {
			line += " ORCPT=" + o
		}
	}
	return line, nil
}

// notify passes on what RFC 3461, section 4.1 knows, and nothing else.
func notify(s string) string {
	known := []string{"NEVER", "SUCCESS", "FAILURE", "DELAY"}
	var out []string
	for w := range strings.SplitSeq(s, ",") {
		w = strings.ToUpper(strings.TrimSpace(w))
		if slices.Contains(known, w) && !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	if len(out) > 1 && slices.Contains(out, "NEVER") {
		return "" // contradicts itself
	}
	return strings.Join(out, ",")
}

// orcpt writes "rfc822;user@example.com" as RFC 3461, section 4.2 demands; what does not fit into it is left out.
func orcpt(s string) string {
	kind, addr, ok := strings.Cut(s, ";")
	if !ok || kind == "" || addr == "" {
		return ""
	}
	for _, c := range []byte(kind) {
		if c != '-' && !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'z') {
			return ""
		}
	}
	out := kind + ";" + xtext(addr)
	if len(out) > 500 {
		return ""
	}
	return out
}

// xtext is the encoding of RFC 3461, section 4.
func xtext(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < '!' || c > '~' || c == '+' || c == '=' {
			fmt.Fprintf(&b, "+%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
