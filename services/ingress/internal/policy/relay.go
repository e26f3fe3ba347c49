package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
)

// Client is who speaks to us.
type Client struct {
	Listener string
	Addr     netip.Addr
	// User is the authenticated user, or empty.
	User string
}

// Grant is what the relay rules say of a sender. The zero Grant is a stranger's.
type Grant struct {
	// Relay is the rule that lets the mail in, or empty. Where Pending is not, it is the first of those.
	Relay string
	// Pending are the rules that narrow the sender: the reverse-path is null, so the header From decides (CheckFrom).
	Pending []string
}

// Trusted says that a rule lets the mail in, perhaps only after a look at its header.
func (g Grant) Trusted() bool { return g.Relay != "" }

type rule struct {
	config.RelayRule
	senders []mail.Pattern
	granted func(rule string, client netip.Addr) bool
}

// newRule refuses what would be an open relay, whatever was checked when the file was loaded.
func newRule(r config.RelayRule, granted func(string, netip.Addr) bool) (rule, error) {
	where := fmt.Sprintf("relay rule %q", r.Name)
	if r.Name == "" || r.Name == Self {
		return rule{}, fmt.Errorf("%s: a rule needs a name other than %q", where, Self)
	}
	if len(r.Networks) == 0 && !r.Auth && !r.Grants {
		return rule{}, fmt.Errorf("%s: names neither networks nor grants nor auth, so it lets everybody in", where)
	}
	for _, n := range r.Networks {
		if !r.Auth && everybody(n) {
			return rule{}, fmt.Errorf("%s: the network %s is everybody", where, n)
		}
	}
	senders, err := patterns(where+": senders", r.Senders)
	return rule{r, senders, granted}, err
}

// admits says that the rule takes the client, whatever the sender.
func (r *rule) admits(c Client) bool {
	if r.Auth && c.User == "" {
		return false
	}
	if len(r.Listeners) > 0 && !slices.Contains(r.Listeners, c.Listener) {
		return false
	}
	if len(r.Networks) == 0 && !r.Grants {
		return true
	}
	return r.reaches(c.Addr)
}

// reaches says that an address lies in one of the rule's networks, or has a grant for it.
func (r *rule) reaches(a netip.Addr) bool {
	return contains(r.Networks, a) || r.Grants && r.granted != nil && r.granted(r.Name, a)
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool {
		if n.Addr().Is4In6() && n.Bits() >= 96 {
			n = netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96)
		}
		return n.Contains(a)
	})
}

// Known says that a relay rule is there for the client's network, or a grant: it is one of the company's own machines.
func (v *View) Known(listener string, a netip.Addr) bool {
	return slices.ContainsFunc(v.rules, func(r rule) bool {
		return r.reaches(a) &&
			(len(r.Listeners) == 0 || slices.Contains(r.Listeners, listener))
	})
}

// Grant finds the relay rule that lets mail of this sender in: the first that takes client and sender, else, for the
// null reverse-path, those that must look at the header From.
func (v *View) Grant(c Client, from mail.Address) Grant {
	var g Grant
	for i := range v.rules {
		r := &v.rules[i]
		switch {
		case !r.admits(c):
		case len(r.senders) == 0, matchAny(r.senders, from):
			return Grant{Relay: r.Name}
		case from.IsNull():
			g.Pending = append(g.Pending, r.Name)
		}
	}
	if len(g.Pending) > 0 {
		g.Relay = g.Pending[0]
	}
	return g
}

// CheckFrom decides a Grant that is pending: the first of its rules that takes every author of the header From.
func (v *View) CheckFrom(g Grant, authors []mail.Address) (relay string, ok bool) {
	if len(g.Pending) == 0 {
		return g.Relay, true
	}
	if len(authors) == 0 {
		return "", false
	}
	for i := range v.rules {
		r := &v.rules[i]
		if !slices.Contains(g.Pending, r.Name) {
			continue
		}
		if !slices.ContainsFunc(authors, func(a mail.Address) bool { return !matchAny(r.senders, a) }) {
			return r.Name, true
		}
	}
	return "", false
}
