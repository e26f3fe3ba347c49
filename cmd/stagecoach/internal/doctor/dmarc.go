package doctor

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/stagecoachmail/stagecoach/services/signer"
)

// checkDMARC looks at what each domain tells receivers to do with mail that is neither signed nor sent from its
// addresses (RFC 7489).
func checkDMARC(ctx context.Context, e *Env) []Finding {
	if f, ok := e.staysHere(); ok {
		return f
	}
	keys, kerr := e.keys()
	return each(e.senders(), func(domain string) notes {
		var n notes
		signed := kerr != nil || !e.runsHere(signer.Type) || slices.ContainsFunc(keys, func(k dkimKey) bool { return k.domain == domain })
		n.dmarc(ctx, e, domain, signed)
		return n
	})
}

// dmarc looks at the domain, and where that has no record at the organisation's (section 6.6.3).
func (n *notes) dmarc(ctx context.Context, e *Env, domain string, signed bool) {
	for _, at := range slices.Compact([]string{domain, organisation(domain)}) {
		texts, err := e.txt(ctx, "_dmarc."+at)
		if err != nil {
			n.unanswered(domain, err)
			return
		}
		records := slices.DeleteFunc(texts, func(t string) bool {
			version, _, _ := strings.Cut(t, ";")
			return squeeze(version) != "v=DMARC1"
		})
		if len(records) > 1 {
			n.fail(domain, "Leave one of them.", "_dmarc.%s has %d records; with more than one there is none (RFC 7489, section 6.6.3)", at, len(records))
			return
		}
		if len(records) == 1 {
			n.dmarcRecord(domain, at, records[0], signed)
			return
		}
	}
	n.warn(domain, fmt.Sprintf("Publish `_dmarc.%s. IN TXT \"v=DMARC1; p=none\"`, and a stricter policy when all mail is signed.", domain),
		"has no DMARC record: large receivers want one from those who send much")
}

func (n *notes) dmarcRecord(domain, at, record string, signed bool) {
	t := tags(record)
	name := "_dmarc." + at
	policy := strings.ToLower(t["p"])
	if at != domain && t["sp"] != "" {
		policy = strings.ToLower(t["sp"])
	}
	if why := dmarcSyntax(t); why != "" {
		n.fail(domain, "Correct the TXT record "+name+".", "%s: %s", name, why)
		return
	}
	if !signed && policy != "none" {
		n.warn(domain, "`stagecoach dkim new "+domain+"` makes keys.",
			"its DMARC policy is %s, and its mail is not signed with d=%s: what is forwarded, or leaves from an address that SPF does not name, is refused", policy, domain)
	}
	if policy == "none" {
		n.info(domain, "its DMARC policy is none: receivers do nothing against those who forge the domain")
	}
	if !n.bad() && policy != "none" {
		n.ok(domain, "policy %s; signatures with d=%s are aligned", policy, domain)
	}
}

// dmarcSyntax says what is wrong with the tags (RFC 7489, section 6.3), or "".
func dmarcSyntax(t map[string]string) string {
	for _, tag := range []string{"p", "sp"} {
		v, has := t[tag]
		if (has || tag == "p") && !slices.Contains([]string{"none", "quarantine", "reject"}, strings.ToLower(v)) {
			return fmt.Sprintf("%s=%s is not none, quarantine or reject", tag, v)
		}
	}
	for _, tag := range []string{"adkim", "aspf"} {
		if v, has := t[tag]; has && !slices.Contains([]string{"r", "s"}, strings.ToLower(v)) {
			return fmt.Sprintf("%s=%s is not r or s", tag, v)
		}
	}
	if v, has := t["pct"]; has {
		if p, err := strconv.Atoi(v); err != nil || p < 0 || p > 100 {
			return fmt.Sprintf("pct=%s is not between 0 and 100", v)
		}
	}
	for _, tag := range []string{"rua", "ruf"} {
		if t[tag] == "" {
			continue
		}
		for uri := range strings.SplitSeq(t[tag], ",") {
			if u, err := url.Parse(strings.TrimSpace(uri)); err != nil || u.Scheme != "mailto" || !strings.Contains(u.Opaque, "@") {
				return fmt.Sprintf("%s=%s is not a list of mailto: addresses", tag, t[tag])
			}
		}
	}
	return ""
}
