package faults

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// body is the configuration: all stages for most, and a chain without disclaimer and archive for some.
const body = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
stages:
  antivirus: {address: "{{antivirus}}", timeout: 20s, config: {}}
  footer: {type: disclaimer, address: "{{disclaimer}}", config: {text: "` + footer + `"}}
  archive: {address: "{{archive}}", config: {}}
  signer: {address: "{{signer}}", config: {must_sign: [example.com]}}
chains:
  - name: inbound
    match: {direction: [inbound, internal]}
    stages: [antivirus]
    deliver: inbox
  - name: short
    match: {direction: outbound, recipients: ["*@short.example"]}
    stages: [antivirus, signer]
    deliver: provider
  - name: outbound
    match: {direction: outbound}
    stages: [antivirus, footer, archive, signer]
    deliver: provider
routes:
  provider: ROUTE
  inbox: {maildir: {path: inbox}}
`

const footer = "Example Ltd, registered in Exampleton."

// Who the clients write to.
var (
	one   = []string{"bob@example.net"}
	two   = []string{"carol@example.org", "dave@example.net"}
	both  = []string{"erin@example.org", "frank@short.example"} // by two chains
	short = []string{"grace@short.example"}
)

// installation is a running one with its load.
type installation struct {
	*rig.Rig
	sink    *rig.Sink
	load    *load
	waiting map[string]adminv1.QueueServiceClient
}

// install starts an installation, of a build with these tags.
func install(t *testing.T, mode rig.Mode, tags string, instances ...string) *installation {
	t.Helper()
	r := rig.New(t, mode)
	r.Tags = tags
	if len(instances) > 0 {
		r.Instances = instances
	}
	sink := r.NewSink("smarthost")
	sink.Keep(digest)
	sink.OnBody(func(string) error { // another host takes a moment, too
		<-time.After(rand.N(20 * time.Millisecond))
		return nil
	})
	if _, err := signer.WriteKeys(r.Path("data", "keys"), "example.com", "test"); err != nil {
		t.Fatal(err)
	}
	r.Configure(strings.Replace(body, "ROUTE", sink.Route(), 1))
	r.Start()
	in := &installation{Rig: r, sink: sink, load: newLoad(t), waiting: map[string]adminv1.QueueServiceClient{}}
	for _, name := range r.Instances {
		in.waiting[name] = r.Queue(name)
	}
	return in
}

var subject = regexp.MustCompile(`(?m)^Subject: load (\S+)\r$`)

// digest is what the sink keeps of a message: its token, and what is wrong with it.
func digest(raw []byte) []byte {
	m := subject.FindSubmatch(raw)
	if m == nil {
		return []byte("? no token")
	}
	token := string(m[1])
	wrong := ""
	if !bytes.Contains(raw, append([]byte("\r\n\r\n"), payload(token)...)) {
		wrong = "the body is not as it was sent"
	}
	if n := bytes.Count(raw, []byte("DKIM-Signature:")); n != 2 {
		wrong += fmt.Sprintf(" %d signatures", n)
	}
	if n := bytes.Count(raw, []byte(footer)); n > 1 {
		wrong += fmt.Sprintf(" %d footers", n)
	}
	return []byte(token + " " + wrong)
}

// arrivals are the copies at the sink, one for each recipient.
func (in *installation) arrivals() []arrival {
	var out []arrival
	for _, d := range in.sink.Deliveries() {
		token, damage, _ := strings.Cut(string(d.Raw), " ")
		for _, to := range d.To {
			out = append(out, arrival{token: token, id: d.ID, to: to, dot: d.Dot, answered: d.Answered, damage: damage})
		}
	}
	return out
}

// missing counts what was accepted and has not arrived.
func (in *installation) missing() int {
	type key struct{ id, to string }
	there := map[key]bool{}
	for _, a := range in.arrivals() {
		there[key{a.id, a.to}] = true
	}
	sent, _, _ := in.load.seen()
	n := 0
	for _, s := range sent {
		for _, to := range s.to {
			if s.outcome == acked && !there[key{s.id, to}] {
				n++
			}
		}
	}
	return n
}

var took = regexp.MustCompile(`took the shard over.* run=(\d+) waiting=(\d+)`)

// rest restarts each ingress in good order and sees that its log holds nothing any more: whatever was under way has
// had its fate.
func (in *installation) rest() {
	in.T.Helper()
	for _, name := range in.Names() {
		if name != "up" && !strings.HasPrefix(name, "ingress-") {
			continue
		}
		if err := in.Proc(name).Stop(45 * time.Second); err != nil {
			in.T.Errorf("%s: %v", name, err)
		}
		before := len(in.log(name))
		in.StartProc(name)
		in.Eventually(name+" takes its shard over", 30*time.Second, func() bool { return took.Match(in.log(name)[before:]) })
		if m := took.FindSubmatch(in.log(name)[before:]); string(m[1]) != "0" || string(m[2]) != "0" {
			in.T.Errorf("%s: when all had settled, the log still held %s messages to run and %s that wait", name, m[1], m[2])
		}
	}
}

func (in *installation) log(name string) []byte {
	b, err := os.ReadFile(in.Path(name + ".log"))
	if err != nil {
		in.T.Fatal(err)
	}
	return b
}

// judge compares, reports the figures, and gives the violations.
func (in *installation) judge() []violation {
	sent, faults, deferrals := in.load.seen()
	got := in.arrivals()
	found := violations(sent, got, faults)
	for _, s := range sent {
		if s.outcome == refused && s.reply[0] == '5' {
			found = append(found, violation{"refused for good", s.token + ": " + s.reply})
		}
	}
	for _, d := range deferrals {
		if d.code >= 500 {
			found = append(found, violation{"refused for good", fmt.Sprintf("%s: %d at %s", d.verb, d.code, clock(d.at))})
		}
	}
	copies, open := 0, 0
	seen := map[string]bool{}
	for _, a := range got {
		if slices.ContainsFunc(faults, func(f fault) bool { return f.excuses(a, faults) }) {
			open++
		}
		if k := a.id + " " + a.to; seen[k] {
			copies++
		} else {
			seen[k] = true
		}
	}
	in.T.Logf("%d faults; %d messages: %d acknowledged, %d refused, %d unanswered, %d cut; %d deferred before DATA; %d arrivals, %d of them second copies, %d with a fault in their window; %d violations",
		len(faults), len(sent), count(sent, acked), count(sent, refused), count(sent, unanswered), count(sent, unsent), len(deferrals), len(got), copies, open, len(found))
	return found
}

// clean fails the test for each violation; everything must have settled.
func (in *installation) clean() {
	in.T.Helper()
	in.rest()
	for i, v := range in.judge() {
		if i == 20 {
			in.T.Error("... and more")
			break
		}
		in.T.Error(v)
	}
}
