//go:build compose

package compose

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// rate is how many messages a second are sent while things change.
const rate = 50

// While mail flows a stage is inserted, moved, removed and the change undone: nothing is lost or bounced, and each message
// went the way of the revision that it ran under.
func TestSwapUnderLoad(t *testing.T) {
	in := demo(t)
	conn := in.api(t)
	config := adminv1.NewConfigServiceClient(conn)
	orders := map[string][]string{} // by revision
	revision := func() string {
		c, err := config.GetConfig(t.Context(), &adminv1.GetConfigRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if c.GetRunning() != c.GetRevision() {
			t.Fatalf("the file has revision %s, %s is in force: %s", c.GetRevision(), c.GetRunning(), c.GetRefused())
		}
		return c.GetRevision()
	}
	first := revision()
	orders[first] = []string{"antivirus", "footer", "archive", "signer"}

	l := startLoad(t, in, rate, 8, in.ports["SUBMISSION"])
	for _, step := range []struct {
		args  string
		order []string
	}{
		{"chain insert outbound notice --before archive", []string{"antivirus", "footer", "notice", "archive", "signer"}},
		{"chain move outbound notice --before footer", []string{"antivirus", "notice", "footer", "archive", "signer"}},
		{"chain remove outbound notice", []string{"antivirus", "footer", "archive", "signer"}},
		{"chain move outbound footer --before antivirus", []string{"footer", "antivirus", "archive", "signer"}},
		{"chain rollback " + first, orders[first]},
	} {
		time.Sleep(3 * time.Second) // mail goes the former way meanwhile
		if out, err := in.operate("", strings.Fields(step.args)...); err != nil {
			t.Fatalf("%s: %v\n%s", step.args, err, out)
		}
		r := revision()
		if old, ok := orders[r]; ok && !slices.Equal(old, step.order) {
			t.Errorf("%s: revision %s is in force, and has another order", step.args, r)
		}
		orders[r] = step.order
	}
	time.Sleep(3 * time.Second)
	got := l.settle(t, time.Minute)
	if n := l.counts()[accepted]; n < rate*10 {
		t.Errorf("only %d messages were accepted", n)
	}
	checkOrders(t, in, got, orders, 3)
}

// checkOrders compares the way of each message, as the trail has it, with that of its revision; at least so many of the
// revisions must have been seen.
func checkOrders(t *testing.T, in *install, got map[string][]delivery, orders map[string][]string, least int) {
	t.Helper()
	traces := adminv1.NewTraceServiceClient(in.api(t))
	seen := map[string]int{}
	wrong := 0
	for token, d := range got {
		revision, order := way(t, traces, d[0].id)
		want, ok := orders[revision]
		if !ok || !slices.Equal(order, want) {
			if wrong++; wrong < 5 {
				t.Errorf("%s (%s) went by %v under revision %.8s, want %v", token, d[0].id, order, revision, want)
			}
		}
		seen[revision]++
	}
	t.Logf("messages by revision: %v; %d went another way", seen, wrong)
	if len(seen) < least {
		t.Errorf("only %d revisions were seen, want %d", len(seen), least)
	}
}

// way is the revision that a message ran under, and the stages that it passed, in the order of their reports.
func way(t *testing.T, traces adminv1.TraceServiceClient, id string) (revision string, stages []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	resp, err := traces.GetTrace(ctx, &adminv1.GetTraceRequest{Id: id})
	if err != nil {
		t.Fatalf("the trace of %s: %v", id, err)
	}
	for _, e := range resp.GetTrace().GetEvents() {
		if e.GetChain() != "outbound" {
			continue
		}
		for _, h := range e.GetHops() {
			revision = e.GetRevision()
			stages = append(stages, h.GetReport().GetInstance())
		}
	}
	return revision, stages
}

// While mail flows every service is stopped and started in turn, as an upgrade does: nothing is lost or bounced, and there
// are no second copies but for those of messages whose answer was on its way.
func TestRestartsUnderLoad(t *testing.T) {
	in := demo(t)
	l := startLoad(t, in, rate, 8, in.ports["SUBMISSION"])
	var inForce []window
	for _, service := range []string{"antivirus", "clamav", "disclaimer", "archive", "signer", "egress", "ingress", "admin", "nats"} {
		begin := time.Now()
		in.compose(t, "restart", service)
		eventually(t, service+" is healthy again", 90*time.Second, func() bool {
			out, err := in.run("", "ps", "--format", "{{.Health}}", service)
			return err == nil && strings.TrimSpace(out) == "healthy"
		})
		back := time.Now()
		eventually(t, "mail is accepted after the restart of "+service, 60*time.Second, func() bool { _, ok := l.since(back); return ok })
		t.Logf("%s: back after %v", service, time.Since(begin).Round(100*time.Millisecond))
		inForce = append(inForce, window{"restart of " + service, begin, time.Now()})
	}
	l.settle(t, 2*time.Minute, inForce...)
}
