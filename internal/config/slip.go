package config

import (
	"cmp"
	"slices"
	"strings"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/stage"
)

// ChainNamed gives a chain, or nil.
func (c *Config) ChainNamed(name string) *Chain {
	i := slices.IndexFunc(c.Chains, func(ch *Chain) bool { return ch.Name == name })
	if i < 0 {
		return nil
	}
	return c.Chains[i]
}

// StageNamed gives a stage, or nil.
func (c *Config) StageNamed(name string) *Stage { return c.Stages[name] }

// RouteNamed gives a route, or nil.
func (c *Config) RouteNamed(name string) *Route { return c.Routes[name] }

// ListenerNamed gives a listener.
func (c *Config) ListenerNamed(name string) (Listener, bool) {
	i := slices.IndexFunc(c.Ingress.Listeners, func(l Listener) bool { return l.Name == name })
	if i < 0 {
		return Listener{}, false
	}
	return c.Ingress.Listeners[i], true
}

// DomainNamed gives a domain of ours by its name in lower case and A-labels.
func (c *Config) DomainNamed(name string) (Domain, bool) {
	i := slices.IndexFunc(c.Domains, func(d Domain) bool { return d.Name == name })
	if i < 0 {
		return Domain{}, false
	}
	return c.Domains[i], true
}

// StagesOf gives the stages of a type, by name.
func (c *Config) StagesOf(typ string) []*Stage {
	var out []*Stage
	for _, s := range c.Stages {
		if s.Type == typ {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *Stage) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// TraitsByType gives what the stages of each configured type may do, as the file and the table of built-in types say.
func (c *Config) TraitsByType() map[string]stage.Traits {
	m := make(map[string]stage.Traits, len(c.Stages))
	for _, s := range c.Stages {
		m[s.Type] = s.Traits
	}
	return m
}

// StageIdentities are the names that certificates of stages bear, sorted, each once.
func (c *Config) StageIdentities() []string {
	var names []string
	for _, s := range c.Stages {
		names = append(names, cmp.Or(s.Identity, s.Type))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Slip is the itinerary of a message that enters ch now: all its stages in order, the inline ones too. Who has run
// those already goes on after them.
func (c *Config) Slip(ch *Chain) chain.Slip {
	s := chain.Slip{Chain: ch.Name, Revision: c.Revision, Hops: make([]chain.Hop, len(ch.Stages))}
	for i, u := range ch.Stages {
		s.Hops[i] = chain.Hop{
			Instance:    u.Stage.Name,
			Type:        u.Stage.Type,
			Hash:        u.Stage.Hash,
			Address:     u.Stage.Address,
			Identity:    u.Stage.Identity,
			Timeout:     u.Stage.Timeout,
			OnError:     chain.OnError(u.OnError),
			ProcessOnly: u.Stage.ProcessOnly,
			Shadow:      u.Shadow,
		}
	}
	s.Route = chain.Route{Name: ch.Deliver, Address: c.Egress.Address}
	if r := c.Routes[ch.Deliver]; r != nil {
		s.Route.Hash = r.Hash
	}
	return s
}

// InlinePrefix is how many stages of the chain run before 250.
func (ch *Chain) InlinePrefix() int {
	n := 0
	for n < len(ch.Stages) && ch.Stages[n].Inline {
		n++
	}
	return n
}
