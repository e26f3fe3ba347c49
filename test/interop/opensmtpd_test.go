//go:build interop

package interop

import (
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

const smtpdConf = `pki smarthost cert "/tls/smarthost.pem"
pki smarthost key "/tls/smarthost-key.pem"
table logins file:/etc/logins
table boxes { "plain@example.net", "login@example.net" }
smtp max-message-size 10240000
listen on 127.0.0.1 port {{opensmtpd}} tls-require pki smarthost auth <logins> hostname smarthost.example
listen on 127.0.0.1 port {{opensmtpd-implicit}} smtps pki smarthost auth <logins> hostname smarthost.example
action "store" maildir "/mail/%{rcpt.user}" virtual { "@" = STORE }
match auth from any for rcpt-to <boxes> action "store"
`

// opensmtpd is an OpenSMTPD of the test's own.
type opensmtpd struct {
	*root
}

func newOpenSMTPD(r *rig.Rig) *opensmtpd {
	r.T.Helper()
	need(r.T, "openssl")
	o := &opensmtpd{root: newRoot(r, "opensmtpd")}
	onFailure(r, "opensmtpd", o.log)
	for _, folder := range []string{"var/spool/smtpd", "run", "var/run", "var/lib/opensmtpd/empty"} {
		o.mkdir(folder, "root", 0o711)
	}
	o.write("etc/ssl/certs/ca-certificates.crt", read(r.T, o.path("tls/ca.pem"))) // it does not start without one
	hash := strings.TrimSpace(run(r.T, "", "openssl", "passwd", "-6", rig.SinkPassword))
	o.write("etc/logins", rig.SinkUser+" "+hash+"\n")
	o.write("etc/smtpd.conf", ports(r, "opensmtpd", strings.ReplaceAll(smtpdConf, "STORE", store)))
	return o
}

func (o *opensmtpd) log() string { return read(o.r.T, o.r.Path("opensmtpd.log")) }

// start implements smarthost.
func (o *opensmtpd) start() {
	o.r.T.Helper()
	proc := o.serve("/usr/sbin/smtpd", "-d", "-v", "-T", "smtp")
	greets(o.r, proc, "opensmtpd")
}

// received implements smarthost.
func (o *opensmtpd) received(box string) []string {
	o.r.T.Helper()
	return maildir(o.r.T, o.path("mail", box))
}

// loggedIn implements smarthost.
func (o *opensmtpd) loggedIn(mechanism string) bool {
	return strings.Contains(o.log(), "AUTH "+mechanism)
}

func TestOpenSMTPD(t *testing.T) {
	t.Parallel()
	r := relayTo(t, "opensmtpd")
	testSmarthost(r, newOpenSMTPD(r), facts{
		mechanisms: []string{"PLAIN", "LOGIN"},
		unknown:    []string{"Status: 5.0.0", "550 Invalid recipient"},
		adds:       []string{"Return-Path: ", "Delivered-To: ", "with ESMTPSA"},
	})
}
