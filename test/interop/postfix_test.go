//go:build interop

package interop

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

const mainCF = `compatibility_level = 3.6
queue_directory = DIR/queue
data_directory = DIR/lib
maillog_file = DIR/log
maillog_file_prefixes = DIR
mail_owner = postfix
setgid_group = postdrop
myhostname = smarthost.example
mydestination =
alias_maps =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_tls_cert_file = DIR/tls/smarthost.pem
smtpd_tls_key_file = DIR/tls/smarthost-key.pem
smtpd_sasl_auth_enable = yes
smtpd_sasl_local_domain = $myhostname
cyrus_sasl_config_path = DIR/etc/sasl
smtpd_relay_restrictions = permit_sasl_authenticated, reject
virtual_mailbox_domains = example.net
virtual_mailbox_base = DIR/mail
virtual_mailbox_maps = inline:{ plain@example.net=plain/, login@example.net=login/, cram-md5@example.net=cram-md5/ }
virtual_uid_maps = static:UID
virtual_gid_maps = static:UID
`

const masterCF = `127.0.0.1:{{postfix}} inet n - n - - smtpd
127.0.0.1:{{postfix-implicit}} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
`

// postfix is a Postfix of the test's own: it relays for who logs in over TLS, and delivers example.net into maildirs.
type postfix struct {
	r *rig.Rig
	// dir is a folder into which Postfix's users can go; the rig's is closed to them.
	dir  string
	proc *rig.Proc
}

func newPostfix(r *rig.Rig) *postfix {
	r.T.Helper()
	needRoot(r.T)
	need(r.T, "postfix", "postconf", "saslpasswd2")
	dir, err := os.MkdirTemp("", "scpf")
	if err != nil {
		r.T.Fatal(err)
	}
	p := &postfix{r: r, dir: dir}
	r.T.Cleanup(func() { _ = os.RemoveAll(dir) })
	onFailure(r, "postfix", func() string { return read(r.T, p.path("log")) })
	for folder, owner := range map[string]int{"etc": 0, "queue": 0, "lib": uid(r.T, "postfix"), "mail": uid(r.T, "nobody"), "etc/sasl": 0} {
		if err := os.MkdirAll(p.path(folder), 0o755); err != nil {
			r.T.Fatal(err)
		}
		if err := os.Chown(p.path(folder), owner, -1); err != nil {
			r.T.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		r.T.Fatal(err)
	}
	r.CA.Issue(r.T, p.path("tls"), "smarthost", "smarthost.example")
	p.write("etc/main.cf", strings.NewReplacer("DIR", dir, "UID", strconv.Itoa(uid(r.T, "nobody"))).Replace(mainCF))
	p.write("etc/master.cf", ports(r, "postfix", masterCF))
	p.write("etc/sasl/smtpd.conf", "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: "+p.path("users")+"\nmech_list: PLAIN LOGIN CRAM-MD5\n")
	run(r.T, rig.SinkPassword, "saslpasswd2", "-p", "-c", "-f", p.path("users"), "-u", "smarthost.example", rig.SinkUser)
	if err := os.Chown(p.path("users"), uid(r.T, "postfix"), -1); err != nil {
		r.T.Fatal(err)
	}
	return p
}

func (p *postfix) path(elem ...string) string {
	return filepath.Join(append([]string{p.dir}, elem...)...)
}

func (p *postfix) write(name, content string) {
	p.r.T.Helper()
	if err := os.WriteFile(p.path(name), []byte(content), 0o644); err != nil {
		p.r.T.Fatal(err)
	}
}

// start implements smarthost. Postfix's master starts the rest.
func (p *postfix) start() {
	p.r.T.Helper()
	etc := p.path("etc")
	run(p.r.T, "", "postfix", "-c", etc, "check") // makes the queue's folders
	programs := strings.TrimSpace(run(p.r.T, "", "postconf", "-c", etc, "-h", "daemon_directory"))
	p.proc = p.r.StartForeign("postfix", filepath.Join(programs, "master"), "-c", etc, "-s")
	greets(p.r, p.proc, "postfix")
}

// stop implements smarthost.
func (p *postfix) stop() {
	p.r.T.Helper()
	if err := p.proc.Stop(10 * time.Second); err != nil && p.proc.Running() {
		p.r.T.Fatal(err)
	}
}

// received implements smarthost.
func (p *postfix) received(box string) []string {
	p.r.T.Helper()
	return maildir(p.r.T, p.path("mail", box))
}

// loggedIn implements smarthost.
func (p *postfix) loggedIn(mechanism string) bool {
	p.r.T.Helper()
	return strings.Contains(read(p.r.T, p.path("log")), "sasl_method="+mechanism+", sasl_username=relay-user@smarthost.example")
}

func TestPostfix(t *testing.T) {
	t.Parallel()
	r := relayTo(t, "postfix")
	testSmarthost(r, newPostfix(r), facts{
		mechanisms: []string{"PLAIN", "LOGIN", "CRAM-MD5"},
		unknown:    []string{"Status: 5.1.1", "550 5.1.1"},
		adds:       []string{"Return-Path: <alice@example.com>", "Delivered-To: BOX@example.net", "with ESMTPSA"},
	})
}
