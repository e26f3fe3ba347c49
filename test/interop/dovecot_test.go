//go:build interop

package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// dovecotBody signs, so that it can be seen at the far end that nobody on the way has touched what is signed.
const dovecotBody = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
stages:
  signer: {config: {must_sign: [example.com]}}
chains:
  - {name: inbound, match: {direction: [inbound, internal]}, stages: [], deliver: exim}
  - {name: outbound, match: {direction: outbound}, stages: [signer], deliver: exim}
routes:
  exim: {smarthost: {address: "{{exim}}", tls: required, server_name: smarthost.example, ca_file: pki/ca.pem, auth: {username: relay-user, password_file: secrets/smarthost}}}
`

const dovecotConf = `dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
base_dir = /run/dovecot
listen = 127.0.0.1
protocols = imap lmtp
log_path = /var/log/dovecot.log
default_internal_user = dovecot
default_internal_group = dovecot
default_login_user = dovenull
ssl = required
ssl_server_cert_file = /tls/smarthost.pem
ssl_server_key_file = /tls/smarthost-key.pem
mail_driver = maildir
mail_path = /mail/%{user | username}
mail_uid = STORE
mail_gid = STORE
passdb passwd-file {
  passwd_file_path = /etc/dovecot/users
}
userdb passwd-file {
  passwd_file_path = /etc/dovecot/users
}
service lmtp {
  inet_listener lmtp {
    port = {{dovecot}}
  }
}
service imap-login {
  inet_listener imap {
    port = 0
  }
  inet_listener imaps {
    port = {{dovecot-implicit}}
    ssl = yes
  }
}
`

// imapClient prints the one message with a subject: port, CA file, user, password, subject.
const imapClient = `
import imaplib, ssl, sys
port, ca, user, password, subject = sys.argv[1:]
with imaplib.IMAP4_SSL("127.0.0.1", int(port), ssl_context=ssl.create_default_context(cafile=ca)) as server:
    server.login(user, password)
    server.select("INBOX", readonly=True)
    found = server.search(None, "SUBJECT", '"%s"' % subject)[1][0].split()
    assert len(found) == 1, found
    sys.stdout.buffer.write(server.fetch(found[0], "(BODY.PEEK[])")[1][0][1])
`

// dovecot is a Dovecot of the test's own: mail comes in by LMTP, and is read by IMAP or doveadm.
type dovecot struct{ *root }

func newDovecot(r *rig.Rig) *dovecot {
	r.T.Helper()
	need(r.T, "/usr/bin/python3")
	d := &dovecot{root: newRoot(r, "dovecot")}
	onFailure(r, "dovecot", func() string { return read(r.T, d.path("var/log/dovecot.log")) })
	d.mkdir("run/dovecot", "root", 0o755)
	d.mkdir("var/log", "root", 0o755)
	d.write("etc/dovecot/users", "dovecot@example.net:{PLAIN}"+rig.SinkPassword+"::::::\n")
	d.write("etc/dovecot/dovecot.conf", ports(r, "dovecot", strings.ReplaceAll(dovecotConf, "STORE", store)))
	return d
}

func (d *dovecot) start() {
	d.r.T.Helper()
	proc := d.serve("/usr/sbin/dovecot", "-F")
	d.r.Eventually("dovecot answers", 15*time.Second, func() bool {
		if !proc.Running() {
			d.r.T.Fatal("dovecot has ended")
		}
		_, err := d.byIMAP("nothing")
		return err != nil && strings.Contains(err.Error(), "AssertionError")
	})
}

// byIMAP reads the message with a subject as a client does.
func (d *dovecot) byIMAP(subject string) (string, error) {
	d.r.T.Helper()
	raw, err := try(d.r.T, "", "/usr/bin/python3", "-c", imapClient, fmt.Sprint(d.r.Port("dovecot-implicit")), d.r.Path("pki", "ca.pem"), "dovecot@example.net", rig.SinkPassword, subject)
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, raw)
	}
	return raw, nil
}

// byDoveadm reads the message with a subject on the server, with the line ends of the system.
func (d *dovecot) byDoveadm(subject string) string {
	d.r.T.Helper()
	out := d.run("/usr/bin/doveadm", "-f", "flow", "fetch", "-u", "dovecot@example.net", "text", "mailbox", "INBOX", "subject", subject)
	_, text, _ := strings.Cut(out, "text=")
	return text
}

// TestDovecot follows mail to where it is read: Exim takes it from the relay and gives it to Dovecot by LMTP.
func TestDovecot(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Up)
	e, d := newExim(r), newDovecot(r)
	if _, err := signer.WriteKeys(r.Path("data", "keys"), "example.com", "test"); err != nil {
		t.Fatal(err)
	}
	r.WriteFile("secrets/smarthost", rig.SinkPassword+"\n")
	r.Configure(dovecotBody)
	d.start()
	e.start()
	r.Start()
	for _, c := range []struct{ name, raw string }{
		{"a text", plain("a text", text)},
		{"a file", withAttachment("a file", "noise.bin", noise(500<<10))},
	} {
		r.Run(c.name, func(t *testing.T) {
			r.MustSend("alice@example.com", []string{"dovecot@example.net"}, c.raw)
			var raw string
			r.Eventually("it is in the mailbox", 30*time.Second, func() (ok bool) {
				var err error
				raw, err = d.byIMAP(c.name)
				return err == nil
			})
			if textOf([]byte(raw)) != textOf([]byte(c.raw)) {
				t.Errorf("the text has changed:\n%.2000q", textOf([]byte(raw)))
			}
			head, _, _ := strings.Cut(raw, "\r\n\r\n")
			for _, want := range []string{"Return-Path: <alice@example.com>", "LMTP", "with esmtpsa", "by relay.example.com (Stagecoach)"} {
				if !strings.Contains(head, want) {
					t.Errorf("no %q in\n%s", want, head)
				}
			}
			if good, said := byDkimpy(r, raw); !sameWords(good, theAlgorithms) {
				t.Errorf("good are %v, dkimpy says:\n%s", good, said)
			}
			at := len(head) + 10
			if good, said := byDkimpy(r, raw[:at]+string(raw[at]^1)+raw[at+1:]); len(good) != 0 {
				t.Errorf("with one bit flipped, good are %v, dkimpy says:\n%s", good, said)
			}
			if got := d.byDoveadm(c.name); strings.TrimRight(crlf(got), "\r\n\f") != strings.TrimRight(raw, "\r\n") {
				t.Errorf("doveadm shows something else:\n%.2000q", got)
			}
		})
	}
}
