package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// installation compares the keys that are no lists.
func (p *planner) installation() {
	a, b := p.old, p.now
	signer := ""
	if len(a.StagesOf("signer")) > 0 {
		signer = "signer"
	}
	p.key("hostname", a.Hostname, b.Hostname, signer)
	p.key("postmaster", a.Postmaster.String(), b.Postmaster.String(), "")
	p.key("reload", reloadLine(a), reloadLine(b), "")
	p.key("data_dir", a.DataDir, b.DataDir, everyService)
	p.key("temp_dir", a.TempDir, b.TempDir, stagesProcess)
	p.key("folder", a.Dir, b.Dir, everyService)
	p.nats()
	p.key("pki.directory", pkiLine(a), pkiLine(b), everyService)
	p.key("ingress.address", a.Ingress.Address, b.Ingress.Address, "ingress")
	p.key("ingress.certificate", pairLine(a.Ingress.Certificate), pairLine(b.Ingress.Certificate), "")
	p.key("ingress.users_file", a.Ingress.UsersFile, b.Ingress.UsersFile, "")
	was, is := a.Ingress.Limits, b.Ingress.Limits
	p.key("ingress.limits.message_size", Size(was.MessageSize).String(), Size(is.MessageSize).String(), "")
	p.key("ingress.limits.recipients", number(was.Recipients), number(is.Recipients), "")
	p.key("ingress.limits.connections", number(was.Connections), number(is.Connections), "")
	p.key("ingress.limits.in_flight", Size(was.InFlight).String(), Size(is.InFlight).String(), "")
	p.key("egress.address", a.Egress.Address, b.Egress.Address, "egress")
	p.key("admin.address", a.Admin.Address, b.Admin.Address, "")
	p.key("admin.certificate", pairLine(a.Admin.Certificate), pairLine(b.Admin.Certificate), "")
	p.key("telemetry.metrics", a.Telemetry.Metrics, b.Telemetry.Metrics, everyService)
	p.key("telemetry.traces", tracesLine(a.Telemetry.Traces), tracesLine(b.Telemetry.Traces), everyService)
}

// nats is not used under `up`.
func (p *planner) nats() {
	restart := "ingress"
	if p.up {
		restart = ""
	}
	a, b := p.old.NATS, p.now.NATS
	p.key("nats.servers", strings.Join(a.Servers, ", "), strings.Join(b.Servers, ", "), restart)
	p.key("nats.credentials_file", a.CredentialsFile, b.CredentialsFile, restart)
	p.key("nats.replicas", number(a.Replicas), number(b.Replicas), restart)
	p.key("nats.durability", durabilityLine(a), durabilityLine(b), restart)
	p.key("nats.monitor", a.Monitor, b.Monitor, restart)
}

func reloadLine(c *Config) string {
	if c.Watch {
		return "watch"
	}
	return "manual"
}

func durabilityLine(n NATS) string {
	if n.Assumed {
		return "assumed"
	}
	return "checked"
}

func pkiLine(c *Config) string {
	if c.PKI == nil {
		return ""
	}
	return c.PKI.Directory
}

func pairLine(k KeyPair) string {
	return said(k.File, labelled("key", k.KeyFile))
}

func tracesLine(t *Traces) string {
	if t == nil {
		return ""
	}
	return said(t.Endpoint, labelled("ca_file", t.CAFile), "sample "+strconv.FormatFloat(t.Sample, 'g', -1, 64))
}

func listenerLines(c *Config) []planLine {
	var out []planLine
	for _, l := range c.Ingress.Listeners {
		out = append(out, planLine{name: l.Name, means: said(l.Address, "tls "+string(l.TLS), yes(l.AuthRequired, "auth required"), labelled("proxy", anyOf(texted(l.Proxy))))})
	}
	return out
}

func domainLines(c *Config) []planLine {
	var out []planLine
	for _, d := range c.Domains {
		out = append(out, planLine{name: d.Name, means: said(yes(d.Any, "recipients: any"), labelled("recipients in", d.File))})
	}
	return out
}

func relayLines(c *Config) []planLine {
	var out []planLine
	for _, r := range c.Relay {
		out = append(out, planLine{name: r.Name, means: said(labelled("networks", anyOf(texted(r.Networks))), labelled("listeners", anyOf(r.Listeners)),
			yes(r.Auth, "auth required"), yes(r.Grants, "grants"), labelled("senders", anyOf(r.Senders)))})
	}
	return out
}

// texted are networks as they are written.
func texted(networks []netip.Prefix) []string {
	var out []string
	for _, n := range networks {
		out = append(out, n.String())
	}
	return out
}

func stageLines(c *Config) []planLine {
	var out []planLine
	for _, name := range sortedNames(c.Stages) {
		s := c.Stages[name]
		l := planLine{name: s.Name, told: said("type "+s.Type, labelled("address", s.Address), labelled("identity", s.Identity), "timeout "+s.Timeout.String(),
			yes(s.ProcessOnly, "process_only"), "traits "+describe(s.Traits), yes(s.Hash != "", fmt.Sprintf("config %.12s", s.Hash)))}
		l.means = l.told + " " + s.Hash
		out = append(out, l)
	}
	return out
}

func routeLines(c *Config) []planLine {
	var out []planLine
	for _, name := range sortedNames(c.Routes) {
		r := c.Routes[name]
		l := planLine{name: r.Name, unsaid: "written differently"}
		switch {
		case r.Smarthost != nil:
			l.told = smarthostLine(r.Smarthost)
		case r.MX != nil:
			l.told = said("mx", "port "+number(r.MX.Port), labelled("resolver", r.MX.Resolver), outLine(r.MX.Out))
		case r.Maildir != nil:
			l.told = "maildir " + r.Maildir.Path
		}
		l.means = l.told + " " + r.Hash
		out = append(out, l)
	}
	return out
}

func smarthostLine(s *Smarthost) string {
	parts := []string{"smarthost " + s.Address, "tls " + string(s.TLS)}
	if a := s.Auth; a != nil {
		parts = append(parts, "login "+a.Username, labelled("password in", a.PasswordFile), labelled("password in the environment variable", a.PasswordEnv),
			labelled("mechanisms", strings.Join(a.Mechanisms, " ")))
	}
	return said(append(parts, labelled("ca_file", s.CAFile), labelled("server_name", s.ServerName), labelled("fingerprint", s.Fingerprint), outLine(s.Out))...)
}

func outLine(o Out) string {
	source := ""
	if o.Source.IsValid() {
		source = o.Source.String()
	}
	return said(labelled("helo", o.Helo), labelled("source", source))
}

// peopleLines do not show the hash of a token; who has another one is told so.
func peopleLines(c *Config) []planLine {
	var out []planLine
	for _, p := range c.Admin.People {
		l := planLine{name: p.Name, unsaid: "another token", told: said(string(p.Role), yes(p.TokenSHA256 != "", "with a token"))}
		l.means = l.told + " " + p.TokenSHA256
		out = append(out, l)
	}
	return out
}
