package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
)

// chainMatch is a chain with its patterns parsed.
type chainMatch struct {
	chain      *config.Chain
	senders    []mail.Pattern
	recipients []mail.Pattern
}

func newChainMatch(c *config.Chain) (chainMatch, error) {
	where := fmt.Sprintf("chain %q", c.Name)
	senders, err := patterns(where+": senders", c.Match.Senders)
	if err != nil {
		return chainMatch{}, err
	}
	recipients, err := patterns(where+": recipients", c.Match.Recipients)
	return chainMatch{c, senders, recipients}, err
}

// Direction is the way of one recipient's copy. A stranger's mail is inbound, also where it goes on to a postmaster
// elsewhere.
func (v *View) Direction(o mail.Origin, to mail.Address) mail.Direction {
	switch {
	case !o.Trusted():
		return mail.Inbound
	case v.Ours(to.Domain):
		return mail.Internal
	}
	return mail.Outbound
}

// Match finds the chain that takes a recipient: the first whose match holds. The direction is that of this recipient
// (env.Origin.Direction is not looked at: one transaction may have recipients here and elsewhere). Mail to our domains
// that no internal chain takes goes through that domain's inbound chain. Mail of a stranger to a postmaster
// elsewhere is our own to forward: it is matched as outbound mail of the rule "self" if there is a chain for that.
func (v *View) Match(env *mail.Envelope, rcpt mail.Recipient) (chain *config.Chain, ok bool) {
	o, to := env.Origin, rcpt.Address
	direction := v.Direction(o, to)
	if direction == mail.Inbound && !v.Ours(to.Domain) {
		if c := v.first(mail.Outbound, mail.Origin{Relay: Self}, env.ReversePath, to); c != nil {
			return c, true
		}
	}
	if c := v.first(direction, o, env.ReversePath, to); c != nil {
		return c, true
	}
	if direction != mail.Internal {
		return nil, false
	}
	if c := v.first(mail.Inbound, o, env.ReversePath, to); c != nil {
		return c, true
	}
	// The domain's inbound chain, as it takes mail that comes in elsewhere and from others.
	for i := range v.chains {
		if m := &v.chains[i]; m.way(mail.Inbound) && m.to(to) {
			return m.chain, true
		}
	}
	return nil, false
}

func (v *View) first(d mail.Direction, o mail.Origin, from, to mail.Address) *config.Chain {
	for i := range v.chains {
		m := &v.chains[i]
		switch {
		case !m.way(d), !m.to(to):
		case len(m.chain.Match.Listener) > 0 && !slices.Contains(m.chain.Match.Listener, o.Listener):
		case len(m.chain.Match.Relay) > 0 && !slices.Contains(m.chain.Match.Relay, o.Relay):
		case len(m.senders) > 0 && !matchAny(m.senders, from):
		default:
			return m.chain
		}
	}
	return nil
}

func (m *chainMatch) way(d mail.Direction) bool {
	return len(m.chain.Match.Direction) == 0 || slices.Contains(m.chain.Match.Direction, d)
}

func (m *chainMatch) to(a mail.Address) bool {
	return len(m.recipients) == 0 || matchAny(m.recipients, a)
}

// InlinePrefix tells chains apart by what runs before the 250: two recipients share a transaction only if it is equal.
func InlinePrefix(c *config.Chain) string {
	var b strings.Builder
	for _, u := range c.Stages {
		if !u.Inline {
			break
		}
		name := ""
		if u.Stage != nil {
			name = u.Stage.Name + "/" + u.Stage.Hash
		}
		fmt.Fprintf(&b, "%q %q %t;", name, u.OnError, u.Shadow)
	}
	return b.String()
}
