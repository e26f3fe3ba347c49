package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/archive"
	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// changing is a configuration with a chain for each domain of recipients; what stands in STAGES and CHAINS changes.
const changing = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
stages:
  antivirus: {config: {}}
  footer: {type: disclaimer, config: {text: "The footer.", html: "<p>The footer.</p>"}}
  archive: {config: {}}
  signer: {config: {must_sign: [example.com]}}
STAGES
chains:
  - {name: inbound, match: {direction: [inbound, internal]}, stages: [antivirus], deliver: inbox}
CHAINS
routes:
ROUTES
  inbox: {maildir: {path: inbox}}
`

// outbound is a chain for the recipients of a domain; it has a route of its own.
func outbound(name, domain, stages string) string {
	return fmt.Sprintf("  - {name: %s, match: {direction: outbound, recipients: [\"*@%s.example\"]}, stages: [%s], deliver: %s}\n", name, domain, stages, domain)
}

// What waits goes on by the configuration of the time when it goes on: what is done is not done again, and what was
// not done is.
func TestConfigurationChangesUnderWaitingMail(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Up)
	sink := r.NewSink("smarthost")
	if _, err := signer.WriteKeys(r.Path("data", "keys"), "example.com", "test"); err != nil {
		t.Fatal(err)
	}
	r.WriteFile("secrets/smarthost", "wrong\n") // so that everything waits behind all of its stages
	r.WriteFile("secrets/other", rig.SinkPassword+"\n")
	names := []string{"renamed", "inserted", "scanned", "moved", "gone", "hop"}
	var routes strings.Builder
	for _, name := range names[:5] {
		fmt.Fprintf(&routes, "  %s: %s\n", name, sink.Route())
	}
	fmt.Fprintf(&routes, "  hop: %s", strings.Replace(sink.Route(), "secrets/smarthost", "secrets/other", 1))
	revision := func(stages string, chains ...string) {
		r.Configure(strings.NewReplacer("STAGES", stages, "CHAINS", strings.Join(chains, ""), "ROUTES", routes.String()).Replace(changing))
	}
	all := "antivirus, footer, archive, signer"
	revision(`  scan: {type: antivirus, config: {clamd: "tcp://{{clamd}}"}}`,
		outbound("renamed", "renamed", all), outbound("inserted", "inserted", all), outbound("scanned", "scanned", all),
		outbound("moved", "moved", all), outbound("gone", "gone", all),
		outbound("hop", "hop", "antivirus, footer, scan, archive, signer"))
	r.Start()
	ids := map[string]string{}
	for _, name := range names {
		ids[name] = r.MustSend("alice@example.com", []string{"bob@" + name + ".example"}, threeParts)
	}
	r.Eventually("everything waits", 10*time.Second, func() bool { return len(r.InRoom("")) == len(ids) })
	for _, w := range r.InRoom("") {
		var done []string
		for _, h := range w.GetGroups()[0].GetDone() {
			done = append(done, h.GetInstance())
		}
		want := all
		if w.GetId() == ids["hop"] {
			want = "antivirus, footer"
		}
		if got := strings.Join(done, ", "); got != want {
			t.Errorf("%s waits with %s done, want %s", w.GetGroups()[0].GetChain(), got, want)
		}
	}

	revision(`  footer-de: {type: disclaimer, config: {text: "The footer.", html: "<p>The footer.</p>"}}
  notice: {type: disclaimer, config: {text: "The notice.", html: "<p>The notice.</p>"}}
  strict: {type: antivirus, config: {blocked_names: ["data.bin"]}}
  scan: {type: antivirus, config: {}}`,
		outbound("renamed", "renamed", "antivirus, footer-de, archive, signer"),
		outbound("inserted", "inserted", "antivirus, notice, footer, archive, signer"),
		outbound("scanned", "scanned", "antivirus, strict, footer, archive, signer"),
		outbound("elsewhere", "moved", "antivirus, archive, signer"),
		outbound("hop", "hop", "antivirus, footer, scan, archive, signer"))
	r.Eventually("the new revision is in force", 15*time.Second, func() bool { return logged(r, "up", "a new revision is in force") })
	r.WriteFile("secrets/smarthost", rig.SinkPassword+"\n")
	for name, want := range map[string]struct{ footer, notice, versions int }{"renamed": {2, 0, 1}, "inserted": {2, 2, 2}, "moved": {0, 0, 2}, "hop": {2, 0, 1}} {
		r.Run(name, func(t *testing.T) {
			d := sink.Wait(ids[name], 20*time.Second)
			if n := bytes.Count(d.Raw, []byte("The footer.")); n != want.footer {
				t.Errorf("the footer stands %d times, want %d", n, want.footer)
			}
			if n := bytes.Count(d.Raw, []byte("The notice.")); n != want.notice {
				t.Errorf("the notice stands %d times, want %d", n, want.notice)
			}
			checkSigned(t, r, d.Raw)
			checkVersions(t, r, ids[name], d.Raw, want.versions)
		})
	}
	r.Eventually("the new scan holds what it has to", 10*time.Second, func() bool {
		w := waitingIn(r, "quarantine", ids["scanned"])
		return w != nil && w.GetGroups()[0].GetLast().GetAbout() == "strict"
	})
	r.Eventually("whom no chain takes is held for a person", 10*time.Second, func() bool { return waitingIn(r, "dead", ids["gone"]) != nil })

	person := r.Queue("one")
	if got, err := person.ReleaseMessages(rig.As(t.Context(), "tester"), &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Ids: []string{ids["gone"]}}}); err != nil || rig.Changed(got.GetChanges()) != 1 {
		t.Fatalf("release: %v %v", got, err)
	}
	r.Eventually("without a chain it is held again", 10*time.Second, func() bool { return waitingIn(r, "dead", ids["gone"]) != nil })
	revision("", outbound("back", "gone", all))
	r.Eventually("the chain is there again", 20*time.Second, func() bool {
		if len(sink.Find(ids["gone"])) > 0 {
			return true
		}
		if waitingIn(r, "dead", ids["gone"]) != nil {
			if _, err := person.ReleaseMessages(rig.As(t.Context(), "tester"), &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Ids: []string{ids["gone"]}}}); err != nil {
				t.Fatal(err)
			}
		}
		return false
	})
	for name, id := range ids {
		if n := len(sink.Find(id)); n != 1 && (name != "scanned" || n != 0) {
			t.Errorf("%s: %d copies", name, n)
		}
	}
}

// checkVersions: the archive has the message as it went on to the signer, and as many versions as it was archived in.
func checkVersions(t *testing.T, r *rig.Rig, id string, raw []byte, versions int) {
	t.Helper()
	a, err := archive.Open(r.Path("data", "archive"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Versions) != versions || len(got.Damaged) > 0 {
		t.Errorf("%d versions in the archive, want %d", len(got.Versions), versions)
	}
	sum := sha256.Sum256(raw[bytes.Index(raw, []byte("Received: ")):]) // what stands before it is the signer's
	if !slices.ContainsFunc(got.Versions, func(v archive.Version) bool { return v.SHA256 == hex.EncodeToString(sum[:]) }) {
		t.Error("the archive lacks the version that went out")
	}
}
