package policy

import (
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
)

// Assume is what a sender's Grant would be if the client were one that the rules let in: by the rule of that name, whose
// senders are not looked at, or if it is empty by the first one whose senders match. It decides nothing: it is for
// previews.
func (v *View) Assume(name string, from mail.Address) (g Grant, ok bool) {
	if name != "" {
		ok = name == Self || slices.ContainsFunc(v.rules, func(r rule) bool { return r.Name == name })
		return Grant{Relay: name}, ok
	}
	var all View
	for _, r := range v.rules {
		r.RelayRule = config.RelayRule{Name: r.Name}
		all.rules = append(all.rules, r)
	}
	return all.Grant(Client{}, from), true
}

// IsNoChain says that r is the reply for a recipient that no chain takes.
func IsNoChain(r *mail.Reply) bool { return r == errNoChain }
