package mail

import (
	"fmt"
	"slices"
)

// RecipientID names a recipient within its message. It stays when the address is rewritten, and is never reused.
type RecipientID string

// Envelope is the SMTP envelope (RFC 5321, section 2.3.1) with what is known of how the message came in.
type Envelope struct {
	// ReversePath is the sender; the zero Address is the null reverse-path "<>".
	ReversePath Address
	Recipients  []Recipient
	// Ret is the RFC 3461 RET parameter: "FULL", "HDRS" or empty.
	Ret string
	// EnvID is the RFC 3461 ENVID parameter, decoded; empty if there was none.
	EnvID string
	// EightBitMIME says that BODY=8BITMIME was declared (RFC 6152).
	EightBitMIME bool
	// SMTPUTF8 was declared (RFC 6531).
	SMTPUTF8 bool
	Origin   Origin
}

// Recipient is one forward-path with its RFC 3461 parameters.
type Recipient struct {
	ID      RecipientID
	Address Address
	// Notify is the NOTIFY parameter: empty, "NEVER", or a comma separated list of SUCCESS, FAILURE, DELAY.
	Notify string
	// ORcpt is the ORCPT parameter, decoded: "rfc822;user@example.com"; empty if there was none.
	ORcpt string
}

// Direction says which way a message goes through the gateway.
type Direction string

const (
	// Inbound: from a stranger to one of our domains.
	Inbound Direction = "inbound"
	// Outbound: let in by a relay rule, to a domain that is not ours.
	Outbound Direction = "outbound"
	// Internal: let in by a relay rule, to one of our domains.
	Internal Direction = "internal"
)

// Origin is how a message came in.
type Origin struct {
	Direction Direction
	// Listener is the name of the listener.
	Listener string
	// Relay is the name of the relay rule that let it in; empty for a stranger, "self" for our own reports.
	Relay string
	// User is the authenticated user, or empty.
	User string
	// Client is the IP address of the client, without port.
	Client string
	// Helo is what the client called itself; untrusted.
	Helo string
	// TLS says that the session was encrypted.
	TLS bool
}

// Trusted says that a relay rule let the message in: its sender may be sent a report.
func (o Origin) Trusted() bool { return o.Relay != "" }

// Recipient finds a recipient by its id.
func (e *Envelope) Recipient(id RecipientID) (Recipient, bool) {
	i := slices.IndexFunc(e.Recipients, func(r Recipient) bool { return r.ID == id })
	if i < 0 {
		return Recipient{}, false
	}
	return e.Recipients[i], true
}

// Clone returns an envelope that shares nothing changeable with e.
func (e *Envelope) Clone() Envelope {
	c := *e
	c.Recipients = slices.Clone(e.Recipients)
	return c
}

// Apply gives the envelope with the envelope edits; the splices are not looked at. It is an error to rewrite a
// recipient that the envelope does not have, to give an address that is none, or one that needs SMTPUTF8 (RFC 6531)
// when the message came without.
func (e *Envelope) Apply(edits Edits) (Envelope, error) {
	edits.Splices = nil
	if err := edits.Validate(0); err != nil {
		return Envelope{}, fmt.Errorf("apply envelope edits: %w", err)
	}
	c := e.Clone()
	usable := func(a Address) error {
		if !e.SMTPUTF8 && !a.IsASCII() {
			return fmt.Errorf("apply envelope edits: %q needs SMTPUTF8, and the message came without", a)
		}
		return nil
	}
	if edits.ReversePath != nil {
		if err := usable(*edits.ReversePath); err != nil {
			return Envelope{}, err
		}
		c.ReversePath = *edits.ReversePath
	}
	for _, w := range edits.Rewrites {
		i := slices.IndexFunc(c.Recipients, func(r Recipient) bool { return r.ID == w.Recipient })
		if i < 0 {
			return Envelope{}, fmt.Errorf("apply envelope edits: there is no recipient %q", w.Recipient)
		}
		if err := usable(w.To); err != nil {
			return Envelope{}, err
		}
		c.Recipients[i].Address = w.To
	}
	return c, nil
}
