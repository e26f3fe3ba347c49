package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// breakage makes a configuration wrong in one place.
type breakage struct {
	name, old, now string
	// at is the beginning of the line that is named; empty: none, for it is found out when it is taken up.
	at string
	// says is what is said of it.
	says string
	// own: it is in a file of ingress, which as a process of its own finds out when the configuration has been written.
	own bool
	// process is who finds out that it is in the file; empty: ingress.
	process string
}

func breakages(taken, nobody string) []breakage {
	return []breakage{
		{name: "syntax", old: "chains:\n", now: "chains: [\n", at: "routes:", says: "']' must be specified"},
		{name: "unknown key", old: "hostname:", now: "hostnaem: x\nhostname:", at: "hostnaem:", says: "did you mean hostname?"},
		{name: "dangling stage", old: "[antivirus, footer, archive, signer]", now: "[antivirus, footr, archive, signer]", at: "    stages: [antivirus, footr", says: "did you mean footer?"},
		{name: "missing secret", old: "  limits: {message_size", now: "  certificate: {file: pki/ca.pem, key_file: secrets/nowhere.pem}\n  limits: {message_size", at: "  certificate:", says: "secrets/nowhere.pem", own: true},
		{name: "open relay", old: "127.0.0.0/8", now: "0.0.0.0/0", at: "  - {name: loopback", says: "an open relay"},
		{name: "edit after the seal", old: "[antivirus, footer, archive, signer]", now: "[antivirus, signer, footer, archive]", at: "    stages: [antivirus, signer", says: "footer can change what signer before it has sealed"},
		{name: "config of a stage", old: "must_sign: [example.com]", now: "must_sing: [example.com]", at: "  signer:", says: "did you mean must_sign?", process: "signer"},
		{name: "one port twice", old: "  limits: {message_size", now: "    - {name: second, address: \"{{smtp-one}}\", tls: none}\n  limits: {message_size", at: "    - {name: second", says: "listener local has this port already"},
		{name: "a port that is taken", old: "  limits: {message_size", now: "    - {name: second, address: \"" + taken + "\", tls: none}\n  limits: {message_size", says: "address already in use"},
		{name: "nobody answers", old: "chains:\n", now: "  tagger: {address: \"" + nobody + "\", traits: [edits_header]}\nchains:\n  - {name: tagged, match: {direction: outbound, recipients: \"*@tagged.example\"}, stages: [tagger], deliver: provider}\n", says: "tagger"},
	}
}

// A configuration that is broken changes nothing, however it comes: what runs stays in force, mail flows under it, and
// what is wrong is said, with its line where it has one.
func TestBrokenConfigurationsChangeNothing(t *testing.T) {
	for _, mode := range []rig.Mode{rig.Up, rig.Services} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			r := rig.New(t, mode)
			r.People = "{name: alice, role: admin}"
			sink := prepare(t, r)
			r.Start()
			taken, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer taken.Close()
			in := &running{t: t, r: r, sink: sink, good: fileText(t, r), sent: map[string]string{}}
			in.revision = revision(in.good)
			in.open()
			in.flows("before")
			for _, b := range breakages(taken.Addr().String(), r.Addr("nobody")) {
				text := strings.Replace(in.good, b.old, strings.ReplaceAll(b.now, "{{smtp-one}}", r.SMTP()), 1)
				if text == in.good {
					t.Fatalf("%s: %q does not stand in the file", b.name, b.old)
				}
				in.byCommand(b, text)
				in.inFile(b, text)
			}
			in.flows("after")
			in.trail()
			in.history()
			in.byHand()
		})
	}
}

// running is an installation to which broken files are given.
type running struct {
	t              *testing.T
	r              *rig.Rig
	sink           *rig.Sink
	good, revision string
	config         adminv1.ConfigServiceClient
	sent           map[string]string // when, by the id of the message
}

// node is a process; under `up` there is one.
func (in *running) node(service string) adminv1.NodeServiceClient {
	in.t.Helper()
	if in.r.Mode == rig.Up || service == "" {
		return adminv1.NewNodeServiceClient(in.r.Admin("one"))
	}
	return adminv1.NewNodeServiceClient(callAs(in.r, "admin", service))
}

// open connects to the socket of `up`, or of admin.
func (in *running) open() {
	in.t.Helper()
	conn, err := grpc.NewClient("unix:"+in.r.Path("data", "admin.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		in.t.Fatal(err)
	}
	in.t.Cleanup(func() { _ = conn.Close() })
	in.config = adminv1.NewConfigServiceClient(conn)
	in.r.Eventually("the configuration is in force everywhere, and changes can be put on record", 20*time.Second, func() bool {
		got, err := in.config.GetConfig(in.t.Context(), &adminv1.GetConfigRequest{})
		if err == nil && got.GetRunning() == in.revision {
			_, err = in.config.ApplyConfig(in.t.Context(), &adminv1.ApplyConfigRequest{Text: in.good, DryRun: true})
		}
		return err == nil && got.GetRunning() == in.revision
	})
}

func fileText(t *testing.T, r *rig.Rig) string {
	t.Helper()
	text, err := os.ReadFile(r.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func revision(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// says looks for what is to be said, and for where it is.
func (in *running) says(b breakage, how, text, said string) {
	in.t.Helper()
	if !strings.Contains(said, b.says) {
		in.t.Errorf("%s, %s: it says %q", b.name, how, said)
	}
	if b.at == "" {
		return
	}
	line := 1 + slices.IndexFunc(strings.Split(text, "\n"), func(l string) bool { return strings.HasPrefix(l, b.at) })
	if at := fmt.Sprintf("stagecoach.yaml:%d:", line); line == 0 || !strings.Contains(said, at) {
		in.t.Errorf("%s, %s: it does not name %s: %q", b.name, how, at, said)
	}
}

// byCommand applies a text through the API.
func (in *running) byCommand(b breakage, text string) {
	in.t.Helper()
	resp, err := in.config.ApplyConfig(in.t.Context(), &adminv1.ApplyConfigRequest{Text: text, Comment: b.name})
	if err != nil {
		in.t.Errorf("%s: %v", b.name, err)
		return
	}
	c := resp.GetChange()
	if known := b.at != "" && (in.r.Mode == rig.Up || !b.own); known {
		in.says(b, "by command", text, strings.Join(c.GetErrors(), "\n"))
		if c.GetWritten() || fileText(in.t, in.r) != in.good {
			in.t.Errorf("%s: it was written", b.name)
		}
	} else {
		in.says(b, "by command", text, c.GetProblem())
		if !c.GetWritten() || c.GetInForce() || fileText(in.t, in.r) != text {
			in.t.Errorf("%s: written %v, in force %v, %q", b.name, c.GetWritten(), c.GetInForce(), c.GetErrors())
		}
	}
	in.stays(b, "by command")
}

// inFile writes a text into the file.
func (in *running) inFile(b breakage, text string) {
	in.t.Helper()
	node := in.node(b.process)
	if fileText(in.t, in.r) != text { // else it was found out when it was taken up, and stands there
		in.r.WriteFile("stagecoach.yaml", text)
		if _, err := node.ReloadNode(in.t.Context(), &adminv1.ReloadNodeRequest{}); err != nil {
			in.t.Errorf("%s: %v", b.name, err)
		}
	}
	list, err := node.ListNodes(in.t.Context(), &adminv1.ListNodesRequest{})
	if err != nil || len(list.GetNodes()) != 1 {
		in.t.Fatalf("%s: %v, %v", b.name, list, err)
	}
	n := list.GetNodes()[0]
	in.says(b, "in the file", text, n.GetRefused())
	if n.GetRevision() == revision(text) {
		in.t.Errorf("%s: it is in force", b.name)
	}
	in.stays(b, "in the file")
	in.r.WriteFile("stagecoach.yaml", in.good)
	if resp, err := node.ReloadNode(in.t.Context(), &adminv1.ReloadNodeRequest{}); err != nil || resp.GetNode().GetRefused() != "" {
		in.t.Errorf("%s: taken back: %v, %v", b.name, resp, err)
	}
}

// stays: what ran still does.
func (in *running) stays(b breakage, how string) {
	in.t.Helper()
	got, err := in.config.GetConfig(in.t.Context(), &adminv1.GetConfigRequest{})
	if err != nil || got.GetRunning() != in.revision {
		in.t.Errorf("%s, %s: revision %.12s is in force, %v", b.name, how, got.GetRunning(), err)
	}
	in.flows(b.name + ", " + how)
}

// flows: a message goes its way.
func (in *running) flows(when string) {
	in.t.Helper()
	id, err := in.r.Send("alice@example.com", []string{"bob@example.net"}, threeParts)
	if err != nil {
		in.t.Errorf("%s: %v", when, err)
		return
	}
	in.sink.Wait(id, 20*time.Second)
	in.sent[id] = when
}

// trail: every message went through all four stages by the revision that was in force.
func (in *running) trail() {
	in.t.Helper()
	for id, when := range in.sent {
		in.r.Eventually(when+": the trail has it", 10*time.Second, func() bool {
			resp, err := in.r.Trace().GetTrace(in.t.Context(), &adminv1.GetTraceRequest{Id: id})
			if err != nil {
				return false
			}
			for _, e := range resp.GetTrace().GetEvents() {
				if len(e.GetHops()) > 0 {
					if e.GetRevision() != in.revision || len(e.GetHops()) != 4 {
						in.t.Errorf("%s: it went by revision %.12s through %d stages", when, e.GetRevision(), len(e.GetHops()))
					}
					return true
				}
			}
			return false
		})
	}
}

// byHand: what is written into the file and comes into force is in the history.
func (in *running) byHand() {
	in.t.Helper()
	text := in.good + "# by hand\n"
	in.r.WriteFile("stagecoach.yaml", text)
	in.r.Eventually("the change by hand is in the history", 15*time.Second, func() bool {
		list, err := in.config.ListRevisions(in.t.Context(), &adminv1.ListRevisionsRequest{PageSize: 1})
		if err != nil {
			in.t.Fatal(err)
		}
		e := list.GetRevisions()[0]
		return e.GetRevision() == revision(text) && e.GetBy() == "" && e.GetCurrent()
	})
}

// history: what came into the file by command is there, and nothing else of what was refused.
func (in *running) history() {
	in.t.Helper()
	list, err := in.config.ListRevisions(in.t.Context(), &adminv1.ListRevisionsRequest{PageSize: 200})
	if err != nil {
		in.t.Fatal(err)
	}
	tried := map[string]bool{}
	for _, e := range list.GetRevisions() {
		if e.GetComment() != "" {
			tried[e.GetComment()] = true
			if e.GetBy() == "" || e.GetWhat() != "config apply" || e.GetCurrent() {
				in.t.Errorf("%v", e)
			}
		}
	}
	for _, b := range breakages("", "") {
		if written := b.at == "" || in.r.Mode == rig.Services && b.own; tried[b.name] != written {
			in.t.Errorf("%s is in the history: %v", b.name, tried[b.name])
		}
	}
}
