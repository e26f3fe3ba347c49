//go:build interop

package interop

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

const postfixBody = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
chains:
  - {name: inbound, match: {direction: [inbound, internal]}, stages: [], deliver: inbox}
  - {name: login, match: {recipients: "login@example.net"}, stages: [], deliver: login}
  - {name: cram-md5, match: {recipients: "cram-md5@example.net"}, stages: [], deliver: cram-md5}
  - {name: outbound, match: {direction: outbound}, stages: [], deliver: plain}
routes:
  inbox: {maildir: {path: inbox}}
  plain: {smarthost: {address: "{{postfix}}", tls: required, server_name: smarthost.example, ca_file: pki/ca.pem, auth: {username: relay-user, password_file: secrets/smarthost, mechanisms: [PLAIN]}}}
  login: {smarthost: {address: "{{postfix}}", tls: required, server_name: smarthost.example, ca_file: pki/ca.pem, auth: {username: relay-user, password_file: secrets/smarthost, mechanisms: [LOGIN]}}}
  cram-md5: {smarthost: {address: "{{postfix-implicit}}", tls: implicit, server_name: smarthost.example, ca_file: pki/ca.pem, auth: {username: relay-user, password_file: secrets/smarthost, mechanisms: [CRAM-MD5]}}}
`

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
virtual_mailbox_maps = inline:{ bob@example.net=bob/, login@example.net=login/, cram-md5@example.net=cram-md5/ }
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
	if os.Getuid() != 0 {
		r.T.Fatal("Postfix runs as root only; so does this test")
	}
	dir, err := os.MkdirTemp("", "scpf")
	if err != nil {
		r.T.Fatal(err)
	}
	p := &postfix{r: r, dir: dir}
	r.T.Cleanup(func() {
		if r.T.Failed() {
			log, _ := os.ReadFile(p.path("log"))
			r.T.Logf("postfix:\n%s", log)
		}
		_ = os.RemoveAll(dir)
	})
	uid := func(name string) int {
		u, err := user.Lookup(name)
		if err != nil {
			r.T.Fatal(err)
		}
		n, err := strconv.Atoi(u.Uid)
		if err != nil {
			r.T.Fatal(err)
		}
		return n
	}
	for folder, owner := range map[string]int{"etc": 0, "queue": 0, "lib": uid("postfix"), "mail": uid("nobody"), "etc/sasl": 0} {
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
	p.write("etc/main.cf", strings.NewReplacer("DIR", dir, "UID", strconv.Itoa(uid("nobody"))).Replace(mainCF))
	p.write("etc/master.cf", strings.NewReplacer("{{postfix}}", strconv.Itoa(r.Port("postfix")), "{{postfix-implicit}}", strconv.Itoa(r.Port("postfix-implicit"))).Replace(masterCF))
	p.write("etc/sasl/smtpd.conf", "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: "+p.path("users")+"\nmech_list: PLAIN LOGIN CRAM-MD5\n")
	run(r.T, rig.SinkPassword, "saslpasswd2", "-p", "-c", "-f", p.path("users"), "-u", "smarthost.example", rig.SinkUser)
	if err := os.Chown(p.path("users"), uid("postfix"), -1); err != nil {
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

// start starts Postfix's master, which starts the rest, and waits until it greets.
func (p *postfix) start() {
	p.r.T.Helper()
	etc := p.path("etc")
	run(p.r.T, "", "postfix", "-c", etc, "check") // makes the queue's folders
	programs := strings.TrimSpace(run(p.r.T, "", "postconf", "-c", etc, "-h", "daemon_directory"))
	p.proc = p.r.StartForeign("postfix", filepath.Join(programs, "master"), "-c", etc, "-s")
	p.r.Eventually("postfix answers", 15*time.Second, func() bool {
		if !p.proc.Running() {
			p.r.T.Fatal("postfix has ended")
		}
		_, err := rig.Send(p.r.Addr("postfix"), "a@example.com", []string{"nobody@example.org"}, "")
		return err != nil && strings.Contains(err.Error(), "STARTTLS")
	})
}

// mail is what lies in a maildir.
func (p *postfix) mail(name string) []string {
	p.r.T.Helper()
	return maildir(p.r.T, p.path("mail", name))
}

// maildir reads the new messages of a maildir.
func maildir(t testing.TB, path string) (mail []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(path, "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		mail = append(mail, string(b))
	}
	return mail
}

func TestPostfix(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Up)
	p := newPostfix(r)
	r.WriteFile("secrets/smarthost", rig.SinkPassword+"\n")
	r.Configure(postfixBody)
	p.start()
	r.Start()

	for name, mechanism := range map[string]string{"bob": "PLAIN", "login": "LOGIN", "cram-md5": "CRAM-MD5"} {
		r.Run(mechanism, func(t *testing.T) {
			raw := plain("to "+name, text)
			r.MustSend("alice@example.com", []string{name + "@example.net"}, raw)
			r.Eventually("it lies in the maildir", 20*time.Second, func() bool { return len(p.mail(name)) > 0 })
			got := p.mail(name)
			if len(got) != 1 {
				t.Fatalf("%d messages", len(got))
			}
			head, body, _ := strings.Cut(got[0], "\n\n") // Postfix keeps mail with the line ends of the system
			if crlf(body) != textOf([]byte(raw)) {
				t.Errorf("the text has changed:\n%q", body)
			}
			for _, want := range []string{"Return-Path: <alice@example.com>", "Delivered-To: " + name + "@example.net", "with ESMTPSA", "by relay.example.com (Stagecoach)"} {
				if !strings.Contains(head, want) {
					t.Errorf("no %q in\n%s", want, head)
				}
			}
			if log, err := os.ReadFile(p.path("log")); err != nil || !strings.Contains(string(log), "sasl_method="+mechanism+", sasl_username=relay-user@smarthost.example") {
				t.Errorf("Postfix knows of no login by %s: %v", mechanism, err)
			}
		})
	}
	r.Run("large", func(t *testing.T) {
		raw := withAttachment("large", "noise.bin", noise(5<<20))
		before := len(p.mail("bob"))
		r.MustSend("alice@example.com", []string{"bob@example.net"}, raw)
		r.Eventually("it lies in the maildir", 20*time.Second, func() bool { return len(p.mail("bob")) > before })
		for _, m := range p.mail("bob") {
			if strings.Contains(m, "\nSubject: large\n") {
				if _, body, _ := strings.Cut(m, "\n\n"); crlf(body) != textOf([]byte(raw)) {
					t.Error("the body has changed")
				}
				return
			}
		}
		t.Error("it is not there")
	})
	r.Run("unknown recipient", func(t *testing.T) {
		before := len(p.mail("bob"))
		id := r.MustSend("alice@example.com", []string{"bob@example.net", "nobody@example.net"}, plain("one of two", "Good morning.\n"))
		r.Eventually("the other one has it, the sender a report", 20*time.Second, func() bool { return len(p.mail("bob")) == before+1 && len(maildir(t, r.Path("inbox"))) == 1 })
		report := maildir(t, r.Path("inbox"))[0]
		for _, want := range []string{"Return-Path: <>", "nobody@example.net", "Status: 5.1.1", "550 5.1.1", id} {
			if !strings.Contains(report, want) {
				t.Errorf("no %q in\n%s", want, report)
			}
		}
		if strings.Contains(report, "Final-Recipient: rfc822; bob@") {
			t.Errorf("a report about who has it:\n%s", report)
		}
	})
	r.Run("larger than it takes", func(t *testing.T) {
		r.MustSend("alice@example.com", []string{"bob@example.net"}, withAttachment("too large", "noise.bin", noise(9<<20))) // Postfix: 10,240,000
		r.Eventually("the sender is told", 20*time.Second, func() bool { return len(maildir(t, r.Path("inbox"))) == 2 })
		if all := strings.Join(maildir(t, r.Path("inbox")), ""); !strings.Contains(all, "Status: 5.3.4") {
			t.Errorf("no 5.3.4 in\n%s", all)
		}
	})
	r.Run("wrong password", func(t *testing.T) {
		if err := r.Proc("up").Stop(30 * time.Second); err != nil { // what is logged in stays so
			t.Fatal(err)
		}
		r.WriteFile("secrets/smarthost", "wrong horse\n")
		r.Start()
		before := len(p.mail("bob"))
		id := r.MustSend("alice@example.com", []string{"bob@example.net"}, plain("patience", "Good morning.\n"))
		r.Eventually("it waits for the route", 15*time.Second, func() bool { return inRoom(r, "park", id) != nil })
		if last := inRoom(r, "park", id).GetGroups()[0].GetLast(); last.GetAbout() != "plain" || last.GetConcern().String() != "CONCERN_ROUTE" {
			t.Errorf("it waits for %v", last)
		}
		if !logged(r, "up", "level=ERROR", "name=plain", "535") {
			t.Error("no error in the log names the route and the reply")
		}
		r.WriteFile("secrets/smarthost", rig.SinkPassword+"\n")
		r.Eventually("it lies in the maildir", 30*time.Second, func() bool { return len(p.mail("bob")) == before+1 && len(r.InRoom("")) == 0 })
		if n := len(maildir(t, r.Path("inbox"))); n != 2 {
			t.Errorf("%d reports", n-2)
		}
	})
	r.Run("Postfix is away", func(t *testing.T) {
		before := len(p.mail("bob"))
		if err := p.proc.Stop(10 * time.Second); err != nil && p.proc.Running() {
			t.Fatal(err)
		}
		id := r.MustSend("alice@example.com", []string{"bob@example.net"}, plain("while it is away", "Good morning.\n"))
		r.Eventually("it waits for the route", 15*time.Second, func() bool { return inRoom(r, "park", id) != nil })
		p.start()
		r.Eventually("it lies in the maildir", 30*time.Second, func() bool { return len(p.mail("bob")) == before+1 })
	})
}
