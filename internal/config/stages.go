package config

import (
	"slices"
	"time"

	"github.com/stagecoachmail/stagecoach/stage"
)

// Bounds of a stage's timeout.
const (
	DefaultTimeout = 60 * time.Second
	MaxTimeout     = time.Hour
)

// services are no types of stages.
var services = []string{"ingress", "egress", "admin", "nats"}

func (b *builder) stages(d *decoder) {
	for i := range b.raw.Stages.V {
		raw := &b.raw.Stages.V[i]
		b.name(&raw.name)
		b.c.Stages[raw.name.V] = b.stage(d, raw)
	}
}

func (b *builder) stage(d *decoder, raw *named[rawStage]) *Stage {
	v := &raw.V
	s := &Stage{Name: raw.name.V, Type: stageType(raw), Timeout: DefaultTimeout, ProcessOnly: v.ProcessOnly.V}
	if b.name(&v.Type) && slices.Contains(services, v.Type.V) {
		b.p.add(v.Type.at, v.Type.path, "%q is a service, not a type of stage", v.Type.V)
	}
	s.Address = b.service(&v.Address)
	if v.Identity.ok() {
		var err error
		if s.Identity, err = hostName(v.Identity.V); err != nil {
			b.p.add(v.Identity.at, v.Identity.path, "%v", err)
		}
	}
	if v.Timeout.ok() {
		if s.Timeout = v.Timeout.V; s.Timeout <= 0 || s.Timeout > MaxTimeout {
			b.p.add(v.Timeout.at, v.Timeout.path, "must be above 0s and at most %v", MaxTimeout)
		}
	}
	b.kindOfStage(d, raw, s)
	return s
}

// kindOfStage decides what is known of the type: built in, linked in, or foreign.
func (b *builder) kindOfStage(d *decoder, raw *named[rawStage], s *Stage) {
	v := &raw.V
	traits, builtin := Builtin()[s.Type]
	factory, linked := b.factory(s.Type)
	at, path := raw.name.at, raw.name.path
	if v.Type.set {
		at, path = v.Type.at, v.Type.path
	}
	switch {
	case builtin:
		s.Traits = traits
		if v.Traits.set {
			b.p.add(v.Traits.at, v.Traits.path, "are known for the built-in type %s: leave them out", s.Type)
		}
		if v.ProcessOnly.V {
			b.p.add(v.ProcessOnly.at, v.ProcessOnly.path, "is for foreign stages; %s is built in", s.Type)
		}
	case v.Traits.set:
		s.Traits = b.traits(&v.Traits)
		if linked && !v.Traits.bad && s.Traits != factory.Traits {
			b.p.add(v.Traits.at, v.Traits.path, "are not those of type %s, which says %s", s.Type, describe(factory.Traits))
		}
	case linked && b.o.Mode == ModeUp:
		s.Traits = factory.Traits
	case !raw.bad && linked:
		b.p.add(at, path, "type %s is not built in: the other services have to know its traits: %s", s.Type, describe(factory.Traits))
	case !raw.bad:
		b.p.add(at, path, "type %q is neither built in nor foreign, which takes traits and an address%s",
			s.Type, suggest(s.Type, builtinNames(), "built-in types"))
	}
	if !builtin && !linked && v.Traits.set && v.Address.missing() {
		b.missing(at, raw.path, "address", ": a foreign stage is a service of its own")
	}
	if linked && b.o.Mode == ModeUp {
		s.Address = "" // it runs in this process
	}
	if builtin && !linked && b.o.Mode == ModeUp && v.Address.missing() {
		b.missing(at, raw.path, "address", ": this program does not have the stage in it")
	}
	b.config(d, v.Config, at, raw.path, s, builtin, factory, linked)
}

// config hashes what is written, and decodes it where that can be done.
func (b *builder) config(d *decoder, written subtree, at spot, path string, s *Stage, builtin bool, factory stage.Factory, linked bool) {
	n, path := written.n, join(path, "config")
	isWritten := n != nil && n.kind != kindNull
	switch {
	case n == nil:
		n = &node{spot: at, kind: kindMap}
	case n.kind == kindNull:
		n = &node{spot: n.spot, kind: kindMap}
	case n.kind != kindMap:
		d.wrong(n, path, "a mapping")
		return
	}
	if hasBad(n) {
		return
	}
	if builtin || isWritten { // a foreign stage without config takes any
		h, err := Hash(s.Type, n.plain())
		if err != nil {
			b.p.add(n.spot, path, "%v", err)
		}
		s.Hash = h
	}
	if !linked {
		return
	}
	decoded, err := factory.Decode(func(into any) error { return d.into(n, into, path) })
	if err != nil {
		d.outcome(n, path, err)
		return
	}
	s.Decoded = decoded
}

func (b *builder) traits(v *val[[]val[string]]) stage.Traits {
	var t stage.Traits
	fields := traitFields(&t)
	for i := range v.V {
		name := &v.V[i]
		if b.among(name, traitNames(), "trait") {
			*fields[name.V] = true
		} else {
			v.bad = true
		}
	}
	return t
}

func describe(t stage.Traits) string {
	fields := traitFields(&t)
	s := "["
	for _, name := range traitNames() {
		if *fields[name] {
			if s != "[" {
				s += ", "
			}
			s += name
		}
	}
	return s + "]"
}

func builtinNames() []string {
	var names []string
	for name := range Builtin() {
		names = append(names, name)
	}
	return names
}

// addresses checks what separate processes need: an address for each service, one service to each, and mutual TLS
// wherever a connection leaves the machine.
func (b *builder) addresses() {
	needsPKI := func(v *val[string]) {
		if v.ok() && !local(v.V) && !b.raw.PKI.set {
			b.p.add(v.at, v.path, "%s is reached over the network, which needs mutual TLS: pki.directory is missing", v.V)
		}
	}
	if b.o.Mode == ModeUp {
		for i := range b.raw.Stages.V {
			if s := &b.raw.Stages.V[i]; b.c.Stages[s.name.V].Address != "" {
				needsPKI(&s.V.Address)
			}
		}
		b.c.Ingress.Address, b.c.Egress.Address = "", ""
		return
	}
	owners := map[string]string{}
	one := func(owner string, parent spot, path string, v *val[string]) {
		if v.missing() {
			b.missing(parent, path, "address", ": only `stagecoach up` does without")
		}
		if !v.ok() {
			return
		}
		if other, ok := owners[v.V]; ok && other != owner {
			b.p.add(v.at, v.path, "%s is the address of %s already", v.V, other)
		}
		owners[v.V] = owner
		needsPKI(v)
	}
	in, eg := &b.raw.Ingress, &b.raw.Egress
	if !in.set {
		in.at = b.root
	}
	if !eg.set {
		eg.at = b.root
	}
	one("ingress", in.at, "ingress", &in.V.Address)
	one("egress", eg.at, "egress", &eg.V.Address)
	for i := range b.raw.Stages.V {
		s := &b.raw.Stages.V[i]
		if !s.bad || s.V.Address.set {
			one(stageType(s), s.name.at, s.name.path, &s.V.Address)
		}
	}
	for i := range b.raw.NATS.V.Servers {
		b.natsPKI(&b.raw.NATS.V.Servers[i])
	}
}
