package mx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Bounds on what one domain may make us try.
const (
	maxHosts     = 10
	maxAddresses = 4 // of one host
)

// Host is one mail exchanger with its addresses, in the order in which they are to be tried.
type Host struct {
	// Name is without its final dot; for an address literal, the address.
	Name      string
	Addresses []netip.Addr
}

// Loop says that the best exchanger of a domain is this installation itself, which does not take its mail: a fault of
// configuration, not of the message.
type Loop struct{ Domain string }

// Error names the domain.
func (e *Loop) Error() string {
	return fmt.Sprintf("the mail of %s loops back to this host", e.Domain)
}

// Finder looks up domains.
type Finder struct {
	Resolver Resolver
	// Self is our own name: exchangers of its preference and above are left out (RFC 5321, section 5.1).
	Self string
	// Shuffle puts hosts of equal preference in a random order; nil: math/rand.
	Shuffle func(n int, swap func(i, j int))
}

// Hosts gives the exchangers of domain in the order in which they are to be tried, each with at least one address.
// The error is a *mail.Reply (5xx) if it is final: no such domain, a null MX; a *Loop; and else one that may pass.
func (f *Finder) Hosts(ctx context.Context, domain string) ([]Host, error) {
	if strings.HasPrefix(domain, "[") {
		return literal(domain)
	}
	name := strings.TrimSuffix(domain, ".")
	if strings.ContainsFunc(name, func(r rune) bool { return r >= 0x80 }) {
		var err error
		if name, err = idna.Lookup.ToASCII(name); err != nil {
			return nil, invalid(fmt.Sprintf("%q: %v", domain, err))
		}
	}
	if name == "" {
		return nil, invalid("empty")
	}
	records, err := f.Resolver.LookupMX(ctx, name+".")
	if err != nil && !notFound(err) {
		// Some answers are usable beside malformed ones; none is not.
		if len(records) == 0 || ctx.Err() != nil {
			return nil, fmt.Errorf("looking up the MX of %s: %w", name, err)
		}
	}
	if len(records) == 0 {
		return f.implicit(ctx, name)
	}
	if len(records) == 1 && strings.TrimSuffix(records[0].Host, ".") == "" {
		return nil, &mail.Reply{Code: 556, Enhanced: "5.1.10", Text: "The domain " + name + " does not take mail (null MX)"} // RFC 7505
	}
	return f.explicit(ctx, name, records)
}

// implicit takes the domain itself for its exchanger, where it has no MX at all.
func (f *Finder) implicit(ctx context.Context, name string) ([]Host, error) {
	addrs, err := f.addresses(ctx, name)
	switch {
	case notFound(err) || err == nil && len(addrs) == 0:
		return nil, &mail.Reply{Code: 550, Enhanced: "5.1.2", Text: "The domain " + name + " does not exist, or has neither a mail server nor an address"}
	case err != nil:
		return nil, fmt.Errorf("looking up the addresses of %s: %w", name, err)
	case f.self(name):
		return nil, &Loop{Domain: name}
	}
	return []Host{{Name: name, Addresses: addrs}}, nil
}

func (f *Finder) explicit(ctx context.Context, name string, records []*net.MX) ([]Host, error) {
	records = slices.Clone(records)
	shuffle := f.Shuffle
	if shuffle == nil {
		shuffle = rand.Shuffle
	}
	shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	slices.SortStableFunc(records, func(a, b *net.MX) int { return cmp.Compare(a.Pref, b.Pref) })
	for _, r := range records {
		if f.self(strings.TrimSuffix(r.Host, ".")) {
			records = slices.DeleteFunc(records, func(o *net.MX) bool { return o.Pref >= r.Pref })
			if len(records) == 0 {
				return nil, &Loop{Domain: name}
			}
			break
		}
	}
	var hosts []Host
	var unclear error
	for _, r := range records {
		host := strings.TrimSuffix(r.Host, ".")
		if host == "" || slices.ContainsFunc(hosts, func(h Host) bool { return strings.EqualFold(h.Name, host) }) {
			continue
		}
		addrs, err := f.addresses(ctx, host)
		if err != nil && !notFound(err) {
			unclear = fmt.Errorf("looking up the addresses of %s: %w", host, err)
		}
		if len(addrs) == 0 {
			continue
		}
		if hosts = append(hosts, Host{Name: host, Addresses: addrs}); len(hosts) == maxHosts {
			break
		}
	}
	switch {
	case len(hosts) > 0:
		return hosts, nil
	case unclear != nil:
		return nil, unclear
	}
	return nil, &mail.Reply{Code: 550, Enhanced: "5.4.4", Text: "None of the mail servers of " + name + " has an address"}
}

func (f *Finder) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	found, err := f.Resolver.LookupIPAddr(ctx, host+".")
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range found {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		if ip = ip.Unmap(); !slices.Contains(addrs, ip) {
			addrs = append(addrs, ip)
		}
	}
	return spread(addrs), nil
}

// spread keeps the order, but sees to it that the other family has a place among the few that are tried.
func spread(addrs []netip.Addr) []netip.Addr {
	if len(addrs) <= maxAddresses {
		return addrs
	}
	kept := slices.Clone(addrs[:maxAddresses])
	for _, a := range addrs[maxAddresses:] {
		if a.Is4() != kept[0].Is4() && !slices.ContainsFunc(kept, func(k netip.Addr) bool { return k.Is4() == a.Is4() }) {
			kept[maxAddresses-1] = a
		}
	}
	return kept
}

func (f *Finder) self(host string) bool {
	return f.Self != "" && strings.EqualFold(host, strings.TrimSuffix(f.Self, "."))
}

// literal reads an address literal (RFC 5321, section 4.1.3).
func literal(domain string) ([]Host, error) {
	in := strings.TrimSuffix(strings.TrimPrefix(domain, "["), "]")
	if len(in) > 5 && strings.EqualFold(in[:5], "IPv6:") {
		in = in[5:]
	}
	ip, err := netip.ParseAddr(in)
	if err != nil || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() {
		return nil, invalid("unusable address literal")
	}
	return []Host{{Name: ip.String(), Addresses: []netip.Addr{ip.Unmap()}}}, nil
}

func invalid(why string) *mail.Reply {
	return &mail.Reply{Code: 553, Enhanced: "5.1.2", Text: "The domain of the recipient is not valid", Private: why}
}

func notFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound && !e.IsTemporary && !e.IsTimeout
}
