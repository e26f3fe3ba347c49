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

// clientsBody lets in who logs in, and this machine where no login is asked for.
const clientsBody = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: staff, auth: required}
  - {name: machines, listeners: [local], networks: ["127.0.0.0/8"]}
chains:
  - {name: inbound, match: {direction: [inbound, internal]}, stages: [], deliver: provider}
  - {name: outbound, match: {direction: outbound}, stages: [], deliver: provider}
routes:
  provider: ROUTE
`

// text has what transfers spoil: lines that begin with a dot, spaces at the end, letters that are not ASCII, a long
// line, and empty lines at the end.
var text = "Grüße.\n.\n..\n.dot\ntrailing \t \n" + strings.Repeat("long ", 180) + "\n\n--\nAlice\n\n\n"

// way is how a client reaches the relay.
type way struct {
	// security is "none", "starttls" or "tls" (from the first byte).
	security string
	// mechanism of the login; empty: none.
	mechanism string
	password  string
}

// ways are all that the relay offers.
var ways = []way{
	{"none", "", ""},
	{"starttls", "PLAIN", password},
	{"starttls", "LOGIN", password},
	{"tls", "PLAIN", password},
	{"tls", "LOGIN", password},
}

func (w way) String() string { return strings.TrimSpace(w.security + " " + w.mechanism) }

// protocol is what the Received field says of it (RFC 3848).
func (w way) protocol() string {
	if w.security == "none" {
		return "with ESMTP\r\n"
	}
	return "with ESMTPSA\r\n"
}

// reception is an installation that clients send to, and the smarthost where it arrives.
type reception struct {
	*rig.Rig
	sink *rig.Sink
	ca   string
}

func newReception(t *testing.T) *reception {
	t.Helper()
	r := rig.New(t, rig.Up)
	c := &reception{Rig: r, sink: r.NewSink("smarthost"), ca: r.Path("tls", "ca.pem")}
	r.CA.Issue(t, r.Path("tls"), "relay", "localhost")
	r.WriteFile("users.yaml", users)
	r.Ingress = "  certificate: {file: tls/relay.pem, key_file: tls/relay-key.pem}\n  users_file: users.yaml\n"
	r.Listeners = `    - {name: submission, address: "{{submission}}", tls: starttls, auth: required}
    - {name: submissions, address: "{{submissions}}", tls: implicit, auth: required}
`
	r.Configure(strings.Replace(clientsBody, "ROUTE", c.sink.Route(), 1))
	r.Start()
	return c
}

// port is where a way begins.
func (c *reception) port(w way) string {
	c.T.Helper()
	return strconv.Itoa(c.Port(map[string]string{"none": "smtp-one", "starttls": "submission", "tls": "submissions"}[w.security]))
}

// arrived waits for the message with a subject, and checks its envelope and how it came.
func (c *reception) arrived(subject, protocol string) rig.Delivery {
	c.T.Helper()
	d := withSubject(c.Rig, c.sink, subject)
	if d.From != "alice@example.com" || strings.Join(d.To, " ") != "bob@example.net carol@example.org" {
		c.T.Errorf("envelope: %s -> %v", d.From, d.To)
	}
	if !strings.Contains(string(d.Raw), protocol) {
		c.T.Errorf("no %q in\n%.2000s", protocol, d.Raw)
	}
	return d
}

// refusedLogin has send try a wrong password by each mechanism.
func (c *reception) refusedLogin(name string, send func(w way) (out string, err error)) {
	c.T.Helper()
	for _, mechanism := range []string{"PLAIN", "LOGIN"} {
		c.Run(name+" with a wrong password "+mechanism, func(t *testing.T) {
			before, failures := len(c.sink.Deliveries()), c.failures()
			out, err := send(way{"starttls", mechanism, "open barley"})
			if err == nil {
				t.Errorf("no error:\n%s", out)
			}
			if n := len(c.sink.Deliveries()); n != before {
				t.Error("it went out")
			}
			if c.failures() == failures {
				t.Error("the log says nothing of it")
			}
		})
	}
}

// failures is how many failed logins of alice the log has.
func (c *reception) failures() int {
	c.T.Helper()
	return strings.Count(read(c.T, c.Path("up.log")), `user=alice reason="wrong user or password"`)
}

// client hands over a message as it is, and says what it printed.
type client func(w way, raw string) (out string, err error)

func (c *reception) swaks(more ...string) client {
	return func(w way, raw string) (string, error) {
		raw = strings.TrimSuffix(raw, "\r\n") // swaks ends the last line itself
		args := []string{"--server", "127.0.0.1", "--port", c.port(w), "--ehlo", "client.example.com", "--from", "alice@example.com", "--to", "bob@example.net,carol@example.org", "--data", "-", "--suppress-data"}
		if w.mechanism != "" {
			args = append(args, "--auth", w.mechanism, "--auth-user", "alice", "--auth-password", w.password, "--tls-verify", "--tls-ca-path", c.ca,
				map[string]string{"starttls": "--tls", "tls": "--tls-on-connect"}[w.security])
		}
		return try(c.T, raw, "swaks", append(args, more...)...)
	}
}

func (c *reception) msmtp(w way, raw string) (string, error) {
	conf := fmt.Sprintf("account default\nhost localhost\nport %s\nfrom alice@example.com\n", c.port(w))
	if w.mechanism == "" {
		conf += "auth off\ntls off\n"
	} else {
		conf += fmt.Sprintf("auth %s\nuser alice\npassword %q\ntls on\ntls_starttls %s\ntls_trust_file %s\ndsn_notify failure,delay\ndsn_return headers\n",
			strings.ToLower(w.mechanism), w.password, map[string]string{"starttls": "on", "tls": "off"}[w.security], c.ca)
	}
	return try(c.T, strings.ReplaceAll(raw, "\r\n", "\n"), "msmtp", "--file="+c.WriteFile("msmtprc", conf), "bob@example.net", "carol@example.org")
}

func (c *reception) curl(w way, raw string) (string, error) {
	scheme := map[string]string{"none": "smtp", "starttls": "smtp", "tls": "smtps"}[w.security]
	args := []string{"--silent", "--show-error", "--url", scheme + "://localhost:" + c.port(w) + "/client.example.com", "--mail-from", "alice@example.com", "--mail-rcpt", "bob@example.net", "--mail-rcpt", "carol@example.org", "--upload-file", "-"}
	if w.mechanism != "" {
		args = append(args, "--ssl-reqd", "--cacert", c.ca, "--user", "alice:"+w.password, "--login-options", "AUTH="+w.mechanism)
	}
	return try(c.T, raw, "curl", args...)
}

// pythonClient sends the message on its standard input with smtplib: port, CA file, security, mechanism, password.
const pythonClient = `
import smtplib, ssl, sys
port, ca, security, mechanism, password = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
if security == "tls":
    server = smtplib.SMTP_SSL("localhost", int(port), context=context)
else:
    server = smtplib.SMTP("localhost", int(port))
if security == "starttls":
    server.starttls(context=context)
with server:
    server.ehlo_or_helo_if_needed()
    if mechanism:
        server.user, server.password = "alice", password
        server.auth(mechanism, {"PLAIN": server.auth_plain, "LOGIN": server.auth_login}[mechanism])
    refused = server.sendmail("alice@example.com", ["bob@example.net", "carol@example.org"], sys.stdin.buffer.read(), ["BODY=8BITMIME"])
    assert not refused, refused
`

func (c *reception) python(w way, raw string) (string, error) {
	return try(c.T, raw, "/usr/bin/python3", "-c", pythonClient, c.port(w), c.ca, w.security, w.mechanism, w.password)
}

// TestClients sends with programs that hand over a message as it is: each byte of it has to arrive.
func TestClients(t *testing.T) {
	t.Parallel()
	need(t, "swaks", "msmtp", "curl", "/usr/bin/python3")
	c := newReception(t)
	clients := []struct {
		name string
		send client
		// says is what it prints when the login is refused.
		says string
	}{
		{"swaks", c.swaks(), "535"},
		{"swaks pipelining", c.swaks("--pipeline"), "535"},
		{"msmtp", c.msmtp, "535"},
		{"curl", c.curl, "Login denied"},
		{"smtplib", c.python, "535"},
	}
	for _, p := range clients {
		for _, w := range ways {
			for kind, raw := range map[string]string{"text": plain(p.name+" "+w.String()+" text", text), "file": withAttachment(p.name+" "+w.String()+" file", "noise.bin", noise(200<<10))} {
				subject := p.name + " " + w.String() + " " + kind
				c.Run(subject, func(t *testing.T) {
					if out, err := p.send(w, raw); err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
					if got := string(c.arrived(subject, w.protocol()).Raw); !strings.HasSuffix(got, "\r\n"+raw) { // ours are before it
						t.Errorf("it has changed:\n%.2000q\nwant\n%.2000q", got, raw)
					}
				})
			}
		}
		c.refusedLogin(p.name, func(w way) (string, error) {
			out, err := p.send(w, plain("wrong", text))
			if !strings.Contains(out, p.says) {
				c.T.Errorf("it does not say %q:\n%s", p.says, out)
			}
			return out, err
		})
	}
	if logged(c.Rig, "up", password) || logged(c.Rig, "up", "open barley") {
		t.Error("a password stands in the log")
	}
}
