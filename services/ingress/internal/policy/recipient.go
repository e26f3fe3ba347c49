package policy

import (
	"strings"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
)

// Target is a Forward-path as RCPT gave it.
type Target struct {
	Mailbox mail.Address
	// Postmaster: "<postmaster>" without a domain (RFC 5321, section 4.5.1).
	Postmaster bool
	// Routed: it had a source route, which was dropped.
	Routed bool
}

var (
	errRelay   = &mail.Reply{Code: 550, Enhanced: "5.7.1", Text: "relaying denied"}
	errUnknown = &mail.Reply{Code: 550, Enhanced: "5.1.1", Text: "no such recipient here"}
	errNoChain = &mail.Reply{Code: 550, Enhanced: "5.7.1", Text: "no chain takes this recipient"}
)

// Recipient decides about a recipient: where the mail goes (the postmaster's and abuse's to the configured
// postmaster), or the refusal. A stranger reaches our domains and nothing else, by no notation whatever.
func (v *View) Recipient(g Grant, t Target) (mail.Address, *mail.Reply) {
	if t.Postmaster {
		return v.postmaster()
	}
	to := t.Mailbox
	d := v.domains[strings.ToLower(to.Domain)]
	if !g.Trusted() && (t.Routed || d == nil) {
		return mail.Address{}, errRelay
	}
	if d == nil {
		return to, nil
	}
	if role(to.Local) && !v.cfg.Postmaster.IsNull() {
		return v.cfg.Postmaster, nil
	}
	if strings.EqualFold(to.Local, "postmaster") || d.has(to) {
		if !g.Trusted() && indirect(to.Local) && !d.listed(to) {
			return mail.Address{}, errRelay
		}
		return to, nil
	}
	if !g.Trusted() && indirect(to.Local) {
		return mail.Address{}, errRelay
	}
	return mail.Address{}, errUnknown
}

func role(local string) bool {
	return strings.EqualFold(local, "postmaster") || strings.EqualFold(local, "abuse")
}

// indirect says that another system might read the local part as an address of its own: the percent hack, a bang
// path, an address in quotes, a source route in quotes.
func indirect(local string) bool {
	return strings.ContainsAny(local, "%!@:") || strings.HasPrefix(local, "|")
}

func (v *View) postmaster() (mail.Address, *mail.Reply) {
	switch {
	case !v.cfg.Postmaster.IsNull():
		return v.cfg.Postmaster, nil
	case len(v.cfg.Domains) > 0:
		return mail.Address{Local: "postmaster", Domain: v.cfg.Domains[0].Name}, nil
	}
	return mail.Address{}, errUnknown
}

// Chain is Match with the reply for a recipient that no chain takes.
func (v *View) Chain(env *mail.Envelope, rcpt mail.Recipient) (*config.Chain, *mail.Reply) {
	c, ok := v.Match(env, rcpt)
	if !ok {
		return nil, errNoChain
	}
	return c, nil
}
