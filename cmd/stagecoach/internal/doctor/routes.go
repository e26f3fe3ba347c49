package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/services/egress"
)

// maxDomains bounds the domains whose exchangers are called to see whether port 25 is open for us.
const maxDomains = 3

// checkRoutes makes the sessions that egress would make, without a mail.
func checkRoutes(ctx context.Context, e *Env) []Finding {
	return each(sorted(e.Config.Routes), func(r *config.Route) notes {
		var n notes
		switch {
		case r.Maildir != nil:
			n.maildir(r)
		case r.MX != nil:
			n.direct(ctx, e, r)
		default:
			n.smarthost(ctx, e, r)
		}
		return n
	})
}

func (n *notes) smarthost(ctx context.Context, e *Env, r *config.Route) {
	reports, err := e.Servers.Route(ctx, egress.ProbeOptions{Config: e.Config, Route: r})
	if err != nil {
		n.fail(r.Name, "Correct the route in the configuration.", "%v", err)
		return
	}
	for _, rep := range reports {
		subject := r.Name + " " + rep.Host
		if rep.Err != nil {
			n.session(subject, r, rep)
			continue
		}
		if rep.Certificate != nil && r.Smarthost.TLS != config.TLSOpportunistic {
			n.ends(e, subject, rep.Certificate, "Tell who runs "+rep.Host+": mail for the route waits from then on.")
		}
		switch {
		case rep.TLSFault != nil:
			n.warn(subject, "Tell who runs "+rep.Host+", or have it verified: `tls: required` with `ca_file`.", "TLS fails, so mail goes there in the clear: %v", rep.TLSFault)
		case rep.TLS == "" && r.Smarthost.TLS == config.TLSOpportunistic:
			n.info(subject, "does not offer STARTTLS: mail goes there in the clear")
		}
		if limit := e.Config.Ingress.Limits.MessageSize; rep.SizeLimit > 0 && rep.SizeLimit < limit {
			n.warn(subject, fmt.Sprintf("Set ingress.limits.message_size to at most %dB, so that senders hear of it at once.", rep.SizeLimit),
				"takes messages of %d bytes at most, and we take %d: larger ones come back to their senders", rep.SizeLimit, limit)
		}
		if !n.bad() {
			n.ok(subject, "would take mail%s", how(rep))
		}
	}
}

func how(r egress.Report) string {
	s := ""
	if r.TLS != "" {
		s = " over " + r.TLS
	}
	if r.Mechanism != "" {
		s += ", login by " + r.Mechanism
	}
	return s
}

// session says why a session with a smarthost failed.
func (n *notes) session(subject string, r *config.Route, rep egress.Report) {
	s, ok := errors.AsType[*egress.SessionError](rep.Err)
	if !ok {
		n.fail(subject, "Correct the route in the configuration.", "%v", rep.Err)
		return
	}
	if s.Step == egress.StepTLS && s.Reply == nil {
		n.handshake(subject, r, rep, s)
		return
	}
	text, remedy := "", ""
	dns, unresolved := errors.AsType[*net.DNSError](s.Err)
	switch {
	case unresolved:
		text, remedy = fmt.Sprintf("does not resolve: %v", dns), "Correct the name in smarthost.address, or the DNS servers in /etc/resolv.conf."
	case s.Step == egress.StepConnect:
		text, remedy = fmt.Sprintf("cannot be reached: %v", s.Err),
			"Check address and port, and that the firewall lets this machine out to it; many networks block port 25, while 587 and 465 are open."
	case errors.Is(s.Err, egress.ErrNoTLS):
		text, remedy = "does not offer STARTTLS, which the route requires: mail waits",
			"Check the port: 587 has STARTTLS, 465 needs `tls: implicit`. If it was offered before, something between is taking it out."
	case errors.Is(s.Err, egress.ErrNoMechanism):
		text, remedy = s.Err.Error(), "Check that the port is the one for submission (587, 465), and smarthost.auth.mechanisms."
	case s.Step == egress.StepAUTH && s.Reply != nil && !s.Reply.Temporary():
		text, remedy = fmt.Sprintf("refuses the login of %q: %s", r.Smarthost.Auth.Username, s.Reply.Public()),
			"Correct the username, or the password in "+where(r.Smarthost.Auth)+"; it takes effect by itself. Some providers want an app password."
	case s.Step == egress.StepAUTH && s.Reply == nil:
		text, remedy = s.Err.Error(), "See that "+where(r.Smarthost.Auth)+" holds the password, readable by the user that egress runs as."
	case s.Reply != nil:
		text, remedy = fmt.Sprintf("refuses at %s: %s", s.Step, s.Reply.Public()), "Ask who runs it, with the answer above."
	default:
		text, remedy = fmt.Sprintf("%s: %v", s.Step, s.Err), "Check that an SMTP server answers there; with `tls: implicit` the port is usually 465."
	}
	n.fail(subject, remedy, "%s", text)
}

func where(a *config.Auth) string {
	if a.PasswordFile == "" {
		return "the environment variable " + a.PasswordEnv
	}
	return a.PasswordFile
}

// handshake says what is wrong with a certificate.
func (n *notes) handshake(subject string, r *config.Route, rep egress.Report, s *egress.SessionError) {
	name := smarthostName(r.Smarthost)
	if h, ok := errors.AsType[x509.HostnameError](s.Err); ok {
		n.fail(subject, "Write the name that it has into smarthost.address, or into smarthost.server_name if you are sure that it is the right server.",
			"its certificate is for %s, not for %s", certNames(h.Certificate), name)
		return
	}
	if inv, ok := errors.AsType[x509.CertificateInvalidError](s.Err); ok && inv.Reason == x509.Expired {
		n.fail(subject, "Tell who runs it; see that the clock of this machine is right.",
			"its certificate is good from %s to %s", day(inv.Cert.NotBefore), day(inv.Cert.NotAfter))
		return
	}
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](s.Err); ok {
		issuer := ""
		if rep.Certificate != nil {
			issuer = " (" + rep.Certificate.Issuer.String() + ")"
		}
		n.fail(subject, "Put the certificate of that authority into a file and name it in smarthost.ca_file; or pin this one by smarthost.fingerprint.",
			"its certificate is from an authority that is not known here%s: %v", issuer, unknown)
		return
	}
	n.fail(subject, "Compare smarthost.tls, fingerprint and ca_file with what the server has; 587 has STARTTLS, 465 implicit TLS.", "TLS fails: %v", s.Err)
}

// direct calls exchangers of our own domains that are not ours, to see whether port 25 is open for us.
func (n *notes) direct(ctx context.Context, e *Env, r *config.Route) {
	own, err := e.addresses(ctx, e.Config.Hostname)
	if err != nil {
		own = nil // checkHostname says so
	}
	var domains []string
	for _, d := range e.Config.Domains {
		if len(domains) < maxDomains && e.elsewhere(ctx, d.Name, own) {
			domains = append(domains, d.Name)
		}
	}
	if len(domains) == 0 {
		n.info(r.Name, "whether this machine may call others on port %d is not tried: no domain of ours has its MX elsewhere", r.MX.Port)
		return
	}
	reports, err := e.Servers.Route(ctx, egress.ProbeOptions{Config: e.Config, Route: r, Domains: domains, Own: func(a netip.Addr) bool { return slices.Contains(own, a) }})
	if err != nil {
		n.fail(r.Name, "Correct the route in the configuration.", "%v", err)
		return
	}
	var reached []string
	for _, rep := range reports {
		if s, ok := errors.AsType[*egress.SessionError](rep.Err); rep.Err == nil || ok && s.Reply != nil {
			reached = append(reached, rep.Host) // whoever refuses us in words can be reached
		}
	}
	if len(reached) > 0 {
		n.ok(r.Name, "port %d is open for us: %s answers", r.MX.Port, strings.Join(reached, ", "))
		return
	}
	for _, rep := range reports {
		n.fail(r.Name, fmt.Sprintf("Ask the internet or hosting provider to open outgoing port %d, or use a smarthost on port 587.", r.MX.Port),
			"no mail server can be reached on port %d: the exchanger %s of %s: %v", r.MX.Port, rep.Host, rep.Domain, rep.Err)
	}
}

// elsewhere says that some exchanger of a domain is not this machine.
func (e *Env) elsewhere(ctx context.Context, domain string, own []netip.Addr) bool {
	records, err := e.mx(ctx, domain)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(records, func(r *net.MX) bool {
		host := strings.ToLower(strings.TrimSuffix(r.Host, "."))
		addrs, err := e.addresses(ctx, host)
		return err == nil && host != e.Config.Hostname && slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !slices.Contains(own, a) })
	})
}

// maildir looks whether messages could be written. Nothing is made: egress makes the folders, as its own user.
func (n *notes) maildir(r *config.Route) {
	path := r.Maildir.Path
	for _, dir := range []string{filepath.Join(path, "tmp"), filepath.Join(path, "new")} {
		there := nearest(dir)
		if i, err := os.Stat(there); err != nil || !i.IsDir() {
			n.fail(r.Name+" "+path, "Move it away, or choose another path.", "%s is not a folder", there)
			return
		}
		if err := unix.Access(there, unix.W_OK|unix.X_OK); err != nil {
			n.fail(r.Name+" "+path, "chown "+there+" to the user that egress runs as.", "%s cannot be written to: %v", there, err)
			return
		}
	}
	n.ok(r.Name+" "+path, "can be written to")
}

// nearest is path, or the folder above it that is there.
func nearest(path string) string {
	for {
		if _, err := os.Lstat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// soon is how long before its end a certificate is worth a warning.
const soon = 14 * 24 * time.Hour

// ends notes a certificate that has ended or will do so soon.
func (n *notes) ends(e *Env, subject string, c *x509.Certificate, remedy string) {
	now := e.Now()
	switch left := c.NotAfter.Sub(now); {
	case now.Before(c.NotBefore):
		n.fail(subject, "See that the clock of this machine is right. "+remedy, "the certificate is good only from %s on", day(c.NotBefore))
	case left < 0:
		n.fail(subject, remedy, "the certificate ended on %s", day(c.NotAfter))
	case left < soon:
		n.warn(subject, remedy, "the certificate ends on %s, in %d days", day(c.NotAfter), int(left.Hours()/24))
	}
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }

func certNames(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name (its subject is " + c.Subject.String() + ")"
	}
	return strings.Join(names, ", ")
}
