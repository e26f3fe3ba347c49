package doctor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// What does not exist is no error to the functions here, but nothing: an error is one of asking.

func (e *Env) mx(ctx context.Context, name string) ([]*net.MX, error) {
	l, err := e.Resolver.LookupMX(ctx, rooted(name))
	if len(l) > 0 { // some are usable beside malformed ones
		return l, nil
	}
	return nil, exists(err)
}

func (e *Env) txt(ctx context.Context, name string) ([]string, error) {
	l, err := e.Resolver.LookupTXT(ctx, rooted(name))
	return l, exists(err)
}

// alias gives where a CNAME points to; "" where name is none.
func (e *Env) alias(ctx context.Context, name string) (string, error) {
	target, err := e.Resolver.LookupCNAME(ctx, rooted(name))
	if target = strings.TrimSuffix(target, "."); strings.EqualFold(target, strings.TrimSuffix(name, ".")) {
		target = ""
	}
	return target, exists(err)
}

func (e *Env) ptr(ctx context.Context, a netip.Addr) ([]string, error) {
	l, err := e.Resolver.LookupAddr(ctx, a.String())
	names := make([]string, len(l))
	for i, n := range l {
		names[i] = strings.ToLower(strings.TrimSuffix(n, "."))
	}
	return names, exists(err)
}

func (e *Env) addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	l, err := e.Resolver.LookupIPAddr(ctx, rooted(name))
	var addrs []netip.Addr
	for _, ip := range l {
		if a, ok := netip.AddrFromSlice(ip.IP); ok && !slices.Contains(addrs, a.Unmap()) {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs, exists(err)
}

// rooted keeps search lists out.
func rooted(name string) string { return strings.TrimSuffix(name, ".") + "." }

func exists(err error) error {
	if d, ok := errors.AsType[*net.DNSError](err); ok && d.IsNotFound && !d.IsTemporary && !d.IsTimeout {
		return nil
	}
	return err
}

const dnsRemedy = "Check that the DNS servers of this machine answer (/etc/resolv.conf), and those of the domain."

// unanswered notes that the DNS has not answered, which says nothing about the subject itself.
func (n *notes) unanswered(subject string, err error) {
	n.warn(subject, dnsRemedy, "the DNS gives no answer: %v", err)
}

// resolver is e.Resolver as the SPF library wants it.
type resolver struct{ Resolver }

func (r resolver) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	return r.Resolver.LookupMX(ctx, rooted(name))
}

func (r resolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	return r.Resolver.LookupTXT(ctx, rooted(name))
}

func (r resolver) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	return r.Resolver.LookupIPAddr(ctx, rooted(name))
}
