package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// checkHostname looks at our name as receivers do: it says EHLO, and the reverse of our addresses should lead to it.
func checkHostname(ctx context.Context, e *Env) []Finding {
	if f, ok := e.staysHere(); ok && !e.reached() {
		return f
	}
	names := []string{e.Config.Hostname}
	for _, r := range e.outbound() {
		if r.MX != nil && r.MX.Helo != "" && !slices.Contains(names, r.MX.Helo) {
			names = append(names, r.MX.Helo)
		}
	}
	return each(names, func(name string) notes {
		var n notes
		n.hostname(ctx, e, name)
		return n
	})
}

// hostname looks at one name that we call ourselves.
func (n *notes) hostname(ctx context.Context, e *Env, name string) {
	say := n.warn // a smarthost that we log in to cares little
	if e.byMX() {
		say = n.fail
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") || strings.HasSuffix(name, ".localdomain") {
		say(name, "Set `hostname` to the name of this machine in the DNS, such as relay.example.com.", "says nothing to others: many servers refuse mail from a host that calls itself that")
		return
	}
	if _, err := netip.ParseAddr(name); err == nil || !strings.Contains(name, ".") {
		say(name, "Set `hostname` to the full name in the DNS, such as relay.example.com.", "is not a fully qualified domain name (RFC 5321, section 2.3.5)")
		return
	}
	addrs, err := e.addresses(ctx, name)
	if err != nil {
		n.unanswered(name, err)
		return
	}
	if len(addrs) == 0 {
		say(name, "Publish an A record (and AAAA, if mail leaves by IPv6) for "+name+".", "has no address in the DNS: receivers that look at the EHLO name refuse mail")
		return
	}
	from := addrs
	if sources := e.sources(name); len(sources) > 0 {
		from = sources
	}
	for _, a := range from {
		n.reverse(ctx, e, name, a)
	}
	if !n.bad() {
		n.ok(name, "%s", join(addrs))
	}
}

// sources are the addresses of the internet that mx routes which call themselves name are told to send from.
func (e *Env) sources(name string) []netip.Addr {
	var list []netip.Addr
	for _, r := range e.outbound() {
		if r.MX != nil && cmp.Or(r.MX.Helo, e.Config.Hostname) == name && public(r.MX.Source) && !slices.Contains(list, r.MX.Source) {
			list = append(list, r.MX.Source)
		}
	}
	return list
}

// reached says that a listener can be reached from other machines, whose clients see our name too.
func (e *Env) reached() bool {
	for _, l := range e.Config.Ingress.Listeners {
		host, _, err := net.SplitHostPort(l.Address)
		a, perr := netip.ParseAddr(host)
		if err == nil && host != "localhost" && !(perr == nil && a.IsLoopback()) {
			return true
		}
	}
	return false
}

// reverse looks at the PTR of one address of ours. Where a smarthost is between us and the world, only it sees the address.
func (n *notes) reverse(ctx context.Context, e *Env, name string, a netip.Addr) {
	subject := name + " " + a.String()
	if !e.byMX() {
		return
	}
	if !public(a) {
		n.warn(subject, "Publish the address that mail leaves from (that of the NAT gateway, perhaps) for "+name+".", "is not an address of the internet, but an mx route delivers there")
		return
	}
	ask := "Ask who provides the address (hosting or internet provider) to set its reverse name (PTR) to " + name + "."
	names, err := e.ptr(ctx, a)
	switch {
	case err != nil:
		n.unanswered(subject, err)
		return
	case len(names) == 0:
		n.fail(subject, ask, "has no reverse name (PTR): large receivers refuse mail from it")
		return
	}
	confirmed, err := e.confirmed(ctx, names, a)
	switch {
	case err != nil:
		n.unanswered(subject, err)
	case len(confirmed) == 0:
		n.fail(subject, ask, "its reverse name %s does not lead back to it: receivers take it for forged", strings.Join(names, ", "))
	case slices.Contains(confirmed, strings.ToLower(name)):
	case slices.ContainsFunc(confirmed, func(c string) bool { return generic(c, a) }):
		n.warn(subject, ask, "its reverse name %s looks like one of a home connection: many receivers refuse that", confirmed[0])
	default:
		n.info(subject, "its reverse name is %s, not %s; that is allowed, though the same name is better", confirmed[0], name)
	}
}

// confirmed are the names that lead to a (forward-confirmed reverse DNS).
func (e *Env) confirmed(ctx context.Context, names []string, a netip.Addr) ([]string, error) {
	var good []string
	var failed error
	for _, name := range names[:min(len(names), 10)] {
		addrs, err := e.addresses(ctx, name)
		if err != nil {
			failed = errors.Join(failed, err)
		} else if slices.Contains(addrs, a) {
			good = append(good, name)
		}
	}
	if len(good) > 0 {
		return good, nil
	}
	return nil, failed
}

var dialup = regexp.MustCompile(`(^|[.\d-])(dyn|dynamic|dhcp|dsl|adsl|vdsl|pppoe?|dialup|dial|pool|cable|cust|customer|customers|client|clients|broadband|dip)\d*([.\d-]|$)`)

// generic says that a name is one that a provider has made of the address.
func generic(name string, a netip.Addr) bool {
	if dialup.MatchString(name) {
		return true
	}
	if a = a.Unmap(); !a.Is4() {
		return false
	}
	numbers := number.FindAllString(name, -1)
	return !slices.ContainsFunc(strings.Split(a.String(), "."), func(part string) bool {
		return !slices.ContainsFunc(numbers, func(s string) bool { return strings.TrimLeft(s, "0") == strings.TrimLeft(part, "0") })
	})
}

var number = regexp.MustCompile(`\d+`)

func join[S fmt.Stringer](list []S) string {
	s := make([]string, len(list))
	for i, v := range list {
		s[i] = v.String()
	}
	return strings.Join(s, ", ")
}
