package config

import (
	"cmp"
	"slices"
)

// Callers are the names of certificates that may call a service that takes mail, sorted, each once.
type Callers struct {
	// Relay may hand messages over.
	Relay []string
	// Process may have messages judged.
	Process []string
}

// EgressCallers are the services that end slips at egress: ingress, and every stage that hands on.
func (c *Config) EgressCallers() Callers {
	names := []string{"ingress"}
	for _, ch := range c.Chains {
		names = append(names, relaying(ch.Stages)...)
	}
	return Callers{Relay: once(names)}
}

// StageCallers are the services that call stages of a type. Messages come from ingress and from
// the stages that stand before it in a chain, all of them: those in between may be passed over. To be judged alone they
// come from ingress before the 250 and for previews, and where the stage is process-only or in shadow from the hop before.
func (c *Config) StageCallers(typ string) Callers {
	relay, process := []string{"ingress"}, []string{"ingress"}
	for _, ch := range c.Chains {
		for i, u := range ch.Stages {
			if u.Stage.Type != typ {
				continue
			}
			before := relaying(ch.Stages[:i])
			relay = append(relay, before...)
			if u.Stage.ProcessOnly || u.Shadow {
				process = append(process, before...)
			}
		}
	}
	return Callers{Relay: once(relay), Process: once(process)}
}

// relaying are the names of those stages that hand messages on.
func relaying(uses []Use) []string {
	var names []string
	for _, u := range uses {
		if !u.Stage.ProcessOnly {
			names = append(names, u.Stage.identity())
		}
	}
	return names
}

func (s *Stage) identity() string { return cmp.Or(s.Identity, s.Type) }

func once(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
