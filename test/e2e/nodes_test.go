package e2e

import (
	"fmt"
	"net"
	"net/smtp"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// scanned is an installation with two processes of antivirus, at addresses of their own, and a chain that uses EXTRA of
// them.
const scanned = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
stages:
  first: {type: antivirus, address: "{{antivirus}}", config: {}}
  second: {type: antivirus, address: "{{second}}", config: {}}
  footer: {type: disclaimer, address: "{{disclaimer}}", config: {text: "The footer."}}
chains:
  - {name: inbound, match: {direction: [inbound, internal]}, stages: [first], deliver: inbox}
  - {name: outbound, match: {direction: outbound}, stages: [STAGES], deliver: outbox}
routes:
  inbox: {maildir: {path: inbox}}
  outbox: {maildir: {path: outbox}}
`

// greeting is the first line that an ingress says.
func greeting(t *testing.T, address string) string {
	t.Helper()
	nc, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 200)
	n, err := nc.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// Admin as a process of its own finds all others, shows them, operates them, and changes the configuration when all of
// them can run it.
func TestNodes(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Services)
	configure := func(stages string) { r.Configure(strings.Replace(scanned, "STAGES", stages, 1)) }
	configure("first, footer")
	for _, name := range []string{"nats", "disclaimer", "egress", "ingress-one", "admin"} {
		r.StartProc(name)
	}
	for _, name := range []string{"antivirus", "second"} {
		r.StartNamed(name, "run", "antivirus", "--config", r.ConfigFile(), "--listen", r.Addr(name))
	}
	r.WaitSMTP("one")
	conn := r.Operator()
	nodes := adminv1.NewNodeServiceClient(conn)
	name := func(service, port string) string { return service + "@" + r.Addr(port) }
	all := func() map[string]*adminv1.Node {
		out := map[string]*adminv1.Node{}
		resp, err := nodes.ListNodes(t.Context(), &adminv1.ListNodesRequest{}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range resp.GetNodes() {
			out[n.GetName()] = n
		}
		return out
	}
	state := func(name string) *adminv1.Node { return all()[name] }
	r.Eventually("all processes answer", 20*time.Second, func() bool {
		list := all()
		for _, n := range list {
			if n.GetUnreachable() != "" {
				return false
			}
		}
		return len(list) == 6
	})
	revision := state(name("ingress", "ingress-one")).GetRevision()
	for who, n := range all() {
		if n.GetRevision() != revision || n.GetFileRevision() != revision || n.GetStarted() == nil || n.GetCertificateEnds() == nil || n.GetDraining() {
			t.Errorf("%s: %v", who, n)
		}
	}
	if n := state(name("antivirus", "second")); len(n.GetStages()) != 2 || n.GetStages()[0].GetName() != "first" || n.GetStages()[0].GetHash() == "" || n.GetStages()[0].GetTraits()[0] != "reads_body" {
		t.Errorf("%v", n.GetStages())
	}

	r.Run("drain", func(t *testing.T) {
		who := name("ingress", "ingress-one")
		if _, err := nodes.DrainNode(t.Context(), &adminv1.DrainNodeRequest{Node: who, Drain: true}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "nobody else") {
			t.Errorf("the last one is drained: %v", err)
		}
		c, err := smtp.Dial(r.SMTP())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Mail("alice@example.com"); err != nil {
			t.Fatal(err)
		}
		if err := c.Rcpt("bob@example.net"); err != nil {
			t.Fatal(err)
		}
		w, err := c.Data()
		if err != nil {
			t.Fatal(err)
		}
		resp, err := nodes.DrainNode(t.Context(), &adminv1.DrainNodeRequest{Node: who, Drain: true, Force: true})
		if err != nil || !resp.GetNode().GetDraining() || resp.GetNode().GetName() != who || resp.GetNode().GetCalls() != 1 {
			t.Fatalf("%v, %v", resp, err)
		}
		if got := greeting(t, r.SMTP()); !strings.HasPrefix(got, "421 4.3.2 ") {
			t.Errorf("a new session hears %q", got)
		}
		if _, err := w.Write([]byte(plain("under way"))); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("the message that was under way: %v", err)
		}
		if err := c.Noop(); err == nil || !strings.Contains(err.Error(), "421") {
			t.Errorf("the session goes on: %v", err)
		}
		if resp, err := nodes.DrainNode(t.Context(), &adminv1.DrainNodeRequest{Node: who}); err != nil || resp.GetNode().GetDraining() {
			t.Fatalf("%v, %v", resp, err)
		}
		if got := greeting(t, r.SMTP()); !strings.HasPrefix(got, "220 ") {
			t.Errorf("back in service a session hears %q", got)
		}
		r.Eventually("the message has come", 10*time.Second, func() bool { return len(inbox(r, "outbox")) == 1 })
	})

	r.Run("drained stage", func(t *testing.T) {
		who := name("disclaimer", "disclaimer")
		if _, err := nodes.DrainNode(t.Context(), &adminv1.DrainNodeRequest{Node: who, Drain: true, Force: true}); err != nil {
			t.Fatal(err)
		}
		id := r.MustSend("alice@example.com", []string{"bob@example.net"}, plain("waits"))
		r.Eventually("its mail waits", 10*time.Second, func() bool {
			list, err := adminv1.NewQueueServiceClient(conn).ListMessages(t.Context(), &adminv1.ListMessagesRequest{})
			return err == nil && len(list.GetMessages()) == 1 && list.GetMessages()[0].GetId() == id
		})
		if n := state(who); n == nil || !n.GetDraining() {
			t.Errorf("%v", n)
		}
		if _, err := nodes.DrainNode(t.Context(), &adminv1.DrainNodeRequest{Node: who}); err != nil {
			t.Fatal(err)
		}
		r.Eventually("it goes on", 15*time.Second, func() bool { return len(inbox(r, "outbox")) == 2 })
	})

	r.Run("profile", func(t *testing.T) {
		stream, err := nodes.GetProfile(t.Context(), &adminv1.GetProfileRequest{Node: name("egress", "egress"), Kind: "heap"})
		if err != nil {
			t.Fatal(err)
		}
		first, err := stream.Recv()
		if err != nil || !strings.HasPrefix(string(first.GetChunk()), "\x1f\x8b") {
			t.Errorf("%.20q, %v", first.GetChunk(), err)
		}
	})

	r.Run("configuration", func(t *testing.T) {
		edit := &adminv1.EditChainRequest{Chain: "outbound", Edit: &adminv1.EditChainRequest_Insert{Insert: &adminv1.InsertUse{Use: &adminv1.ConfigUse{Stage: "second"}, Place: &adminv1.UsePlace{Place: &adminv1.UsePlace_Last{Last: true}}}}}
		file := adminv1.NewConfigServiceClient(conn)
		resp, err := file.EditChain(t.Context(), edit)
		if err != nil || !resp.GetChange().GetInForce() || resp.GetChange().GetProblem() != "" {
			t.Fatalf("%v, %v", resp.GetChange(), err)
		}
		for who, n := range all() {
			if n.GetRevision() != resp.GetChange().GetRevision() {
				t.Errorf("%s runs %.12s", who, n.GetRevision())
			}
		}
		// The disclaimer is let in by the second antivirus, which it did not stand before until now.
		id := r.MustSend("alice@example.com", []string{"bob@example.net"}, plain("by the new way"))
		r.Eventually("it has come", 10*time.Second, func() bool { return len(inbox(r, "outbox")) == 3 })
		r.Eventually("its trace is told", 5*time.Second, func() bool {
			trace, err := adminv1.NewTraceServiceClient(conn).GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: id})
			return err == nil && len(trace.GetTrace().GetEvents()) > 0
		})
	})

	r.Run("gone", func(t *testing.T) {
		r.Proc("egress").Kill()
		r.Eventually("it is missed", 15*time.Second, func() bool { return state(name("egress", "egress")).GetUnreachable() != "" })
		s, err := adminv1.NewStatusServiceClient(conn).GetStatus(t.Context(), &adminv1.GetStatusRequest{})
		if err != nil || !slices.ContainsFunc(s.GetProblems(), func(p *adminv1.Problem) bool {
			return p.GetSeverity() == adminv1.Severity_SEVERITY_CRITICAL && strings.HasPrefix(p.GetText(), name("egress", "egress")+" does not answer")
		}) {
			t.Errorf("%v, %v", s.GetProblems(), err)
		}
		// What is broken is refused, and says so.
		r.WriteFile("stagecoach.yaml", "hostname: [\n")
		who := name("ingress", "ingress-one")
		resp, err := nodes.ReloadNode(t.Context(), &adminv1.ReloadNodeRequest{Node: who})
		if n := resp.GetNode(); err != nil || n.GetName() != who || !strings.Contains(n.GetRefused(), "stagecoach.yaml:1") || n.GetRevision() == n.GetFileRevision() {
			t.Errorf("%v, %v", resp, err)
		}
		out, err := exec.Command(rig.Binary(t, "stagecoach", ""), "node", "list", "--socket", r.Path("data", "admin.sock")).CombinedOutput()
		if err == nil || !strings.Contains(string(out), fmt.Sprintf("%s\t\tunreachable", name("egress", "egress"))) || !strings.Contains(string(out), "\trefused\t") {
			t.Errorf("%v: %s", err, out)
		}
		configure("first, footer, second")
		if out, err := exec.Command(rig.Binary(t, "stagecoach", ""), "health", "--service", "admin", "--config", r.ConfigFile()).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}
