package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// self is the rule by which our own reports are matched.
const self = "self"

// granted is a network from which a rule lets everybody in without a password.
type granted struct {
	prefix netip.Prefix
	raw    *val[string]
}

func (b *builder) relay() {
	seen := map[string]spot{}
	var open []granted
	for i := range b.raw.Relay {
		raw := &b.raw.Relay[i]
		r := RelayRule{Name: raw.V.Name.V, Auth: b.oneOf(&raw.V.Auth, "", "required") == "required", Grants: raw.V.Grants.V}
		if raw.V.Name.missing() {
			b.missing(raw.at, raw.path, "name", "")
		} else if b.name(&raw.V.Name) {
			b.unique(seen, &raw.V.Name, "relay rule")
			if r.Name == self {
				b.p.add(raw.V.Name.at, raw.V.Name.path, "self is the rule of our own reports: choose another name")
			}
		}
		for j := range raw.V.Networks {
			v := &raw.V.Networks[j]
			if p, ok := b.prefix(v); ok {
				r.Networks = append(r.Networks, p)
				if !r.Auth {
					open = append(open, granted{p, v})
				}
			}
		}
		r.Listeners = b.listenerNames(raw.V.Listeners)
		r.Senders = b.patterns(raw.V.Senders)
		if !r.Auth && !r.Grants && len(raw.V.Networks) == 0 && !raw.bad {
			what := "names nobody"
			if len(raw.V.Senders) > 0 {
				what = "goes by the sender alone, which anybody can forge"
			}
			b.p.add(raw.at, raw.path, "%s: add networks, grants: true, or auth: required", what)
		}
		if r.Auth {
			b.authPossible(raw, r)
		}
		b.c.Relay = append(b.c.Relay, r)
	}
	b.openNetworks(open)
}

func (b *builder) listenerNames(list texts) []string {
	known := b.allListeners()
	var out []string
	for i := range list {
		if b.among(&list[i], known, "listener") {
			out = append(out, list[i].V)
		}
	}
	return out
}

func (b *builder) allListeners() []string {
	var known []string
	for _, l := range b.c.Ingress.Listeners {
		known = append(known, l.Name)
	}
	return known
}

// authPossible: a rule that asks for a login which no client can make would let nobody in, silently.
func (b *builder) authPossible(raw *val[rawRelay], r RelayRule) {
	if !b.raw.Ingress.V.UsersFile.set {
		b.p.add(raw.V.Auth.at, raw.V.Auth.path, "there is nobody to log in: ingress.users_file is missing")
	}
	for _, l := range b.c.Ingress.Listeners {
		chosen := len(r.Listeners) == 0 || slices.Contains(r.Listeners, l.Name)
		if chosen && l.TLS != ListenerPlain {
			return
		}
	}
	b.p.add(raw.V.Auth.at, raw.V.Auth.path, "passwords need TLS, which none of the rule's listeners has")
}

// prefix reads a network. An IPv4 network written in its IPv6-mapped form is the IPv4 network.
func (b *builder) prefix(v *val[string]) (netip.Prefix, bool) {
	if !v.ok() {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(v.V)
	if err != nil {
		hint := ""
		if a, err := netip.ParseAddr(v.V); err == nil {
			hint = fmt.Sprintf("; one address is %s/%d", a, a.BitLen())
		}
		b.p.add(v.at, v.path, "%q is not a network such as 10.0.0.0/24 or 2001:db8::/64%s", v.V, hint)
		return p, false
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if m := p.Masked(); m != p {
		b.p.add(v.at, v.path, "%s has bits behind its length: the network is %s, the one address %s/%d", v.V, m, p.Addr(), p.Addr().BitLen())
		return p, false
	}
	return p, true
}

// openNetworks refuses an open relay: networks without a password that mean everybody, each alone or all together,
// and such that hold the address under which a container's gateway shows every client.
func (b *builder) openNetworks(open []granted) {
	var public []granted
	gateways := Gateways{}
	if b.wants("ingress") {
		gateways = b.o.Gateways()
	}
	for _, g := range open {
		switch why := everybody(g.prefix); {
		case why != "":
			b.p.add(g.raw.at, g.raw.path, "%s %s: an open relay; add auth: required, or name the networks that are yours", g.raw.V, why)
			continue
		case gateways.in(g.prefix):
			b.p.add(g.raw.at, g.raw.path, "%s holds %s: clients from anywhere can appear under a container's gateway; "+
				"add auth: required, or name smaller networks beside it", g.raw.V, gateways)
			continue
		}
		if !reserved(g.prefix) {
			public = append(public, g)
			if shared(g.prefix) {
				b.p.warn(g.raw.at, g.raw.path, "every host in %s may relay without a password; be sure that all of them are yours", g.raw.V)
			}
		}
	}
	var sum []netip.Prefix
	for _, g := range public {
		sum = append(sum, g.prefix)
	}
	merged := merge(sum)
	for _, m := range merged {
		if why := everybody(m); why != "" {
			last := public[lastWithin(public, m)]
			b.p.add(last.raw.at, last.raw.path, "together with the others %s makes %s, which %s: an open relay", last.raw.V, m, why)
			return
		}
	}
	if len(public) > 0 && tooMany(merged) {
		last := public[len(public)-1]
		b.p.add(last.raw.at, last.raw.path, "all together the networks that relay without a password are too large a part of the internet: an open relay")
	}
}

func lastWithin(list []granted, m netip.Prefix) int {
	last := 0
	for i, g := range list {
		if m.Contains(g.prefix.Addr()) {
			last = i
		}
	}
	return last
}
