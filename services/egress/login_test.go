package egress

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtptest"
)

func TestTLSModes(t *testing.T) {
	cert, named := smtptest.NewCertificate(t), smtptest.NewCertificate(t, "mail.example")
	for name, c := range map[string]struct {
		cert      smtptest.Certificate
		offer     bool
		route     config.Smarthost // without the address
		encrypted bool
		fails     bool
	}{
		"none":                             {cert, true, config.Smarthost{TLS: config.TLSNone}, false, false},
		"opportunistic":                    {cert, true, config.Smarthost{TLS: config.TLSOpportunistic}, true, false},
		"opportunistic, not offered":       {cert, false, config.Smarthost{TLS: config.TLSOpportunistic}, false, false},
		"opportunistic with a fingerprint": {cert, false, config.Smarthost{TLS: config.TLSOpportunistic, Fingerprint: cert.Fingerprint}, false, true},
		"required, not offered":            {cert, false, config.Smarthost{TLS: config.TLSRequired, CAFile: "ca.pem"}, false, true},
		"required, authority unknown":      {cert, true, config.Smarthost{TLS: config.TLSRequired}, false, true},
		"required, ca_file":                {cert, true, config.Smarthost{TLS: config.TLSRequired, CAFile: "ca.pem"}, true, false},
		"required, other name":             {named, true, config.Smarthost{TLS: config.TLSRequired, CAFile: "ca.pem"}, false, true},
		"required, server_name":            {named, true, config.Smarthost{TLS: config.TLSRequired, CAFile: "ca.pem", ServerName: "mail.example"}, true, false},
		"required, fingerprint":            {named, true, config.Smarthost{TLS: config.TLSRequired, Fingerprint: strings.ToUpper(named.Fingerprint)}, true, false},
		"required, another fingerprint":    {named, true, config.Smarthost{TLS: config.TLSRequired, Fingerprint: cert.Fingerprint}, false, true},
		"required, ca_file missing":        {cert, true, config.Smarthost{TLS: config.TLSRequired, CAFile: "missing.pem"}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			sc := smtptest.Config{}
			if c.offer {
				sc.TLS = c.cert.Server
			}
			s := smtptest.Start(t, sc)
			c.route.Address = s.Addr
			r := build(t, setup{route: config.Route{Smarthost: &c.route}})
			r.file(t, "ca.pem", c.cert.PEM)
			got := r.carry(t, parcel("m1", simple, "a@x.example"))
			if c.fails {
				if f := got.want(t, chain.Deferred)[0]; f.Concern != chain.AboutRoute {
					t.Error(describe(f))
				}
				if len(s.Messages()) != 0 {
					t.Error("delivered")
				}
				return
			}
			got.want(t, chain.Delivered)
			if m := s.Messages()[0]; m.TLS != c.encrypted {
				t.Errorf("TLS %v", m.TLS)
			}
		})
	}
}

func TestImplicitTLS(t *testing.T) {
	cert := smtptest.NewCertificate(t)
	s := smtptest.Start(t, smtptest.Config{TLS: cert.Server, Implicit: true})
	r := build(t, setup{route: config.Route{Smarthost: &config.Smarthost{Address: s.Addr, TLS: config.TLSImplicit, CAFile: "ca.pem"}}})
	r.file(t, "ca.pem", cert.PEM)
	r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Delivered)
	if !s.Messages()[0].TLS {
		t.Error("plaintext")
	}
}

// An opportunistic route goes on in plaintext when the handshake fails, and never after injected plaintext.
func TestOpportunisticFallback(t *testing.T) {
	cert := smtptest.NewCertificate(t)
	for say, want := range map[string]chain.FateKind{"220 go ahead": chain.Delivered, "220 go ahead\n250 injected": chain.Deferred} {
		s := smtptest.Start(t, smtptest.Config{TLS: cert.Server, Script: func(c *smtptest.Conn, at, _ string) bool {
			if at == "STARTTLS" {
				c.Say(strings.Split(say, "\n")...)
				c.Hangup()
			}
			return at == "STARTTLS"
		}})
		r := build(t, setup{route: config.Route{Smarthost: &config.Smarthost{Address: s.Addr, TLS: config.TLSOpportunistic}}})
		r.carry(t, parcel("m1", simple, "a@x.example")).want(t, want)
	}
}

// A wrong password is a fault of the route, said loudly, without the password; corrected, it takes effect by itself.
func TestWrongPassword(t *testing.T) {
	cert := smtptest.NewCertificate(t)
	s := smtptest.Start(t, smtptest.Config{TLS: cert.Server, Auth: []string{"PLAIN", "LOGIN"}, Users: map[string]string{"joe": "right-one"}})
	r := build(t, setup{route: config.Route{Smarthost: &config.Smarthost{Address: s.Addr, TLS: config.TLSRequired, CAFile: "ca.pem",
		Auth: &config.Auth{Username: "joe", PasswordFile: "password"}}}})
	r.file(t, "ca.pem", cert.PEM)

	f := r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Deferred)[0]
	if f.Concern != chain.AboutRoute || !strings.Contains(r.log.String(), `"level":"ERROR"`) {
		t.Errorf("no file: %s", describe(f))
	}
	r.file(t, "password", []byte("secret-wrong\n"))
	f = r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Deferred)[0]
	if f.Concern != chain.AboutRoute || f.Reply == nil || f.Reply.Code != 535 {
		t.Error(describe(f))
	}
	if strings.Count(r.log.String(), `"level":"ERROR"`) != 2 {
		t.Error(r.log.String())
	}
	r.file(t, "password", []byte("right-one\n"))
	r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Delivered)
	if s.Messages()[0].User != "joe" {
		t.Error("not logged in")
	}
	if l := r.log.String(); strings.Contains(l, "secret-wrong") || strings.Contains(l, "right-one") {
		t.Error("the log has the password")
	}
}

// Some servers repeat the line that they do not like; what they say goes into logs, and to people.
func TestServerRepeatsThePassword(t *testing.T) {
	cert := smtptest.NewCertificate(t)
	for _, mechanism := range []string{"PLAIN", "LOGIN", "malformed"} {
		offer, code := mechanism, "535 "
		if mechanism == "malformed" {
			offer, code = "PLAIN", "5x5 "
		}
		step := 0
		s := smtptest.Start(t, smtptest.Config{TLS: cert.Server, Auth: []string{offer}, Script: func(c *smtptest.Conn, at, line string) bool {
			if at != "AUTH" {
				return false
			}
			if step++; mechanism == "LOGIN" {
				user, password := c.Challenge("Username:"), c.Challenge("Password:")
				line = user + " " + password
			}
			c.Say(code + line + " is bad, secret-wrong")
			return true
		}})
		r := build(t, setup{route: config.Route{Smarthost: &config.Smarthost{Address: s.Addr, TLS: config.TLSRequired, CAFile: "ca.pem",
			Auth: &config.Auth{Username: "joe", PasswordFile: "password"}}}})
		r.file(t, "ca.pem", cert.PEM)
		r.file(t, "password", []byte("secret-wrong\n"))
		f := r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Deferred)[0]
		if step == 0 {
			t.Errorf("%s: no login was tried", mechanism)
		}
		for _, secret := range []string{"secret-wrong", base64.StdEncoding.EncodeToString([]byte("\x00joe\x00secret-wrong")), base64.StdEncoding.EncodeToString([]byte("secret-wrong"))} {
			if l := r.log.String() + describe(f); strings.Contains(l, secret) {
				t.Errorf("%s: %q is in %s", mechanism, secret, l)
			}
		}
	}
}

func TestPasswordFromTheEnvironment(t *testing.T) {
	t.Setenv("EGRESS_TEST_PASSWORD", "right-one")
	cert := smtptest.NewCertificate(t)
	s := smtptest.Start(t, smtptest.Config{TLS: cert.Server, Auth: []string{"CRAM-MD5"}, Users: map[string]string{"joe": "right-one"}})
	r := build(t, setup{route: config.Route{Smarthost: &config.Smarthost{Address: s.Addr, TLS: config.TLSOpportunistic, Fingerprint: cert.Fingerprint,
		Auth: &config.Auth{Username: "joe", PasswordEnv: "EGRESS_TEST_PASSWORD"}}}})
	r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Delivered)
	if m := s.Messages()[0]; m.User != "joe" || !m.TLS {
		t.Errorf("%+v", m)
	}
}

// AUTH is never tried with a host whose certificate is not verified, nor in plaintext.
func TestNoLoginWithoutVerifiedTLS(t *testing.T) {
	cert := smtptest.NewCertificate(t)
	for _, offer := range []bool{true, false} {
		sc := smtptest.Config{Extensions: []string{"AUTH PLAIN"}, Users: map[string]string{"joe": "x"}}
		if offer {
			sc.TLS = cert.Server
		}
		s := smtptest.Start(t, sc)
		r := build(t, setup{route: config.Route{Smarthost: &config.Smarthost{Address: s.Addr, TLS: config.TLSOpportunistic, Auth: &config.Auth{Username: "joe", PasswordFile: "password"}}}})
		r.file(t, "password", []byte("x"))
		r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Deferred)
		for _, l := range s.Commands() {
			if strings.HasPrefix(l, "AUTH") || strings.HasPrefix(l, "MAIL") {
				t.Errorf("said %q", l)
			}
		}
	}
}

func TestImpossibleRoutes(t *testing.T) {
	auth := &config.Auth{Username: "joe", PasswordFile: "x"}
	for name, r := range map[string]config.Route{
		"nothing":             {},
		"two":                 {MX: &config.MX{}, Maildir: &config.Maildir{Path: "x"}},
		"no port":             {Smarthost: &config.Smarthost{Address: "mail.example", TLS: config.TLSNone}},
		"unknown mode":        {Smarthost: &config.Smarthost{Address: "mail.example:25", TLS: "maybe"}},
		"auth without TLS":    {Smarthost: &config.Smarthost{Address: "mail.example:25", TLS: config.TLSNone, Auth: auth}},
		"auth without secret": {Smarthost: &config.Smarthost{Address: "mail.example:25", TLS: config.TLSRequired, Auth: &config.Auth{Username: "joe"}}},
		"mechanism":           {Smarthost: &config.Smarthost{Address: "mail.example:25", TLS: config.TLSRequired, Auth: &config.Auth{Username: "joe", PasswordFile: "x", Mechanisms: []string{"NTLM"}}}},
		"fingerprint":         {Smarthost: &config.Smarthost{Address: "mail.example:25", TLS: config.TLSRequired, Fingerprint: "abc"}},
		"resolver":            {MX: &config.MX{Resolver: "127.0.0.1"}},
		"maildir":             {Maildir: &config.Maildir{}},
	} {
		if e, err := New(Options{Config: conf(t.TempDir(), r)}); err == nil {
			t.Errorf("%s was accepted", name)
			_ = e.Close(t.Context())
		}
	}
	if _, err := os.Stat(filepath.Join("x")); err == nil {
		t.Error("a folder was made")
	}
}
