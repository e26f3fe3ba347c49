package config

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// How wide a public network may be that relays without a password. One organisation's allocation is rarely wider
// than a /16 (IPv4) or /32 (IPv6); wider ones are providers', whose customers are strangers to each other.
const (
	widest4, widest6 = 16, 32
	// sixteen such allocations are what all rules together may hold
	allTogether = 16
	// shared4, shared6: from here on a warning
	shared4, shared6 = 24, 48
)

var (
	private = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
		"::1/128", "fc00::/7", "fe80::/10")
	// Networks of IPv6 in which all of IPv4 is seen: mapped (RFC 4291), NAT64 (RFC 6052), Teredo, 6to4 (RFC 3056).
	mapped, nat64, teredo, sixToFour = netip.MustParsePrefix("::ffff:0:0/96"), netip.MustParsePrefix("64:ff9b::/96"),
		netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("2002::/16")
)

// within gives the IPv4 network that an IPv6 network stands for.
func within(p netip.Prefix) (netip.Prefix, bool) {
	a, from := p.Addr().As16(), 0
	switch {
	case !p.Addr().Is6():
		return p, false
	case holds(mapped, p), holds(nat64, p):
		from = 12
	case holds(sixToFour, p):
		from = 2
	default:
		return p, false
	}
	bits := min(p.Bits()-8*from, 32)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(a[from:from+4])), bits).Masked(), true
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, one := range s {
		out = append(out, netip.MustParsePrefix(one))
	}
	return out
}

// holds says that all of inner lies in outer.
func holds(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// reserved says that the network lies in a range that the internet does not route.
func reserved(p netip.Prefix) bool {
	return slices.ContainsFunc(private, func(r netip.Prefix) bool { return holds(r, p) })
}

// everybody says why a network means everybody; empty if it does not.
func everybody(p netip.Prefix) string {
	if v4, ok := within(p); ok {
		return everybody(v4)
	}
	switch {
	case p.Bits() == 0:
		return "means everybody"
	case holds(p, mapped), holds(p, nat64), holds(p, teredo), holds(p, sixToFour):
		return "means everybody in IPv4, seen through a translation"
	case reserved(p):
		return ""
	case p.Addr().Is4() && p.Bits() < widest4:
		return "is a public network wider than /16"
	case p.Addr().Is6() && p.Bits() < widest6:
		return "is a public network wider than /32"
	}
	return ""
}

func shared(p netip.Prefix) bool {
	return p.Addr().Is4() && p.Bits() < shared4 || p.Addr().Is6() && p.Bits() < shared6
}

// merge gives the fewest networks that hold the same addresses.
func merge(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []netip.Prefix
	for _, p := range list {
		if n := len(out); n > 0 && holds(out[n-1], p) {
			continue
		}
		out = append(out, p)
		for n := len(out); n > 1; n = len(out) {
			a, b := out[n-2], out[n-1]
			if a.Bits() != b.Bits() || a.Bits() == 0 || a.Addr().BitLen() != b.Addr().BitLen() {
				break
			}
			above, err := a.Addr().Prefix(a.Bits() - 1)
			if err != nil || !above.Contains(b.Addr()) {
				break
			}
			out = append(out[:n-2], above)
		}
	}
	return out
}

// tooMany says that disjoint networks hold more than all rules together may.
func tooMany(list []netip.Prefix) bool {
	var sum4, sum6 uint64 // in /32 and in /64, the least that a site of its own has
	for _, p := range list {
		if p.Addr().Is4() {
			sum4 += 1 << (32 - p.Bits())
		} else {
			sum6 += 1 << max(64-p.Bits(), 0)
		}
	}
	return sum4 > allTogether<<(32-widest4) || sum6 > allTogether<<(64-widest6)
}

// Gateways are the addresses under which a container sees clients from outside of it. The zero value is none: not in
// a container.
type Gateways struct {
	// Known are the default gateways of this container.
	Known []netip.Addr
	// Guess are networks that hold the gateway where it cannot be known.
	Guess []netip.Prefix
}

func (g Gateways) in(p netip.Prefix) bool {
	return slices.ContainsFunc(g.Known, p.Contains) || slices.ContainsFunc(g.Guess, p.Overlaps)
}

// String names them for an error.
func (g Gateways) String() string {
	var s []string
	for _, a := range g.Known {
		s = append(s, a.String())
	}
	for _, p := range g.Guess {
		s = append(s, "addresses of "+p.String())
	}
	return strings.Join(s, ", ")
}

// ContainerGateways looks whether this process runs in a container (Docker, Podman), and for its default gateways.
// Where it cannot find one it guesses Docker's range, 172.16.0.0/12.
func ContainerGateways() Gateways {
	return gatewaysIn("/")
}

func gatewaysIn(root string) Gateways {
	inside := slices.ContainsFunc([]string{".dockerenv", "run/.containerenv"}, func(name string) bool {
		_, err := os.Stat(filepath.Join(root, name))
		return err == nil
	})
	if !inside {
		return Gateways{}
	}
	var g Gateways
	// The columns are those of proc(5): the destination and the gateway are hexadecimal, IPv4 in the machine's order.
	for _, f := range routeTable(filepath.Join(root, "proc/net/route")) {
		if len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			g.add(f[2], true)
		}
	}
	for _, f := range routeTable(filepath.Join(root, "proc/net/ipv6_route")) {
		if len(f) > 4 && f[1] == "00" && f[0] == strings.Repeat("0", 32) {
			g.add(f[4], false)
		}
	}
	if len(g.Known) == 0 {
		g.Guess = prefixes("172.16.0.0/12")
	}
	return g
}

func (g *Gateways) add(digits string, native bool) {
	raw, err := hex.DecodeString(digits)
	if err != nil {
		return
	}
	if native && binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		slices.Reverse(raw)
	}
	if a, ok := netip.AddrFromSlice(raw); ok && !a.IsUnspecified() && !slices.Contains(g.Known, a) {
		g.Known = append(g.Known, a)
	}
}

func routeTable(path string) [][]string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var rows [][]string
	for s := bufio.NewScanner(f); s.Scan(); {
		rows = append(rows, strings.Fields(s.Text()))
	}
	return rows
}
