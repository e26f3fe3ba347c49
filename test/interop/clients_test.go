//go:build interop

package interop

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// users is a users file: alice's password is "open sesame".
const users = "users:\n  alice: {password: \"$argon2id$v=19$m=1024,t=1,p=1$YSBzYWx0IG9mIHNpeHRlZQ$7qZg5qGKdT8NYlcWGq+CWrWbdfGtTW2ahNc2En7mkek\"}\n"

const password = "open sesame"

const clientsBody = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: staff, auth: required}
chains:
  - {name: inbound, match: {direction: [inbound, internal]}, stages: [], deliver: provider}
  - {name: outbound, match: {direction: outbound}, stages: [], deliver: provider}
routes:
  provider: ROUTE
`

// pythonClient sends the message on its standard input with smtplib: port, CA file, password, "starttls" or "tls".
const pythonClient = `
import smtplib, ssl, sys
port, ca, password, how = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
if how == "tls":
    server = smtplib.SMTP_SSL("localhost", int(port), context=context)
else:
    server = smtplib.SMTP("localhost", int(port))
    server.starttls(context=context)
with server:
    server.login("alice", password)
    refused = server.sendmail("alice@example.com", ["bob@example.net", "carol@example.org"], sys.stdin.buffer.read(), ["BODY=8BITMIME"])
    assert not refused, refused
`

// text has what transfers spoil: lines that begin with a dot, spaces at the end, letters that are not ASCII, a long
// line, and empty lines at the end.
var text = "Grüße.\n.\n..\n.dot\ntrailing \t \n" + strings.Repeat("long ", 180) + "\n\n--\nAlice\n\n\n"

func TestClients(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Up)
	sink := r.NewSink("smarthost")
	r.CA.Issue(t, r.Path("tls"), "relay", "localhost")
	r.WriteFile("users.yaml", users)
	r.Ingress = "  certificate: {file: tls/relay.pem, key_file: tls/relay-key.pem}\n  users_file: users.yaml\n"
	r.Listeners = `    - {name: submission, address: "{{submission}}", tls: starttls, auth: required}
    - {name: submissions, address: "{{submissions}}", tls: implicit, auth: required}
`
	r.Configure(strings.Replace(clientsBody, "ROUTE", sink.Route(), 1))
	r.Start()
	ca, starttls, implicit := r.Path("tls", "ca.pem"), strconv.Itoa(r.Port("submission")), strconv.Itoa(r.Port("submissions"))

	swaks := func(port string, more ...string) func(raw, password string) (string, error) {
		return func(raw, password string) (string, error) {
			raw = strings.TrimSuffix(raw, "\r\n") // swaks ends the last line itself
			return try(t, raw, "swaks", append([]string{"--server", "127.0.0.1", "--port", port, "--ehlo", "client.example.com", "--from", "alice@example.com", "--to", "bob@example.net,carol@example.org",
				"--auth-user", "alice", "--auth-password", password, "--tls-verify", "--tls-ca-path", ca, "--data", "-", "--suppress-data"}, more...)...)
		}
	}
	msmtp := func(port, starttls string) func(raw, password string) (string, error) {
		return func(raw, password string) (string, error) {
			conf := r.WriteFile("msmtprc-"+port, fmt.Sprintf("account default\nhost localhost\nport %s\nfrom alice@example.com\nauth on\nuser alice\npassword %q\ntls on\ntls_starttls %s\ntls_trust_file %s\ndsn_notify failure,delay\ndsn_return headers\n", port, password, starttls, ca))
			return try(t, strings.ReplaceAll(raw, "\r\n", "\n"), "msmtp", "--file="+conf, "bob@example.net", "carol@example.org")
		}
	}
	curl := func(url, mechanism string) func(raw, password string) (string, error) {
		return func(raw, password string) (string, error) {
			return try(t, raw, "curl", "--silent", "--show-error", "--ssl-reqd", "--cacert", ca, "--url", url, "--mail-from", "alice@example.com", "--mail-rcpt", "bob@example.net", "--mail-rcpt", "carol@example.org",
				"--user", "alice:"+password, "--login-options", "AUTH="+mechanism, "--upload-file", "-")
		}
	}
	python := func(port, how string) func(raw, password string) (string, error) {
		return func(raw, password string) (string, error) {
			return try(t, raw, "/usr/bin/python3", "-c", pythonClient, port, ca, password, how)
		}
	}
	for _, c := range []struct {
		name string
		send func(raw, password string) (string, error)
	}{
		{"swaks STARTTLS PLAIN", swaks(starttls, "--tls", "--auth", "PLAIN")},
		{"swaks STARTTLS LOGIN", swaks(starttls, "--tls", "--auth", "LOGIN")},
		{"swaks pipelining", swaks(starttls, "--tls", "--auth", "PLAIN", "--pipeline")},
		{"swaks implicit TLS", swaks(implicit, "--tls-on-connect", "--auth", "LOGIN")},
		{"msmtp STARTTLS", msmtp(starttls, "on")},
		{"msmtp implicit TLS", msmtp(implicit, "off")},
		{"curl STARTTLS PLAIN", curl("smtp://localhost:"+starttls+"/client.example.com", "PLAIN")},
		{"curl STARTTLS LOGIN", curl("smtp://localhost:"+starttls+"/client.example.com", "LOGIN")},
		{"curl implicit TLS", curl("smtps://localhost:"+implicit+"/client.example.com", "PLAIN")},
		{"smtplib STARTTLS", python(starttls, "starttls")},
		{"smtplib implicit TLS", python(implicit, "tls")},
	} {
		r.Run(c.name, func(t *testing.T) {
			raw := plain(c.name, text)
			if out, err := c.send(raw, password); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			d := withSubject(r, sink, c.name)
			if d.From != "alice@example.com" || strings.Join(d.To, " ") != "bob@example.net carol@example.org" {
				t.Errorf("envelope: %s -> %v", d.From, d.To)
			}
			if got, want := textOf(d.Raw), textOf([]byte(raw)); got != want {
				t.Errorf("the text has changed:\n%q\nwant\n%q", got, want)
			}
			if !strings.Contains(string(d.Raw), "with ESMTPSA") {
				t.Error("the Received field does not say that there was TLS and a login")
			}
		})
	}
	for name, send := range map[string]func(raw, password string) (string, error){
		"swaks": swaks(starttls, "--tls"), "msmtp": msmtp(starttls, "on"), "curl": curl("smtp://localhost:"+starttls, "PLAIN"), "smtplib": python(starttls, "starttls"),
	} {
		r.Run(name+" with a wrong password", func(t *testing.T) {
			before := len(sink.Deliveries())
			out, err := send(plain("wrong", text), "open barley")
			if err == nil {
				t.Errorf("no error:\n%s", out)
			}
			if name != "curl" && !strings.Contains(out, "535") { // curl says "Login denied"
				t.Errorf("no 535:\n%s", out)
			}
			if n := len(sink.Deliveries()); n != before {
				t.Error("it went out")
			}
		})
	}
	if logged(r, "up", password) {
		t.Error("a password stands in the log")
	}
}
