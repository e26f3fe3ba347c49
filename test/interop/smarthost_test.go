//go:build interop

package interop

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// smarthost is a mail server of somebody else that the relay delivers to. It demands TLS and a login, takes up to
// 10,240,000 bytes, and knows the boxes plain, login and cram-md5 at example.net, and no others. It listens at the port
// of its name, and with implicit TLS at name-implicit.
type smarthost interface {
	// start starts it and waits until it greets.
	start()
	// stop ends it.
	stop()
	// received are the messages that lie in a box, with the line ends of the system.
	received(box string) []string
	// loggedIn says whether its log has a login by this mechanism.
	loggedIn(mechanism string) bool
}

// smarthostBody has one chain and route for each mechanism; MECHANISMS and NAME are filled in.
const smarthostBody = `
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
  plain: {smarthost: {address: "{{NAME}}", tls: required, server_name: smarthost.example, ca_file: pki/ca.pem, auth: {username: relay-user, password_file: secrets/smarthost, mechanisms: [PLAIN]}}}
  login: {smarthost: {address: "{{NAME-implicit}}", tls: implicit, server_name: smarthost.example, ca_file: pki/ca.pem, auth: {username: relay-user, password_file: secrets/smarthost, mechanisms: [LOGIN]}}}
  cram-md5: {smarthost: {address: "{{NAME-implicit}}", tls: implicit, server_name: smarthost.example, ca_file: pki/ca.pem, auth: {username: relay-user, password_file: secrets/smarthost, mechanisms: [CRAM-MD5]}}}
`

// relayTo is an installation that delivers example.net through the smarthost of that name, and reports into inbox.
func relayTo(t *testing.T, name string) *rig.Rig {
	t.Helper()
	r := rig.New(t, rig.Up)
	r.WriteFile("secrets/smarthost", rig.SinkPassword+"\n")
	r.Configure(strings.ReplaceAll(smarthostBody, "NAME", name))
	return r
}

// facts are what a smarthost is expected to do in its own way.
type facts struct {
	mechanisms []string
	// unknown is in the report about a recipient that it does not know.
	unknown []string
	// adds are in the header of what it stores.
	adds []string
}

// testSmarthost is what every smarthost is put through.
func testSmarthost(r *rig.Rig, h smarthost, f facts) {
	r.T.Helper()
	h.start()
	r.Start()
	s := &smarthostTest{r: r, h: h, f: f}
	for _, mechanism := range f.mechanisms {
		r.Run(mechanism, func(t *testing.T) { s.mechanism(t, mechanism) })
	}
	if r.T.Failed() {
		return // nothing gets through: the rest would wait for minutes
	}
	r.Run("large", s.large)
	r.Run("unknown recipient", s.unknownRecipient)
	r.Run("larger than it takes", s.tooLarge)
	r.Run("wrong password", s.wrongPassword)
	r.Run("away", s.away)
}

type smarthostTest struct {
	r *rig.Rig
	h smarthost
	f facts
}

// reports are what was sent to alice about her mail.
func (s *smarthostTest) reports() []string { return maildir(s.r.T, s.r.Path("inbox")) }

// send sends a message to a box and waits until it lies there.
func (s *smarthostTest) send(box, subject, raw string) (stored string) {
	s.r.T.Helper()
	s.r.MustSend("alice@example.com", []string{box + "@example.net"}, raw)
	return s.stored(box, subject)
}

// stored waits for the one message in a box that has this subject.
func (s *smarthostTest) stored(box, subject string) string {
	s.r.T.Helper()
	var found []string
	s.r.Eventually(subject+" lies in the box", 30*time.Second, func() bool {
		found = slices.DeleteFunc(s.h.received(box), func(m string) bool { return !strings.Contains(m, "\nSubject: "+subject+"\n") })
		return len(found) > 0
	})
	if len(found) != 1 {
		s.r.T.Errorf("%d copies of %q", len(found), subject)
	}
	return found[0]
}

func (s *smarthostTest) mechanism(t *testing.T, mechanism string) {
	box := strings.ToLower(mechanism)
	raw := plain("by "+mechanism, text)
	head, body, _ := strings.Cut(s.send(box, "by "+mechanism, raw), "\n\n")
	if crlf(body) != textOf([]byte(raw)) {
		t.Errorf("the text has changed:\n%q", body)
	}
	for _, want := range append([]string{"by relay.example.com (Stagecoach)", "\nMessage-ID: <by." + mechanism + "@example.com>"}, s.f.adds...) {
		if want = strings.ReplaceAll(want, "BOX", box); !strings.Contains(head, want) {
			t.Errorf("no %q in\n%s", want, head)
		}
	}
	if !s.h.loggedIn(mechanism) {
		t.Errorf("it knows of no login by %s", mechanism)
	}
}

func (s *smarthostTest) large(t *testing.T) {
	raw := withAttachment("large", "noise.bin", noise(5<<20))
	if _, body, _ := strings.Cut(s.send("plain", "large", raw), "\n\n"); crlf(body) != textOf([]byte(raw)) {
		t.Error("the body has changed")
	}
}

func (s *smarthostTest) unknownRecipient(t *testing.T) {
	before := len(s.reports())
	id := s.r.MustSend("alice@example.com", []string{"plain@example.net", "nobody@example.net"}, plain("one of two", "Good morning.\n"))
	s.stored("plain", "one of two")
	s.r.Eventually("the sender has a report", 20*time.Second, func() bool { return len(s.reports()) == before+1 })
	report := s.reports()[before]
	for _, want := range append([]string{"Return-Path: <>", "Final-Recipient: rfc822; nobody@example.net", id}, s.f.unknown...) {
		if !strings.Contains(report, want) {
			t.Errorf("no %q in\n%s", want, report)
		}
	}
	if strings.Contains(report, "Final-Recipient: rfc822; plain@") {
		t.Errorf("a report about who has it:\n%s", report)
	}
}

func (s *smarthostTest) tooLarge(t *testing.T) {
	before := len(s.reports())
	s.r.MustSend("alice@example.com", []string{"plain@example.net"}, withAttachment("too large", "noise.bin", noise(9<<20)))
	s.r.Eventually("the sender has a report", 20*time.Second, func() bool { return len(s.reports()) == before+1 })
	if all := strings.Join(s.reports(), ""); !strings.Contains(all, "Status: 5.3.4") {
		t.Errorf("no 5.3.4 in\n%s", all)
	}
}

func (s *smarthostTest) wrongPassword(t *testing.T) {
	r, before := s.r, len(s.reports())
	if err := r.Proc("up").Stop(30 * time.Second); err != nil { // what is logged in stays so
		t.Fatal(err)
	}
	r.WriteFile("secrets/smarthost", "wrong horse\n")
	r.Start()
	id := r.MustSend("alice@example.com", []string{"plain@example.net"}, plain("patience", "Good morning.\n"))
	r.Eventually("it waits for the route", 30*time.Second, func() bool { return inRoom(r, "park", id) != nil })
	if last := inRoom(r, "park", id).GetGroups()[0].GetLast(); last.GetAbout() != "plain" || last.GetConcern().String() != "CONCERN_ROUTE" {
		t.Errorf("it waits for %v", last)
	}
	if !logged(r, "up", "level=ERROR", "name=plain", "535") {
		t.Error("no error in the log names the route and the reply")
	}
	r.WriteFile("secrets/smarthost", rig.SinkPassword+"\n")
	s.stored("plain", "patience")
	r.Eventually("nothing waits", 10*time.Second, func() bool { return len(r.InRoom("")) == 0 })
	if n := len(s.reports()); n != before {
		t.Errorf("%d reports", n-before)
	}
}

func (s *smarthostTest) away(*testing.T) {
	s.h.stop()
	id := s.r.MustSend("alice@example.com", []string{"plain@example.net"}, plain("while it is away", "Good morning.\n"))
	s.r.Eventually("it waits for the route", 15*time.Second, func() bool { return inRoom(s.r, "park", id) != nil })
	s.h.start()
	s.stored("plain", "while it is away")
}

// onFailure shows the log of a peer when the test has failed.
func onFailure(r *rig.Rig, name string, log func() string) {
	r.T.Cleanup(func() {
		if r.T.Failed() {
			lines := strings.SplitAfter(log(), "\n")
			r.T.Logf("%s:\n%s", name, strings.Join(lines[max(0, len(lines)-100):], ""))
		}
	})
}

// ports fills in {{name}} and {{name-implicit}} in the configuration of a peer.
func ports(r *rig.Rig, name, conf string) string {
	return strings.NewReplacer("{{"+name+"}}", fmt.Sprint(r.Port(name)), "{{"+name+"-implicit}}", fmt.Sprint(r.Port(name+"-implicit"))).Replace(conf)
}
