package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"blitiri.com.ar/go/spf"
	"golang.org/x/net/publicsuffix"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

// origin is where mail leaves from: addresses that receivers see, and the route that they belong to.
type origin struct {
	route *config.Route
	// host is the smarthost's name; empty for an mx route.
	host  string
	addrs []netip.Addr
	err   error
}

// checkSPF asks whether receivers will take our addresses for ones that may send for each domain (RFC 7208).
func checkSPF(ctx context.Context, e *Env) []Finding {
	if f, ok := e.staysHere(); ok {
		return f
	}
	origins := e.origins(ctx)
	return each(e.senders(), func(domain string) notes {
		var n notes
		n.spf(ctx, e, domain, origins)
		return n
	})
}

func (e *Env) origins(ctx context.Context) []origin {
	var list []origin
	for _, r := range e.outbound() {
		o := origin{route: r}
		switch {
		case r.MX != nil && r.MX.Source.IsValid() && public(r.MX.Source):
			o.addrs = []netip.Addr{r.MX.Source}
		case r.MX != nil:
			o.addrs, o.err = e.addresses(ctx, cmp.Or(r.MX.Helo, e.Config.Hostname))
		default:
			o.host = smarthostName(r.Smarthost)
			o.addrs, o.err = e.addresses(ctx, o.host)
		}
		o.addrs = slices.DeleteFunc(o.addrs, func(a netip.Addr) bool { return !public(a) })
		list = append(list, o)
	}
	return list
}

// smarthostName is the name that a smarthost is known by.
func smarthostName(s *config.Smarthost) string {
	if s.ServerName != "" {
		return s.ServerName
	}
	host, _, err := net.SplitHostPort(s.Address)
	if err != nil {
		return s.Address
	}
	return strings.ToLower(host)
}

// nobody is an address that no record names: evaluating it goes through the whole record.
var nobody = net.IPv4(240, 0, 0, 1)

func (n *notes) spf(ctx context.Context, e *Env, domain string, origins []origin) {
	proposal := propose(domain, origins)
	texts, err := e.txt(ctx, domain)
	if err != nil {
		n.unanswered(domain, err)
		return
	}
	records := slices.DeleteFunc(texts, func(t string) bool { return !isSPF(t) })
	switch len(records) {
	case 0:
		n.fail(domain, "Publish a TXT record for "+domain+", such as "+proposal+".", "has no SPF record: large receivers refuse mail of such a domain, or take it for spam")
		return
	case 1:
	default:
		n.fail(domain, "Make one of them: the mechanisms of all, and one `all` at the end.", "has %d SPF records; with more than one all are void (RFC 7208, section 3.2)", len(records))
		return
	}
	n.spfTerms(domain, records[0])
	ask := func(ip net.IP) (spf.Result, error) {
		return spf.CheckHostWithSender(ip, e.Config.Hostname, "postmaster@"+domain, spf.WithContext(ctx), spf.WithResolver(resolver{e.Resolver}))
	}
	if result, err := ask(nobody); n.spfBroken(domain, result, err) {
		return
	}
	for _, o := range origins {
		n.spfOrigin(ctx, e, domain, o, ask)
	}
	if !n.bad() {
		n.ok(domain, "%s", records[0])
	}
}

func isSPF(text string) bool {
	version, _, _ := strings.Cut(text, " ")
	return strings.EqualFold(version, "v=spf1")
}

// spfTerms looks at how the record ends.
func (n *notes) spfTerms(domain, record string) {
	ends := false
	for _, term := range strings.Fields(strings.ToLower(record))[1:] {
		switch {
		case term == "all" || term == "+all":
			ends = true
			n.fail(domain, "Write `~all` or `-all` in place of `"+term+"`.", "its SPF record ends in %s: the whole world may send in its name", term)
		case term == "?all":
			ends = true
			n.info(domain, "its SPF record ends in ?all: it says nothing against those who forge the domain")
		case term == "-all", term == "~all", strings.HasPrefix(term, "redirect="):
			ends = true
		}
	}
	if !ends {
		n.warn(domain, "Add `~all` at the end, or `-all`.", "its SPF record has no `all` at the end: it says nothing against those who forge the domain")
	}
}

// spfBroken says that receivers cannot make anything of the record.
func (n *notes) spfBroken(domain string, result spf.Result, err error) bool {
	switch {
	case errors.Is(err, spf.ErrLookupLimitReached):
		n.fail(domain, "Take out includes that are no longer needed, or write addresses (ip4:, ip6:) in their place.",
			"its SPF record needs more than 10 questions to the DNS: receivers take it for broken (RFC 7208, section 4.6.4)")
	case result == spf.TempError:
		n.unanswered(domain, err)
	case result == spf.PermError:
		n.fail(domain, "Correct the record; each include: must name a domain that has an SPF record itself.", "its SPF record cannot be evaluated: %v", err)
	default:
		return false
	}
	return true
}

// spfOrigin says whether the record names the addresses of one way out.
func (n *notes) spfOrigin(ctx context.Context, e *Env, domain string, o origin, ask func(net.IP) (spf.Result, error)) {
	if o.err != nil {
		n.unanswered(domain, o.err)
		return
	}
	if len(o.addrs) == 0 {
		n.info(domain, "what addresses mail of the route %s leaves from cannot be known here: see that its SPF record names them", o.route.Name)
		return
	}
	var without []netip.Addr
	for _, a := range o.addrs {
		if result, err := ask(a.AsSlice()); result != spf.Pass {
			if result == spf.TempError {
				n.unanswered(domain, err)
				return
			}
			without = append(without, a)
		}
	}
	if len(without) == 0 {
		return
	}
	if o.host == "" {
		n.fail(domain, "Add "+mechanisms(without)+" to the SPF record.", "its SPF record does not name %s, from where the route %s sends", join(without), o.route.Name)
		return
	}
	if e.includes(ctx, domain, o.host, map[string]bool{}) {
		return
	}
	n.warn(domain, "Add the include: that the provider of "+o.host+" tells in its instructions.",
		"its SPF record names neither the addresses of the smarthost %s (route %s) nor its provider", o.host, o.route.Name)
}

// kin are providers whose smarthosts and SPF records stand under different domains.
var kin = map[string]string{
	"office365.com": "outlook.com", "gmail.com": "google.com", "amazonaws.com": "amazonses.com", "ionos.de": "kundenserver.de", "ionos.com": "perfora.net",
}

// maxIncludes bounds the records that are read to find a provider's.
const maxIncludes = 20

// includes says that the record of domain, or one that it includes, is of the provider of host.
func (e *Env) includes(ctx context.Context, domain, host string, seen map[string]bool) bool {
	if seen[domain] || len(seen) >= maxIncludes {
		return false
	}
	seen[domain] = true
	texts, err := e.txt(ctx, domain)
	if err != nil {
		return false
	}
	provider := organisation(host)
	for _, t := range texts {
		if !isSPF(t) {
			continue
		}
		for _, term := range strings.Fields(strings.ToLower(t))[1:] {
			term = strings.TrimLeft(term, "+~?")
			name, ok := strings.CutPrefix(term, "include:")
			if !ok {
				name, ok = strings.CutPrefix(term, "redirect=")
			}
			if !ok {
				continue
			}
			if org := organisation(name); org == provider || org == kin[provider] || e.includes(ctx, name, host, seen) {
				return true
			}
		}
	}
	return false
}

// organisation is the domain that somebody registered.
func organisation(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if org, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return org
	}
	return name
}

// propose is a record to begin with.
func propose(domain string, origins []origin) string {
	var terms []string
	for _, o := range origins {
		if o.host != "" {
			terms = append(terms, "include:<as the provider of "+o.host+" says>")
		} else if len(o.addrs) > 0 {
			terms = append(terms, mechanisms(o.addrs))
		}
	}
	return fmt.Sprintf("`v=spf1 mx %s ~all`", strings.Join(terms, " "))
}

func mechanisms(addrs []netip.Addr) string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = "ip6:" + a.String()
		if a.Is4() {
			s[i] = "ip4:" + a.String()
		}
	}
	return strings.Join(s, " ")
}
