//go:build interop

package interop

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

const fail2banBody = `
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

// Who talks to the relay; each has an address of loopback's own network. The victims talk to nobody.
const (
	guesser = "127.0.0.21" // fails to log in
	abuser  = "127.0.0.22" // tries to relay
	forger  = "127.0.0.23" // writes other addresses into whatever is logged of it
	alice   = "127.0.0.31" // logs in and sends
	sender  = "127.0.0.32" // a stranger who sends mail for us, and once to an address that is not there
	victim  = "198.51.100.7"
	former  = "198.51.100.8" // did what guesser does, but yesterday
)

// forgeries are what somebody writes where the log repeats him, so that somebody else is banned.
func forgeries() []string {
	line := "time=" + time.Now().UTC().Format("2006-01-02T15:04:05.000Z") + ` level=WARN msg="auth failed" listener=submission client=` + victim + " user=x"
	return []string{
		"client=" + victim,
		"x client=" + victim + " user=y",
		`x" client=` + victim + ` user="y`,
		`x\" client=` + victim + ` user="y`,
		"x\n" + line,
		"x\r\n" + line + "\r\n",
		"x\u2028" + line,
		"x\x00\n" + line,
		"x\x1b[2K\r" + line,
		line,
		"\xff\xfe\n" + line,
		"host stagecoach[1]: " + line,
		strings.Repeat("x", 400) + "\n" + line,
	}
}

// dialogue speaks SMTP from an address, line by line, and gives the replies. What the server ends is at its end.
func dialogue(t testing.TB, from, to string, lines ...string) (replies string) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", to)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 64<<10)
	for i := range len(lines) + 1 {
		n, err := c.Read(b)
		if err != nil {
			return replies
		}
		replies += string(b[:n])
		if i < len(lines) {
			if _, err := c.Write([]byte(lines[i] + "\r\n")); err != nil {
				return replies
			}
		}
	}
	return replies
}

// misbehave has everybody talk to a relay, whose log is then up.log.
func misbehave(t *testing.T) *rig.Rig {
	t.Helper()
	need(t, "swaks")
	r := rig.New(t, rig.Up)
	sink := r.NewSink("smarthost")
	r.CA.Issue(t, r.Path("tls"), "relay", "localhost")
	r.WriteFile("users.yaml", users)
	r.WriteFile("recipients", "bob@example.com\n")
	r.Ingress = "  certificate: {file: tls/relay.pem, key_file: tls/relay-key.pem}\n  users_file: users.yaml\n"
	r.Listeners = `    - {name: submission, address: "{{submission}}", tls: starttls}` + "\n"
	r.Configure(strings.NewReplacer("ROUTE", sink.Route(), "recipients: any", "recipients: {file: recipients}").Replace(fail2banBody))
	r.Start()
	port := fmt.Sprint(r.Port("submission"))
	swaks := func(who, to, user, password string, more ...string) {
		args := []string{"--server", "127.0.0.1", "--port", port, "--local-interface", who, "--from", "alice@example.com", "--to", to, "--timeout", "20"}
		if user != "" {
			args = append(args, "--tls", "--auth", "PLAIN", "--auth-user", user, "--auth-password", password)
		}
		_, _ = try(t, "", "swaks", append(args, more...)...) // most are refused
	}
	swaks(guesser, "bob@example.net", "alice", "open barley")
	swaks(guesser, "bob@example.net", "alice", "open barley", "--auth", "LOGIN")
	swaks(guesser, "bob@example.net", "nobody", "open barley")
	for range 3 {
		swaks(abuser, "bob@example.net", "", "")
		swaks(alice, "bob@example.net", "alice", password)
		swaks(sender, "bob@example.com", "", "")
	}
	swaks(sender, "nobody@example.com", "", "")
	var wg sync.WaitGroup
	for _, f := range forgeries() {
		wg.Go(func() { forge(t, r, f) })
	}
	wg.Wait()
	r.Eventually("everything is logged", 10*time.Second, func() bool {
		return logged(r, "up", "client="+forger, "auth failed") && logged(r, "up", "client="+sender, "no such recipient")
	})
	log := read(t, r.Path("up.log"))
	if !strings.Contains(log, "\" client="+victim) || !strings.Contains(log, "helo=\"client="+victim) || strings.Count(log, `msg="auth ok" listener=submission client=`+alice) != 3 || strings.Count(log, "client="+sender) < 4 {
		t.Fatal("nobody wrote what this test is about")
	}
	return r
}

// forge writes one forgery wherever a client's text may be logged.
func forge(t testing.TB, r *rig.Rig, f string) {
	t.Helper()
	submission, plain := r.Addr("submission"), base64.StdEncoding.EncodeToString
	_, _ = try(t, "", "swaks", "--server", submission, "--local-interface", forger, "--from", "alice@example.com", "--to", "bob@example.net", "--timeout", "20",
		"--tls", "--auth", "PLAIN", "--auth-user", strings.ReplaceAll(f, "\x00", ""), "--auth-password", "x")
	dialogue(t, forger, submission, "EHLO "+f, "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>", "QUIT")
	dialogue(t, forger, submission, "EHLO x", "MAIL FROM:<\""+f+"\"@example.org>", "RCPT TO:<\""+f+"\"@example.net>", "RCPT TO:<b@example.net>", "QUIT")
	dialogue(t, forger, submission, "HELO "+f, "MAIL FROM:<a@example.org>", "RCPT TO:<bob@example.com>", "DATA", "Subject: accepted from "+f+"\r\n\r\n.", "QUIT")
	dialogue(t, forger, submission, "EHLO x", f, "AUTH PLAIN "+plain([]byte("\x00"+f+"\x00x")), "QUIT")
	dialogue(t, forger, submission, f)
}

// matches runs fail2ban-regex with a filter or an expression, and gives how often it matches each address.
func matches(t *testing.T, filter, log string, more ...string) map[string]int {
	t.Helper()
	out := run(t, "", "fail2ban-regex", append(append([]string{"-o", "ip"}, more...), log, filter)...)
	found := map[string]int{}
	for ip := range strings.FieldsSeq(out) {
		found[ip]++
	}
	return found
}

// shipped is the path of a file for Fail2Ban that we ship.
func shipped(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "deploy", "fail2ban", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFail2ban reads the log of a real run with the filter and the jail that we ship: who has earned it is banned, and
// nobody else.
func TestFail2ban(t *testing.T) {
	t.Parallel()
	need(t, "fail2ban-regex", "fail2ban-server", "fail2ban-client")
	r := misbehave(t)
	log, ours := r.Path("up.log"), shipped(t, "filter.d/stagecoach.conf")
	check := func(t *testing.T, found map[string]int) {
		t.Helper()
		if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, []string{guesser, abuser, forger}) {
			t.Errorf("it finds %v", found)
		}
		if found[guesser] != 3 || found[abuser] != 3 {
			t.Errorf("%d failed logins and %d attempts to relay, there were 3 each", found[guesser], found[abuser])
		}
	}
	r.Run("a careless filter", func(t *testing.T) {
		if found := matches(t, `level=WARN .*client=<ADDR>`, log); found[victim] == 0 {
			t.Errorf("not even this falls for the forgeries: %v", found)
		}
	})
	r.Run("file", func(t *testing.T) { check(t, matches(t, ours, log)) })
	r.Run("journal", func(t *testing.T) {
		check(t, matches(t, ours, "systemd-journal[journalfiles="+journalOf(r, read(t, log))+"]", "--journalmatch", "_SYSTEMD_UNIT=stagecoach.service"))
	})
	r.Run("jail", func(t *testing.T) {
		etc := fail2banConfig(r)
		said := run(t, "", "fail2ban-client", "-c", etc, "-d")
		for _, want := range []string{"['add', 'stagecoach', 'systemd']", "['set', 'stagecoach', 'addjournalmatch', '_SYSTEMD_UNIT=stagecoach.service']", "['set', 'stagecoach', 'maxretry', 5]"} {
			if !strings.Contains(said, want) {
				t.Errorf("no %s in\n%s", want, said)
			}
		}
	})
	r.Run("server", func(t *testing.T) { fail2banServer(t, r, log) })
}

// journalOf makes a journal as stagecoach.service would have written it, and gives its path.
func journalOf(r *rig.Rig, log string) string {
	r.T.Helper()
	o := newRoot(r, "journal")
	var export strings.Builder
	for line := range strings.Lines(log) {
		at := time.Now().UnixMicro()
		fmt.Fprintf(&export, "__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=%d\n_BOOT_ID=0123456789abcdef0123456789abcdef\n_HOSTNAME=relay\nSYSLOG_IDENTIFIER=stagecoach\n_PID=4711\n_SYSTEMD_UNIT=stagecoach.service\nMESSAGE=%s\n\n",
			at, at, strings.TrimSuffix(line, "\n"))
	}
	o.write("export", export.String())
	o.run("/usr/lib/systemd/systemd-journal-remote", "--split-mode=none", "--output=/relay.journal", "/export")
	return o.path("relay.journal")
}

// fail2banConfig is Debian's configuration with our filter and jail in it, and no other jail.
func fail2banConfig(r *rig.Rig) string {
	r.T.Helper()
	etc := r.Path("fail2ban")
	run(r.T, "", "cp", "-a", "/etc/fail2ban", etc)
	run(r.T, "", "rm", "-rf", filepath.Join(etc, "jail.d"), filepath.Join(etc, "jail.local"))
	for _, name := range []string{"filter.d/stagecoach.conf", "jail.d/stagecoach.conf"} {
		r.WriteFile("fail2ban/"+name, read(r.T, shipped(r.T, name)))
	}
	return etc
}

// fail2banServer has a real server, with our jail, read the log as it grows; instead of a firewall it has a file.
func fail2banServer(t *testing.T, r *rig.Rig, log string) {
	etc, file, bans := r.Path("fail2ban"), r.Path("growing.log"), r.Path("bans")
	r.WriteFile("growing.log", "")
	r.WriteFile("bans", "")
	r.WriteFile("fail2ban/action.d/record.conf", "[Definition]\nactionban = echo <ip> >>"+bans+"\nactionunban =\n")
	r.WriteFile("fail2ban/fail2ban.local", "[Definition]\ndbfile = None\nlogtarget = STDOUT\n")
	r.WriteFile("fail2ban/jail.d/test.local", "[stagecoach]\nbackend = polling\nlogpath = "+file+"\nmaxretry = 3\nignoreself = false\naction = record\n")
	p := r.StartForeign("fail2ban-server", "fail2ban-server", "-f", "-c", etc, "-s", r.Path("f2b.sock"), "-p", r.Path("f2b.pid"))
	r.Eventually("fail2ban watches", 20*time.Second, func() bool {
		if !p.Running() {
			t.Fatal("fail2ban-server has ended")
		}
		return logged(r, "fail2ban-server", "Jail 'stagecoach' started")
	})
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	yesterday := "time=" + time.Now().Add(-24*time.Hour).UTC().Format("2006-01-02T15:04:05.000Z")
	for line := range strings.Lines(read(t, log)) {
		if who := "client=" + guesser; strings.Contains(line, who) {
			_, rest, _ := strings.Cut(line, " ")
			if _, err := f.WriteString(yesterday + " " + strings.ReplaceAll(rest, who, "client="+former)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := f.WriteString(read(t, log)); err != nil {
		t.Fatal(err)
	}
	want := []string{guesser, abuser, forger}
	var got []string
	r.Eventually("they are banned", 20*time.Second, func() bool {
		got = strings.Fields(read(t, bans))
		slices.Sort(got)
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		t.Errorf("it bans %v", got)
	}
}
