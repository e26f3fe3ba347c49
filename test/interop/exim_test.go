//go:build interop

package interop

import (
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

const eximConf = `primary_hostname = smarthost.example
local_interfaces = 127.0.0.1
daemon_smtp_ports = {{exim}} : {{exim-implicit}}
tls_on_connect_ports = {{exim-implicit}}
disable_ipv6 = true
keep_environment =
tls_advertise_hosts = *
tls_certificate = /tls/smarthost.pem
tls_privatekey = /tls/smarthost-key.pem
auth_advertise_hosts = ${if def:tls_in_cipher {*}}
message_size_limit = 10240000
acl_smtp_mail = sender
acl_smtp_rcpt = recipient
acl_smtp_data = accept
log_selector = -queue_run
dkim_verify_signers =

begin acl

sender:
  deny message = 530 STARTTLS first
       !encrypted = *
  deny message = 530 authentication required
       !authenticated = *
  accept

recipient:
  require verify = recipient
  accept

begin routers

boxes:
  driver = accept
  domains = example.net
  local_parts = plain : login : cram-md5
  transport = store

dovecot:
  driver = accept
  domains = example.net
  local_parts = dovecot
  transport = lmtp

begin transports

store:
  driver = appendfile
  directory = /mail/$local_part_data
  maildir_format
  envelope_to_add
  return_path_add
  user = STORE
  group = STORE

lmtp:
  driver = smtp
  protocol = lmtp
  hosts = 127.0.0.1
  port = {{dovecot}}
  allow_localhost

begin retry

* * F,1h,1s

begin authenticators

plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{{eq{$auth2}{USER}}{eq{$auth3}{PASSWORD}}}}
  server_set_id = $auth2

login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${if and{{eq{$auth1}{USER}}{eq{$auth2}{PASSWORD}}}}
  server_set_id = $auth1

cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${if eq{$auth1}{USER}{PASSWORD}fail}
  server_set_id = $auth1
`

// exim is an Exim of the test's own. What is for dovecot@example.net it delivers by LMTP to the port of dovecot.
type exim struct {
	*root
}

func newExim(r *rig.Rig) *exim {
	r.T.Helper()
	e := &exim{root: newRoot(r, "exim")}
	onFailure(r, "exim", e.log)
	for _, folder := range []string{"var/spool/exim4", "var/log/exim4"} {
		e.mkdir(folder, "Debian-exim", 0o750)
	}
	e.give("tls/smarthost-key.pem", "Debian-exim")
	conf := strings.NewReplacer("USER", rig.SinkUser, "PASSWORD", rig.SinkPassword, "STORE", store).Replace(eximConf)
	e.write("etc/exim4/exim4.conf", ports(r, "dovecot", ports(r, "exim", conf)))
	return e
}

func (e *exim) log() string {
	return read(e.r.T, e.path("var/log/exim4/mainlog")) + read(e.r.T, e.path("var/log/exim4/paniclog"))
}

// start implements smarthost.
func (e *exim) start() {
	e.r.T.Helper()
	proc := e.serve("/usr/sbin/exim4", "-bdf", "-q1s")
	greets(e.r, proc, "exim")
}

// received implements smarthost.
func (e *exim) received(box string) []string {
	e.r.T.Helper()
	return maildir(e.r.T, e.path("mail", box))
}

// loggedIn implements smarthost.
func (e *exim) loggedIn(mechanism string) bool {
	authenticator := map[string]string{"PLAIN": "plain", "LOGIN": "login", "CRAM-MD5": "cram"}[mechanism]
	return strings.Contains(e.log(), " A="+authenticator+":"+rig.SinkUser)
}

func TestExim(t *testing.T) {
	t.Parallel()
	r := relayTo(t, "exim")
	testSmarthost(r, newExim(r), facts{
		mechanisms: []string{"PLAIN", "LOGIN", "CRAM-MD5"},
		unknown:    []string{"Status: 5.0.0", "550 Unrouteable address"},
		adds:       []string{"Return-path: <alice@example.com>", "Envelope-to: BOX@example.net", "with esmtpsa"},
	})
}
