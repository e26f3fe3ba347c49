package e2e

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// The relay rules of the test: one machine, and whoever logs in. Connecting from another address of this machine is
// being a stranger.
const (
	friend   = "127.0.0.2"
	stranger = "127.0.0.3"
)

// alice is a users file: her password is "open sesame".
const alice = "users:\n  alice: {password: \"$argon2id$v=19$m=1024,t=1,p=1$YSBzYWx0IG9mIHNpeHRlZQ$7qZg5qGKdT8NYlcWGq+CWrWbdfGtTW2ahNc2En7mkek\"}\n"

func TestRelay(t *testing.T) {
	t.Parallel()
	r, sink := install(t, rig.Up)
	r.CA.Issue(t, r.Path("tls"), "mx", "relay.example.com")
	r.WriteFile("users.yaml", alice)
	r.Ingress = `  certificate: {file: tls/mx.pem, key_file: tls/mx-key.pem}
  users_file: users.yaml
`
	r.Listeners = `    - {name: mx, address: "{{mx}}", tls: starttls}
    - {name: submission, address: "{{submission}}", tls: starttls, auth: required}
`
	configure(r, sink, `  - {name: loopback, networks: ["127.0.0.0/8"]}`, "  - {name: friend, networks: [\"127.0.0.2/32\"]}\n  - {name: staff, auth: required}")
	r.Start()

	t.Run("stranger", func(t *testing.T) {
		for _, from := range []string{"<mallory@example.net>", "<alice@example.com>", "<>"} {
			c := dialFrom(t, stranger, r.Addr("mx"))
			expect(t, c, "MAIL FROM:"+from, "250")
			for _, to := range []string{
				"<bob@example.net>", "<bob%example.net@example.com>", "<bob%example.net@relay.example.com>", "<bob%example.net>", `<"bob@example.net"@example.com>`, `<"bob%example.net">`,
				"<@example.com:bob@example.net>", "<@relay.example.com,@example.com:bob@example.net>", "<example.net!bob@example.com>", "<example.net!bob>",
				"<bob@example.net@example.com>", "<bob@[127.0.0.1]>", "<bob@example.com.>", "<bob@example.com.example.net>", "<bob@xexample.com>", "<bob@sub.example.com>", `<bob@example.net\@example.com>`,
			} {
				expect(t, c, "RCPT TO:"+to, "5")
			}
			expect(t, c, "DATA", "5")
			expect(t, c, "RCPT TO:<alice@example.com>", "250")
		}
	})
	t.Run("friend", func(t *testing.T) {
		c := dialFrom(t, friend, r.Addr("mx"))
		expect(t, c, "MAIL FROM:<alice@example.com>", "250")
		expect(t, c, "RCPT TO:<bob@example.net>", "250")
		once(r, sink, transfer(t, c, threeParts))
	})
	t.Run("login", func(t *testing.T) {
		c := dialFrom(t, stranger, r.Addr("submission"))
		expect(t, c, "MAIL FROM:<alice@example.com>", "530")
		expect(t, c, "AUTH PLAIN AGFsaWNlAG9wZW4gc2VzYW1l", "538")
		if err := c.StartTLS(&tls.Config{RootCAs: r.CA.Pool, ServerName: "relay.example.com"}); err != nil {
			t.Fatal(err)
		}
		expect(t, c, "MAIL FROM:<alice@example.com>", "530")
		expect(t, c, "AUTH PLAIN AGFsaWNlAHdyb25n", "535")
		expect(t, c, "MAIL FROM:<alice@example.com>", "530")
		expect(t, c, "AUTH PLAIN AGFsaWNlAG9wZW4gc2VzYW1l", "235")
		expect(t, c, "MAIL FROM:<alice@example.com>", "250")
		expect(t, c, "RCPT TO:<bob@example.net>", "250")
		id := transfer(t, c, plain("from the road"))
		once(r, sink, id)
		if !strings.Contains(string(sink.Find(id)[0].Raw), "with ESMTPSA") {
			t.Error("the Received field does not say that there was TLS and a login")
		}
	})
	t.Run("login on the public port", func(t *testing.T) {
		c := dialFrom(t, stranger, r.Addr("mx"))
		if err := c.StartTLS(&tls.Config{RootCAs: r.CA.Pool, ServerName: "relay.example.com"}); err != nil {
			t.Fatal(err)
		}
		expect(t, c, "AUTH LOGIN", "334")
		expect(t, c, "YWxpY2U=", "334")
		expect(t, c, "b3BlbiBzZXNhbWU=", "235")
		expect(t, c, "MAIL FROM:<alice@example.com>", "250")
		expect(t, c, "RCPT TO:<bob@example.net>", "250")
		expect(t, c, "RSET", "250")
		// What was said before the login, or by another connection, gives no rights.
		other := dialFrom(t, stranger, r.Addr("mx"))
		expect(t, other, "MAIL FROM:<alice@example.com>", "250")
		expect(t, other, "RCPT TO:<bob@example.net>", "550")
	})
	if n := len(sink.Deliveries()); n != 2 {
		t.Errorf("%d messages went out, want two", n)
	}
	if logged(r, "up", "open sesame") || logged(r, "up", "b3BlbiBz") || logged(r, "up", "AGFsaWNl") {
		t.Error("a password stands in the log")
	}
}
