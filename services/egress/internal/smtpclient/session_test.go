package smtpclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtptest"
)

func start(t *testing.T, s *smtptest.Server, o Options) (*Client, error) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if o.Helo == "" {
		o.Helo = "client.example"
	}
	c, err := Start(t.Context(), conn, o)
	if err == nil {
		t.Cleanup(c.Close)
	}
	return c, err
}

func trusting(c smtptest.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.PEM)
	return &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
}

// refusing answers one step with a reply.
func refusing(step, reply string) smtptest.Script {
	return func(c *smtptest.Conn, s, _ string) bool {
		if s != step {
			return false
		}
		c.Say(reply)
		return true
	}
}

func TestStartRefused(t *testing.T) {
	cert := smtptest.NewCertificate(t)
	for name, c := range map[string]struct {
		script smtptest.Script
		tls    bool
		mode   TLSMode
		step   string
		code   int
	}{
		"greeting 554":          {refusing("CONNECT", "554 5.7.1 go away"), false, PlainText, StepGreeting, 554},
		"greeting 421":          {refusing("CONNECT", "421 4.3.2 busy"), false, PlainText, StepGreeting, 421},
		"greeting of 250":       {refusing("CONNECT", "250 hello"), false, PlainText, StepGreeting, 250},
		"EHLO 554":              {refusing("EHLO", "554 5.7.1 no"), false, PlainText, StepEHLO, 554},
		"STARTTLS not offered":  {nil, false, Required, StepSTARTTLS, 0},
		"STARTTLS 454 required": {refusing("STARTTLS", "454 4.7.0 not now"), true, Required, StepSTARTTLS, 454},
		"STARTTLS 421":          {refusing("STARTTLS", "421 4.7.0 bye"), true, Opportunistic, StepSTARTTLS, 421},
	} {
		t.Run(name, func(t *testing.T) {
			conf := smtptest.Config{Script: c.script}
			if c.tls {
				conf.TLS = cert.Server
			}
			_, err := start(t, smtptest.Start(t, conf), Options{TLS: c.mode, TLSConfig: trusting(cert)})
			e, ok := AsError(err)
			if !ok || e.Step != c.step {
				t.Fatalf("got %v", err)
			}
			if c.code != 0 && (e.Reply == nil || e.Reply.Code != c.code) {
				t.Errorf("reply %v", e.Reply)
			}
		})
	}
}

func TestHeloFallback(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Script: refusing("EHLO", "502 5.5.1 what")})
	c, err := start(t, s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Offers("PIPELINING") {
		t.Error("extensions without EHLO")
	}
	if got := s.Commands(); len(got) != 2 || got[1] != "HELO client.example" {
		t.Errorf("%q", got)
	}
}

func TestExtensions(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, step, _ string) bool {
		if step == "EHLO" {
			c.Say("250-hi PIPELINING", "250-size 1000", "250-AUTH=LOGIN", "250-Auth PLAIN", "250 8bitmime")
		}
		return step == "EHLO"
	}})
	c, err := start(t, s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Offers("PIPELINING") || !c.Offers("8BITMIME") || c.SizeLimit() != 1000 || c.ext["AUTH"] != "LOGIN PLAIN" {
		t.Errorf("%v", c.ext)
	}
}

func TestTLS(t *testing.T) {
	cert := smtptest.NewCertificate(t)
	other := smtptest.NewCertificate(t)
	for name, c := range map[string]struct {
		offer, implicit bool
		mode            TLSMode
		config          *tls.Config
		want            string // step that fails; "" for success
		encrypted       bool
	}{
		"none":                        {true, false, PlainText, nil, "", false},
		"opportunistic":               {true, false, Opportunistic, &tls.Config{InsecureSkipVerify: true}, "", true},
		"opportunistic, not offered":  {false, false, Opportunistic, &tls.Config{InsecureSkipVerify: true}, "", false},
		"required":                    {true, false, Required, trusting(cert), "", true},
		"required, unknown authority": {true, false, Required, trusting(other), StepTLS, false},
		"required, other name":        {true, false, Required, &tls.Config{RootCAs: trusting(cert).RootCAs, ServerName: "other.example"}, StepTLS, false},
		"implicit":                    {true, true, Implicit, trusting(cert), "", true},
		"implicit, unknown authority": {true, true, Implicit, trusting(other), StepTLS, false},
	} {
		t.Run(name, func(t *testing.T) {
			conf := smtptest.Config{Implicit: c.implicit}
			if c.offer {
				conf.TLS = cert.Server
			}
			s := smtptest.Start(t, conf)
			cl, err := start(t, s, Options{TLS: c.mode, TLSConfig: c.config})
			if c.want != "" {
				if e, ok := AsError(err); !ok || e.Step != c.want {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if (cl.TLS() != "") != c.encrypted {
				t.Errorf("TLS %q", cl.TLS())
			}
		})
	}
}

// What is offered in plaintext is forgotten after the handshake.
func TestExtensionsBeforeTLSAreForgotten(t *testing.T) {
	cert := smtptest.NewCertificate(t)
	s := smtptest.Start(t, smtptest.Config{TLS: cert.Server, Script: func(c *smtptest.Conn, step, _ string) bool {
		if step == "EHLO" && !c.TLS {
			c.Say("250-hi", "250-STARTTLS", "250-SIZE 1", "250 AUTH PLAIN")
			return true
		}
		return false
	}})
	c, err := start(t, s, Options{TLS: Required, TLSConfig: trusting(cert)})
	if err != nil {
		t.Fatal(err)
	}
	if c.SizeLimit() == 1 || c.Offers("AUTH") {
		t.Errorf("%v", c.ext)
	}
}

func TestSTARTTLSInjection(t *testing.T) {
	cert := smtptest.NewCertificate(t)
	for _, mode := range []TLSMode{Opportunistic, Required} {
		s := smtptest.Start(t, smtptest.Config{TLS: cert.Server, Script: func(c *smtptest.Conn, step, _ string) bool {
			if step == "STARTTLS" {
				c.Say("220 go ahead", "250-injected.example", "250 AUTH PLAIN")
				return true
			}
			return false
		}})
		_, err := start(t, s, Options{TLS: mode, TLSConfig: &tls.Config{InsecureSkipVerify: true}})
		if !errors.Is(err, ErrInjected) {
			t.Errorf("mode %d: %v", mode, err)
		}
	}
}

func TestAuth(t *testing.T) {
	cert := smtptest.NewCertificate(t)
	users := map[string]string{"joe": "p w\x01ü"}
	for name, c := range map[string]struct {
		offered, allowed []string
		password         string
		want             string // mechanism used
		code             int
	}{
		"PLAIN":            {[]string{"PLAIN"}, nil, users["joe"], "PLAIN", 0},
		"LOGIN":            {[]string{"LOGIN"}, nil, users["joe"], "LOGIN", 0},
		"CRAM-MD5":         {[]string{"CRAM-MD5"}, nil, users["joe"], "CRAM-MD5", 0},
		"preference":       {[]string{"LOGIN", "PLAIN", "CRAM-MD5"}, nil, users["joe"], "CRAM-MD5", 0},
		"operator's order": {[]string{"LOGIN", "PLAIN", "CRAM-MD5"}, []string{"login", "plain"}, users["joe"], "LOGIN", 0},
		"wrong password":   {[]string{"PLAIN"}, nil, "secret-wrong", "", 535},
		"wrong, CRAM-MD5":  {[]string{"CRAM-MD5"}, nil, "secret-wrong", "", 535},
		"nothing common":   {[]string{"GSSAPI"}, nil, users["joe"], "", 0},
		"not allowed":      {[]string{"PLAIN"}, []string{"CRAM-MD5"}, users["joe"], "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Config{TLS: cert.Server, Auth: c.offered, Users: users})
			cl, err := start(t, s, Options{TLS: Required, TLSConfig: trusting(cert), Auth: &Auth{Username: "joe", Password: c.password, Mechanisms: c.allowed}})
			if c.want != "" {
				if err != nil || cl.Mechanism() != c.want {
					t.Fatalf("mechanism, %v", err)
				}
				return
			}
			e, ok := AsError(err)
			if !ok || e.Step != StepAUTH || c.code != 0 && (e.Reply == nil || e.Reply.Code != c.code) || c.code == 0 && !errors.Is(err, ErrNoMechanism) {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is in %q", err)
			}
		})
	}
}

func TestAuthNeedsTLS(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Extensions: []string{"AUTH PLAIN"}})
	for _, mode := range []TLSMode{PlainText, Opportunistic} {
		if _, err := start(t, s, Options{TLS: mode, TLSConfig: &tls.Config{}, Auth: &Auth{Username: "joe", Password: "x"}}); err == nil {
			t.Errorf("mode %d logged in", mode)
		}
	}
	if got := s.Commands(); len(got) != 0 {
		t.Errorf("said %q", got)
	}
}

// A server that keeps asking gets "*", not the password again and again.
func TestAuthEndlessChallenges(t *testing.T) {
	cert := smtptest.NewCertificate(t)
	s := smtptest.Start(t, smtptest.Config{TLS: cert.Server, Auth: []string{"LOGIN"}, Script: func(c *smtptest.Conn, step, line string) bool {
		if !c.TLS || step == "EHLO" || line == "" {
			return false
		}
		if line == "*" {
			c.Say("501 5.7.0 cancelled")
		} else {
			c.Say("334 VXNlcm5hbWU6")
		}
		return true
	}})
	if _, err := start(t, s, Options{TLS: Required, TLSConfig: trusting(cert), Auth: &Auth{Username: "joe", Password: "x"}}); err == nil {
		t.Fatal("logged in")
	}
	if got := s.Commands(); got[len(got)-2] != "*" && got[len(got)-1] != "*" {
		t.Errorf("%q", got)
	}
}

func TestDeadlineOfEachStep(t *testing.T) {
	short := 50 * time.Millisecond
	for _, step := range []string{"CONNECT", "EHLO", "MAIL", "RCPT", "DATA", smtptest.Dot} {
		t.Run(step, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Config{Extensions: []string{"8BITMIME"}, Script: func(c *smtptest.Conn, at, _ string) bool {
				if at == step {
					c.Stall()
				}
				return at == step
			}})
			d := Deadlines{Greeting: short, Hello: short, Mail: short, Rcpt: short, Data: short, Block: short, Dot: short, Reset: short, Farewell: short}
			c, err := start(t, s, Options{Deadlines: d})
			if err == nil {
				_, err = c.Open(t.Context(), &Envelope{To: []mail.Recipient{{Address: addr("a", "b.example")}}})
			}
			if err == nil {
				if err = c.Body(t.Context(), strings.NewReader("x\r\n"), func(int64) {}); err == nil {
					_, err = c.Dot(time.Second)
				}
			}
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The end of the context cuts a step short that has minutes to go.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
		if at == "MAIL" {
			cancel()
			c.Stall()
		}
		return at == "MAIL"
	}})
	c, err := start(t, s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = c.Open(ctx, &Envelope{To: []mail.Recipient{{Address: addr("a", "b.example")}}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCommandInjection(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{})
	if _, err := start(t, s, Options{Helo: "a\r\nMAIL FROM:<x@y>"}); err == nil {
		t.Error("accepted")
	}
	c, err := start(t, s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.line("NOOP\r\nRSET"); err == nil {
		t.Error("two commands in one")
	}
}

// A script of answers to one pipelined transaction, and what the Opening says of it.
func TestOpening(t *testing.T) {
	two := []mail.Recipient{{Address: addr("a", "b.example")}, {Address: addr("c", "b.example")}}
	for _, pipelining := range []bool{true, false} {
		ext := []string{"DSN"}
		if pipelining {
			ext = append(ext, "PIPELINING")
		}
		s := smtptest.Start(t, smtptest.Config{Extensions: ext, Script: func(c *smtptest.Conn, at, line string) bool {
			if at == "RCPT" && strings.Contains(line, "<c@") {
				c.Say("550-5.1.1 no", "550 5.1.1 really")
				return true
			}
			return false
		}})
		c, err := start(t, s, Options{})
		if err != nil {
			t.Fatal(err)
		}
		o, err := c.Open(t.Context(), &Envelope{From: addr("s", "b.example"), To: two})
		if err != nil || !o.Open || o.Rcpt[0].Code != 250 || o.Rcpt[1].Code != 550 || o.Rcpt[1].Text != "no\nreally" {
			t.Fatalf("pipelining %v: %+v, %v", pipelining, o, err)
		}
		if err := c.Body(t.Context(), strings.NewReader(".x\r\ny"), func(int64) {}); err != nil {
			t.Fatal(err)
		}
		if r, err := c.Dot(time.Second); err != nil || r.Code != 250 {
			t.Fatalf("%v, %v", r, err)
		}
		if m := s.Messages(); len(m) != 1 || string(m[0].Data) != ".x\r\ny\r\n" || m[0].Bare {
			t.Errorf("%+v", m)
		}
		if err := c.Reset(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
