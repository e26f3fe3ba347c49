package smtpd

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func withUsers(c *config.Config, t *testing.T) { c.Ingress.UsersFile = usersFile(t) }

func authRig(t *testing.T) *rig {
	t.Helper()
	return newRig(t, func(c *config.Config, _ *Options) { withUsers(c, t) })
}

func TestAuth(t *testing.T) {
	right := b64("\x00alice\x00" + password)
	for name, script := range map[string]string{
		"plain":           "C: AUTH PLAIN " + right + "\nS: 235 2.7.0",
		"plain, later":    "C: AUTH PLAIN\nS: 334\nC: " + right + "\nS: 235",
		"plain, own name": "C: AUTH plain " + b64("alice\x00alice\x00"+password) + "\nS: 235",
		"login":           "C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: " + b64("alice") + "\nS: 334 UGFzc3dvcmQ6\nC: " + b64(password) + "\nS: 235",
		"login, initial":  "C: AUTH LOGIN " + b64("alice") + "\nS: 334 UGFzc3dvcmQ6\nC: " + b64(password) + "\nS: 235",
		"pipelined login": "R: AUTH LOGIN\\r\\n" + b64("alice") + `\r\n` + b64(password) + "\\r\\n\nS: 334\nS: 334\nS: 235",
	} {
		t.Run(name, func(t *testing.T) {
			r := authRig(t)
			c := r.hello("submissions")
			c.script(script, `
				C: AUTH PLAIN `+right+`
				S: 503 5.5.1
				C: MAIL FROM:<alice@example.com>
				S: 250
				C: AUTH PLAIN `+right+`
				S: 503
				C: RCPT TO:<friend@elsewhere.example>
				S: 250
				C: DATA
				S: 354
				C: .
				S: 250 2.0.0`)
			m := r.intake.all()[0]
			if m.env.Origin.User != "alice" || m.env.Origin.Relay != "staff" || m.env.Origin.Direction != mail.Outbound || !m.env.Origin.TLS {
				t.Errorf("origin %+v", m.env.Origin)
			}
			if !strings.Contains(m.data, " with ESMTPSA\r\n") {
				t.Errorf("Received: %q", m.data)
			}
			if log := r.log.String(); strings.Contains(log, password) || strings.Contains(log, right) || !strings.Contains(log, `msg="auth ok"`) {
				t.Errorf("log: %s", log)
			}
		})
	}
}

func TestAuthRefused(t *testing.T) {
	for name, script := range map[string]string{
		"wrong password":     "C: AUTH PLAIN " + b64("\x00alice\x00wrong") + "\nS: 535 5.7.8",
		"empty password":     "C: AUTH PLAIN " + b64("\x00alice\x00") + "\nS: 535",
		"unknown user":       "C: AUTH PLAIN " + b64("\x00bob\x00"+password) + "\nS: 535 5.7.8",
		"for another":        "C: AUTH PLAIN " + b64("bob\x00alice\x00"+password) + "\nS: 535",
		"two parts":          "C: AUTH PLAIN " + b64("alice\x00"+password) + "\nS: 535",
		"cancelled":          "C: AUTH PLAIN\nS: 334\nC: *\nS: 501",
		"not base64":         "C: AUTH PLAIN !!!\nS: 501 5.5.2",
		"not base64, later":  "C: AUTH PLAIN\nS: 334\nC: !!!\nS: 501 5.5.2",
		"control characters": "C: AUTH PLAIN\nS: 334\nR: ab\\0cd\\r\\n\nS: 501 5.5.2",
		"unknown mechanism":  "C: AUTH CRAM-MD5\nS: 504 5.5.4",
		"none":               "C: AUTH\nS: 504",
		"long, wrong":        "C: AUTH PLAIN " + b64("\x00alice\x00"+strings.Repeat("x", 8000)) + "\nS: 535",
	} {
		t.Run(name, func(t *testing.T) {
			r := authRig(t)
			c := r.hello("submissions")
			c.script(script, `
				C: NOOP
				S: 250 2.0.0
				C: MAIL FROM:<alice@example.com>
				S: 530 5.7.0`)
			if log := r.log.String(); strings.Contains(log, password) || strings.Contains(log, "wrong\x00") {
				t.Errorf("log: %s", log)
			}
		})
	}
}

func TestAuthFailuresAreCounted(t *testing.T) {
	r := authRig(t)
	c := r.hello("submissions")
	for range 4 {
		c.script("C: AUTH PLAIN "+b64("\x00alice\x00wrong"), "S: 535")
	}
	c.script("C: AUTH PLAIN "+b64("\x00alice\x00wrong"), "S: 421 4.7.0", "S: EOF")
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.sleeps) != 5 || r.sleeps[4] <= r.sleeps[0] {
		t.Errorf("sleeps %v", r.sleeps)
	}
}

func TestCancelledLoginsAreCounted(t *testing.T) {
	r := authRig(t)
	c := r.hello("submissions")
	for range 5 {
		c.script("C: AUTH LOGIN", "S: 334", "C: *", "S: 501")
	}
	c.script("C: AUTH PLAIN "+b64("\x00alice\x00"+password), "S: 421 4.7.0", "S: EOF")
}

func TestNoAuthWithoutTLS(t *testing.T) {
	r := authRig(t)
	c := r.dial("submission")
	c.script("S: 220", "C: EHLO x")
	if got := c.reply(); strings.Contains(got, "AUTH") || !strings.Contains(got, "STARTTLS") {
		t.Errorf("EHLO: %s", got)
	}
	c.script("C: AUTH PLAIN "+b64("\x00alice\x00"+password), "S: 538 5.7.11")
	c = r.hello("inside")
	c.script("C: AUTH PLAIN "+b64("\x00alice\x00"+password), "S: 502 5.5.1")
}

func TestStartTLS(t *testing.T) {
	r := authRig(t)
	c := r.hello("submission")
	c.script(`
		C: STARTTLS x
		S: 501
		C: STARTTLS
		S: 220 2.0.0
		TLS
		# what was said before is forgotten
		C: MAIL FROM:<a@b.example>
		S: 503 5.5.1
		C: EHLO inside
		S: /^250-relay.example.com\n(250-.*\n)*250 AUTH PLAIN LOGIN$/
		C: STARTTLS
		S: 503 5.5.1
		C: AUTH PLAIN ` + b64("\x00alice\x00"+password) + `
		S: 235
		C: MAIL FROM:<alice@example.com>
		S: 250`)
}

func TestStartTLSForgetsTheTransaction(t *testing.T) {
	r := newRig(t, nil)
	c := r.hello("mx")
	c.script(`
		C: MAIL FROM:<a@b.example>
		S: 250
		C: RCPT TO:<user@example.com>
		S: 250
		C: STARTTLS
		S: 220
		TLS
		C: DATA
		S: 503
		C: EHLO x
		S: 250
		C: DATA
		S: 503
		C: RCPT TO:<user@example.com>
		S: 503`)
}

// TestStartTLSInjection: CVE-2011-0411.
func TestStartTLSInjection(t *testing.T) {
	r := newRig(t, nil)
	c := r.hello("mx")
	c.script(`
		R: STARTTLS\r\nMAIL FROM:<evil@b.example>\r\nRCPT TO:<user@example.com>\r\n
		S: 554 5.5.0
		S: EOF`)
}

func TestFailedHandshakeEndsTheConnection(t *testing.T) {
	r := newRig(t, nil)
	c := r.hello("mx")
	c.script(`
		C: STARTTLS
		S: 220
		C: MAIL FROM:<a@b.example>
		C: RCPT TO:<user@example.com>`)
	for l := c.line(); l != "EOF"; l = c.line() {
		if strings.HasPrefix(l, "250") || strings.HasPrefix(l, "5") {
			t.Fatalf("the dialogue goes on in plaintext: %q", l)
		}
	}
	if !strings.Contains(r.log.String(), "TLS handshake") {
		t.Error("the log does not say so")
	}
}

func TestNoSTARTTLSOnAPlainListener(t *testing.T) {
	r := newRig(t, nil)
	c := r.hello("inside")
	c.script("C: STARTTLS", "S: 502 5.5.1", "C: NOOP", "S: 250")
}

func TestCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	pair := config.KeyPair{File: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	writePair(t, pair, "one.example")
	now := time.Now()
	r := newRig(t, func(c *config.Config, o *Options) {
		c.Ingress.Certificate = pair
		o.Now = func() time.Time { return now }
	})
	name := func() string {
		t.Helper()
		c := r.dial("submissions")
		tc := tls.Client(c.c, &tls.Config{InsecureSkipVerify: true})
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tc.Close() }()
		return tc.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := name(); got != "one.example" {
		t.Fatalf("certificate of %s", got)
	}
	writePair(t, pair, "two.example")
	later := now.Add(10 * time.Second)
	for _, f := range []string{pair.File, pair.KeyFile} {
		if err := os.Chtimes(f, later, later); err != nil {
			t.Fatal(err)
		}
	}
	now = later
	if got := name(); got != "two.example" {
		t.Errorf("certificate of %s after the change", got)
	}
	if err := os.WriteFile(pair.File, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(10 * time.Second)
	if got := name(); got != "two.example" {
		t.Errorf("certificate of %s after a bad one was written", got)
	}
	if !strings.Contains(r.log.String(), "certificate not taken") {
		t.Error("the log does not say so")
	}
	bad := *r.cfg
	bad.Hostname = "changed.example"
	if err := r.server.UpdateConfig(&bad); err == nil {
		t.Error("a configuration with a bad certificate was taken")
	}
}

func TestSelfSignedIsLoud(t *testing.T) {
	r := newRig(t, nil)
	if !strings.Contains(r.log.String(), "NO CERTIFICATE IS CONFIGURED") {
		t.Error("the log is silent")
	}
}

func TestMissingCertificateFileIsAnError(t *testing.T) {
	c := &certificates{now: time.Now}
	cfg := &config.Config{Ingress: config.Ingress{Certificate: config.KeyPair{File: "/nonexistent", KeyFile: "/nonexistent"}}}
	if err := c.use(cfg); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
