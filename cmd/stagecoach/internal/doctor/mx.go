package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

// filters are services that stand in front of others' mail servers, by the domain of their exchangers.
var filters = map[string]string{
	"protection.outlook.com": "Microsoft 365", "google.com": "Google Workspace", "googlemail.com": "Google Workspace", "smtp.google.com": "Google Workspace",
	"pphosted.com": "Proofpoint", "ppe-hosted.com": "Proofpoint Essentials", "mimecast.com": "Mimecast", "messagelabs.com": "Symantec Email Security",
	"barracudanetworks.com": "Barracuda", "iphmx.com": "Cisco Secure Email", "hornetsecurity.com": "Hornetsecurity", "antispameurope.com": "Hornetsecurity",
	"retarus.com": "Retarus", "trendmicro.com": "Trend Micro", "trendmicro.eu": "Trend Micro", "mailcontrol.com": "Forcepoint", "sophos.com": "Sophos", "spamexperts.com": "SpamExperts",
	"mailspamprotection.com": "SpamExperts", "fireeyecloud.com": "Trellix", "eo.outlook.com": "Microsoft 365",
}

// checkMX says where the mail of our domains goes first.
func checkMX(ctx context.Context, e *Env) []Finding {
	own, err := e.addresses(ctx, e.Config.Hostname)
	if err != nil {
		own = nil // checkHostname says so
	}
	return each(e.Config.Domains, func(d config.Domain) notes {
		var n notes
		n.exchangers(ctx, e, d.Name, own)
		return n
	})
}

func (n *notes) exchangers(ctx context.Context, e *Env, domain string, own []netip.Addr) {
	publish := fmt.Sprintf("Publish `%s. IN MX 10 %s.`, or the name of the filter in front of it.", domain, e.Config.Hostname)
	records, err := e.mx(ctx, domain)
	if err != nil {
		n.unanswered(domain, err)
		return
	}
	if len(records) == 0 {
		n.withoutMX(ctx, e, domain, publish)
		return
	}
	if len(records) == 1 && strings.TrimSuffix(records[0].Host, ".") == "" {
		n.fail(domain, publish, "the DNS says that the domain takes no mail (null MX, RFC 7505)")
		return
	}
	slices.SortStableFunc(records, func(a, b *net.MX) int { return int(a.Pref) - int(b.Pref) })
	var ours, others []string
	for _, r := range records {
		host := strings.ToLower(strings.TrimSuffix(r.Host, "."))
		addrs, ok := n.exchanger(ctx, e, domain, host)
		switch {
		case !ok:
		case host == e.Config.Hostname || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return slices.Contains(own, a) }):
			ours = append(ours, host)
		default:
			others = append(others, named(host))
		}
	}
	switch {
	case n.bad():
	case len(others) == 0:
		n.ok(domain, "its mail comes here: %s", strings.Join(ours, ", "))
	case len(ours) == 0:
		n.info(domain, "its mail goes to %s first; that has to pass it on to here", strings.Join(others, ", "))
	default:
		n.info(domain, "its mail goes to %s, and without a detour to here (%s): senders of spam prefer what is not filtered", strings.Join(others, ", "), strings.Join(ours, ", "))
	}
}

// exchanger looks at one MX host, and gives its addresses if mail could be brought to it.
func (n *notes) exchanger(ctx context.Context, e *Env, domain, host string) ([]netip.Addr, bool) {
	if _, err := netip.ParseAddr(host); err == nil {
		n.fail(domain, "Give the address a name, and name that in the MX record.", "the MX is an address, %s, where a name belongs (RFC 5321, section 5.1)", host)
		return nil, false
	}
	target, err := e.alias(ctx, host)
	if err != nil {
		n.unanswered(domain, err)
		return nil, false
	}
	if target != "" {
		n.warn(domain, fmt.Sprintf("Name %s in the MX record, or give %s address records of its own.", target, host),
			"the MX %s is an alias (CNAME) of %s, which is not allowed (RFC 2181, section 10.3): some servers do not deliver", host, target)
	}
	addrs, err := e.addresses(ctx, host)
	if err != nil {
		n.unanswered(domain, err)
		return nil, false
	}
	if len(addrs) == 0 {
		n.fail(domain, fmt.Sprintf("Publish an A record for %s, or take it out of the MX records.", host), "the MX %s has no address", host)
		return nil, false
	}
	return addrs, true
}

// withoutMX: a domain with an address and no MX is its own exchanger (RFC 5321, section 5.1).
func (n *notes) withoutMX(ctx context.Context, e *Env, domain, publish string) {
	addrs, err := e.addresses(ctx, domain)
	switch {
	case err != nil:
		n.unanswered(domain, err)
	case len(addrs) == 0:
		n.fail(domain, publish, "has no MX record: nobody can send to it")
	default:
		n.warn(domain, publish, "has no MX record: its mail goes to the addresses of the domain itself (%s)", join(addrs))
	}
}

// named adds whose server a host is, if that is known.
func named(host string) string {
	for domain, name := range filters {
		if host == domain || strings.HasSuffix(host, "."+domain) {
			return host + " (" + name + ")"
		}
	}
	return host
}
