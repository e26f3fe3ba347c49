package config

import (
	"fmt"
	"net/netip"
)

// The widest network that an operator can grant leave to, in bits.
const (
	grant4, grant6 = 24, 64
)

// GrantNetwork reads an address or a network that is to relay by a grant. An error says why it may not: it is none, it is
// wider than /24 (IPv4) or /64 (IPv6), also where IPv4 stands behind a translation to IPv6, or it holds an address under
// which a container sees everybody.
func GrantNetwork(text string, g Gateways) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, aerr := netip.ParseAddr(text)
		if aerr != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%.64q is neither an address nor a network such as 192.0.2.7/32 or 2001:db8::/64", text)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, fmt.Errorf("%s has bits behind its length: the network is %s, the one address %s", text, m, p.Addr())
	}
	seen := p
	if v4, ok := within(p); ok {
		seen = v4
	}
	switch {
	case p.Addr().Is6() && p.Bits() < grant6, seen.Addr().Is4() && seen.Bits() < grant4:
		return netip.Prefix{}, fmt.Errorf("%s is wider than /%d (IPv4) or /%d (IPv6): a grant is for the machines of one place", p, grant4, grant6)
	case seen.Addr().IsUnspecified() || seen.Addr().IsMulticast():
		return netip.Prefix{}, fmt.Errorf("%s is the address of no client", p)
	case g.in(p), g.in(seen):
		return netip.Prefix{}, fmt.Errorf("%s holds %s: clients from anywhere can appear under a container's gateway", p, g)
	}
	return p, nil
}
