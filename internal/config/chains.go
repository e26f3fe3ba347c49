package config

import (
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
)

func (b *builder) chains() {
	if !b.raw.Chains.set && !b.raw.Chains.bad || b.raw.Chains.ok() && len(b.raw.Chains.V) == 0 {
		b.missing(b.root, "", "chains", ": nothing would be accepted")
	}
	seen := map[string]spot{}
	first := "" // the chain that takes everything
	for i := range b.raw.Chains.V {
		raw := &b.raw.Chains.V[i]
		if raw.V.Name.missing() {
			b.missing(raw.at, raw.path, "name", "")
		} else if b.name(&raw.V.Name) {
			b.unique(seen, &raw.V.Name, "chain")
		}
		c := &Chain{Name: raw.V.Name.V, Match: b.match(&raw.V.Match), Deliver: raw.V.Deliver.V}
		if first != "" {
			b.p.add(raw.at, raw.path, "is never reached: chain %s before it takes everything", first)
		} else if c.Match.everything() && !raw.V.Match.bad && !raw.bad {
			first = c.Name
		}
		b.uses(raw, c)
		b.order(raw, c)
		if d := &raw.V.Deliver; d.missing() {
			b.missing(raw.at, raw.path, "deliver", ": the name of a route")
		} else {
			b.among(d, b.routeNames(), "route")
		}
		b.c.Chains = append(b.c.Chains, c)
	}
}

func (m *Match) everything() bool {
	return len(m.Direction)+len(m.Listener)+len(m.Relay)+len(m.Senders)+len(m.Recipients) == 0
}

func (b *builder) match(raw *val[rawMatch]) Match {
	v := &raw.V
	m := Match{Listener: b.listenerNames(v.Listener), Senders: b.patterns(v.Senders), Recipients: b.patterns(v.Recipients)}
	for i := range v.Direction {
		if d := b.oneOf(&v.Direction[i], "", "inbound", "outbound", "internal"); d != "" {
			m.Direction = append(m.Direction, mail.Direction(d))
		}
	}
	rules := []string{self}
	for _, r := range b.c.Relay {
		rules = append(rules, r.Name)
	}
	for i := range v.Relay {
		if b.among(&v.Relay[i], rules, "relay rule") {
			m.Relay = append(m.Relay, v.Relay[i].V)
		}
	}
	inboundOnly := len(m.Direction) > 0 && !slices.ContainsFunc(m.Direction, func(d mail.Direction) bool { return d != mail.Inbound })
	if inboundOnly && len(v.Relay) > 0 && !raw.bad {
		b.p.add(v.Relay[0].at, v.Relay[0].path, "never holds: inbound mail comes from strangers, by no relay rule")
	}
	return m
}

func (b *builder) uses(raw *val[rawChain], c *Chain) {
	if !raw.V.Stages.set {
		if !raw.V.Stages.bad && !raw.bad {
			b.missing(raw.at, raw.path, "stages", ": [] if there are none")
		}
		return
	}
	seen := map[string]spot{}
	known := b.stageNames()
	for i := range raw.V.Stages.V {
		item := &raw.V.Stages.V[i]
		u := &item.V
		if u.Use.missing() {
			b.missing(item.at, item.path, "use", ": the name of a stage")
		}
		use := Use{
			Inline:  u.Inline.V,
			Shadow:  u.Shadow.V,
			OnError: b.oneOf(&u.OnError, string(chain.OnErrorDefer), string(chain.OnErrorDefer), string(chain.OnErrorSkip), string(chain.OnErrorQuarantine)),
		}
		if !b.among(&u.Use, known, "stage") {
			continue
		}
		b.unique(seen, &u.Use, "use of stage")
		use.Stage = b.c.Stages[u.Use.V]
		c.Stages = append(c.Stages, use)
		if use.Stage.Traits.Effects {
			if use.Inline {
				b.p.add(u.Inline.at, u.Inline.path, "stage %s has effects outside the message and cannot run before the message is accepted", use.Stage.Name)
			}
			if use.Shadow {
				b.p.add(u.Shadow.at, u.Shadow.path, "stage %s has effects outside the message and cannot run in shadow", use.Stage.Name)
			}
		}
		if use.Inline && use.Shadow {
			b.p.add(u.Shadow.at, u.Shadow.path, "a stage in shadow decides nothing, an inline one decides before 250: choose one")
		}
	}
}

// order checks what depends on the order of the stages: what is sealed stays as it is, and inline stages come first.
// A stage in shadow changes nothing and so seals nothing.
func (b *builder) order(raw *val[rawChain], c *Chain) {
	var sealed, later *Stage
	i := -1
	for j := range raw.V.Stages.V {
		u := &raw.V.Stages.V[j].V
		if !u.Use.ok() || b.c.Stages[u.Use.V] == nil {
			continue
		}
		i++
		use := c.Stages[i]
		if use.Inline && later != nil {
			b.p.add(u.Inline.at, u.Inline.path, "inline stages come first in a chain; %s before it is not inline", later.Name)
		}
		if !use.Inline && later == nil {
			later = use.Stage
		}
		if use.Shadow {
			continue
		}
		if t := use.Stage.Traits; sealed != nil && (t.EditsBody || t.EditsHeader) {
			b.p.add(u.Use.at, u.Use.path, "%s can change what %s before it has sealed: put it before %s", use.Stage.Name, sealed.Name, sealed.Name)
		} else if t.Seals {
			sealed = use.Stage
		}
	}
}
