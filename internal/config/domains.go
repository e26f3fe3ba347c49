package config

import (
	"slices"

	"github.com/stagecoachmail/stagecoach/mail"
)

func (b *builder) domains() {
	seen := map[string]spot{}
	for i := range b.raw.Domains {
		raw := &b.raw.Domains[i]
		name := &raw.V.Name
		if name.missing() {
			b.missing(raw.at, raw.path, "name", "")
		}
		var d Domain
		if name.ok() {
			var err error
			if d.Name, err = hostName(name.V); err != nil || numeric.MatchString(name.V) {
				b.p.add(name.at, name.path, "%q is not a domain", name.V)
				d.Name = ""
			} else {
				name.V = d.Name
				b.unique(seen, name, "domain")
			}
		}
		switch r := &raw.V.Recipients; {
		case r.word == "any":
			d.Any = true
		case r.word == "callout":
			b.p.add(r.at, r.path, "callout is not supported yet: use {file: …} or any")
		case r.word != "":
			b.p.add(r.at, r.path, "%q is not known%s", r.word, suggest(r.word, []string{"any"}, "values, beside {file: …},"))
		case r.file.set:
			d.File = b.file(&r.file, "ingress")
		case !r.set && !raw.bad:
			b.missing(raw.at, raw.path, "recipients", ": write {file: …}, or any if every address of the domain is to be taken")
		case r.set && r.file.missing():
			b.missing(r.at, r.path, "file", "")
		}
		b.c.Domains = append(b.c.Domains, d)
	}
}

// domainsTaken refuses a domain of ours whose mail from outside no chain takes: each message would be refused at RCPT.
func (b *builder) domainsTaken() {
	if b.raw.Chains.bad {
		return
	}
	for i, d := range b.c.Domains {
		taken := slices.ContainsFunc(b.c.Chains, func(c *Chain) bool { return c.Match.takesInbound(d.Name) })
		if d.Name != "" && !taken {
			name := &b.raw.Domains[i].V.Name
			b.p.add(name.at, name.path, "no chain takes mail for %s from outside: one with match.direction inbound is needed", d.Name)
		}
	}
}

// takesInbound says that some stranger's mail to some recipient of the domain is taken. Names of the domain's users
// are not known here: a pattern is asked about the domain part alone.
func (m *Match) takesInbound(domain string) bool {
	if len(m.Direction) > 0 && !slices.Contains(m.Direction, mail.Inbound) {
		return false
	}
	if len(m.Relay) > 0 {
		return false // a stranger came in by no rule
	}
	return len(m.Recipients) == 0 || slices.ContainsFunc(m.Recipients, func(p string) bool { return patternInDomain(p, domain) })
}

// patternInDomain says that a pattern matches an address of the domain: with its own local part, where it names one.
func patternInDomain(pattern, domain string) bool {
	a := mail.Address{Local: "postmaster", Domain: domain}
	if named, err := mail.ParseAddressUTF8(pattern); err == nil {
		a.Local = named.Local
	}
	return mail.MatchAddress(pattern, a)
}
