package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/foxcpp/go-mockdns"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtptest"
)

// prober is a smarthost with a login, and the route to it.
type prober struct {
	server  smtptest.Config
	host    config.Smarthost
	names   []string
	started *smtptest.Server
}

func (p *prober) probe(t *testing.T, change func(*prober)) Report {
	t.Helper()
	dir := t.TempDir()
	p.names = []string{"smtp.provider.example"}
	p.server = smtptest.Config{Auth: []string{"PLAIN", "LOGIN"}, Users: map[string]string{"relay": "secret"}}
	p.host = config.Smarthost{TLS: config.TLSRequired, CAFile: "ca.pem", ServerName: "smtp.provider.example",
		Auth: &config.Auth{Username: "relay", PasswordFile: "password"}}
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	change(p)
	cert := smtptest.NewCertificate(t, p.names...)
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), cert.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	if p.server.Extensions == nil {
		p.server.TLS = cert.Server
	}
	p.started = smtptest.Start(t, p.server)
	p.host.Address = p.started.Addr
	reports, err := Probe(t.Context(), ProbeOptions{Config: &config.Config{Dir: dir, Hostname: "relay.example.com"}, Route: &config.Route{Name: "provider", Smarthost: &p.host}})
	if err != nil || len(reports) != 1 {
		t.Fatalf("%v, %+v", err, reports)
	}
	return reports[0]
}

// A probe goes as far as a delivery would, and sends no mail.
func TestProbe(t *testing.T) {
	var p prober
	r := p.probe(t, func(*prober) {})
	if r.Err != nil || r.TLS != "TLS 1.3" || r.Mechanism != "PLAIN" || r.SizeLimit != 104857600 || r.Certificate == nil || r.Host != p.started.Addr {
		t.Errorf("%+v", r)
	}
	commands := p.started.Commands()
	for i, c := range commands {
		commands[i], _, _ = strings.Cut(c, " ")
	}
	if want := []string{"EHLO", "STARTTLS", "EHLO", "AUTH", "QUIT"}; !slices.Equal(commands, want) {
		t.Errorf("%q", commands)
	}
}

func TestProbeFails(t *testing.T) {
	plain := []string{"SIZE 1000"}
	for name, c := range map[string]struct {
		change func(*prober)
		step   string
		is     error
		reply  int
		cert   bool
	}{
		"login refused":       {func(p *prober) { p.server.Users["relay"] = "other" }, StepAUTH, nil, 535, true},
		"no STARTTLS":         {func(p *prober) { p.server.Extensions = plain }, StepSTARTTLS, ErrNoTLS, 0, false},
		"no mechanism":        {func(p *prober) { p.host.Auth.Mechanisms = []string{"CRAM-MD5"} }, StepAUTH, ErrNoMechanism, 0, true},
		"another name":        {func(p *prober) { p.names = []string{"other.example"} }, StepTLS, nil, 0, true},
		"another fingerprint": {func(p *prober) { p.host.Fingerprint = strings.Repeat("00", 32) }, StepTLS, nil, 0, true},
		"no password":         {func(p *prober) { p.host.Auth.PasswordFile = "missing" }, StepAUTH, os.ErrNotExist, 0, false},
		"refused in words": {func(p *prober) {
			p.server.Script = func(c *smtptest.Conn, step, _ string) bool {
				if step == smtptest.Connect {
					c.Say("554 5.7.1 go away")
				}
				return step == smtptest.Connect
			}
		}, StepGreeting, nil, 554, false},
	} {
		t.Run(name, func(t *testing.T) {
			var p prober
			r := p.probe(t, c.change)
			e, ok := errors.AsType[*SessionError](r.Err)
			if !ok || e.Step != c.step || c.is != nil && !errors.Is(r.Err, c.is) || (e.Reply != nil) != (c.reply != 0) || e.Reply != nil && e.Reply.Code != c.reply {
				t.Errorf("%+v", r)
			}
			if (r.Certificate != nil) != c.cert {
				t.Errorf("certificate: %v", r.Certificate)
			}
		})
	}
}

// What an opportunistic route does when TLS fails is told, and is no failure.
func TestProbeInTheClear(t *testing.T) {
	var p prober
	r := p.probe(t, func(p *prober) {
		p.host = config.Smarthost{TLS: config.TLSOpportunistic}
		p.server.Script = func(c *smtptest.Conn, step, _ string) bool {
			if step == "STARTTLS" {
				c.Say("220 go ahead")
				c.Hangup()
			}
			return step == "STARTTLS"
		}
	})
	if r.Err != nil || r.TLS != "" || r.TLSFault == nil || p.started.Connections() != 2 {
		t.Errorf("%+v", r)
	}
}

// An mx route calls one exchanger of each domain, and none of ours.
func TestProbeExchangers(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{})
	zones := map[string]mockdns.Zone{
		"elsewhere.example.":     {MX: []net.MX{{Host: "relay2.example.com.", Pref: 5}, {Host: "a.elsewhere.example.", Pref: 10}, {Host: "b.elsewhere.example.", Pref: 20}}},
		"relay2.example.com.":    {A: []string{"192.0.2.1"}},
		"a.elsewhere.example.":   {A: []string{"192.0.2.2"}},
		"b.elsewhere.example.":   {A: []string{"192.0.2.3"}},
		"ours.example.":          {MX: []net.MX{{Host: "relay.example.com.", Pref: 10}}},
		"relay.example.com.":     {A: []string{"192.0.2.1"}},
		"also-ours.example.":     {MX: []net.MX{{Host: "relay2.example.com.", Pref: 10}}},
		"unreachable.example.":   {MX: []net.MX{{Host: "x.unreachable.example.", Pref: 10}}},
		"x.unreachable.example.": {A: []string{"192.0.2.4"}},
	}
	var called []string
	o := ProbeOptions{Config: &config.Config{Hostname: "relay.example.com"}, Route: &config.Route{Name: "internet", MX: &config.MX{Port: 25}},
		Domains: []string{"elsewhere.example"}, Resolver: &mockdns.Resolver{Zones: zones}, Own: func(a netip.Addr) bool { return a.String() == "192.0.2.1" },
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			called = append(called, address)
			if address == "192.0.2.2:25" || address == "192.0.2.4:25" {
				return nil, errors.New("no route to host")
			}
			var d net.Dialer
			return d.DialContext(ctx, network, s.Addr)
		}}
	reports, err := Probe(t.Context(), o)
	if err != nil || len(reports) != 1 || reports[0].Err != nil || reports[0].Host != "b.elsewhere.example[192.0.2.3]" || strings.Join(called, " ") != "192.0.2.2:25 192.0.2.3:25" {
		t.Errorf("%v, %+v, called %v", err, reports, called)
	}
	called, o.Domains = nil, []string{"ours.example", "also-ours.example"}
	if reports, err = Probe(t.Context(), o); err != nil || len(reports) != 0 || len(called) != 0 {
		t.Errorf("%v, %+v, called %v", err, reports, called)
	}
	o.Domains = []string{"unreachable.example"}
	if reports, err = Probe(t.Context(), o); err != nil || len(reports) != 1 || reports[0].Err == nil || reports[0].Domain != "unreachable.example" {
		t.Errorf("%v, %+v", err, reports)
	}
}

func TestProbeImpossibleRoute(t *testing.T) {
	if _, err := Probe(t.Context(), ProbeOptions{Config: &config.Config{Hostname: "h"}, Route: &config.Route{Name: "r"}}); err == nil {
		t.Error("a route of no kind was probed")
	}
	if r, err := Probe(t.Context(), ProbeOptions{Config: &config.Config{Hostname: "h"}, Route: &config.Route{Name: "r", Maildir: &config.Maildir{Path: "/nowhere/at/all"}}}); err != nil || len(r) > 0 {
		t.Errorf("%v, %v", r, err)
	}
}
