//go:build compose

package compose

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// clusterRate is how many messages a second are sent while containers are lost.
const clusterRate = 50

// fault is something that happens to one container, and its end.
type fault struct {
	name string
	do   func(t *testing.T, container string) (undo func())
}

// outage is how long a fault lasts that has an end.
const outage = 30 * time.Second

var faults = []fault{
	{"killed", func(t *testing.T, container string) func() {
		// By its process id: what the engine is told to kill it does not start again.
		n, err := strconv.Atoi(pid(t, container))
		if err == nil {
			err = syscall.Kill(n, syscall.SIGKILL)
		}
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, container+" is started again", 30*time.Second, func() bool {
			now, err := docker("inspect", "-f", "{{.State.Pid}}", container)
			return err == nil && now != "0" && now != strconv.Itoa(n)
		})
		return nil
	}},
	{"paused", func(t *testing.T, container string) func() {
		must(t, "pause", container)
		return func() { must(t, "unpause", container) }
	}},
	{"cut off", func(t *testing.T, container string) func() {
		networks, err := docker("inspect", "-f", `{{range $n, $e := .NetworkSettings.Networks}}{{$n}}{{range $e.Aliases}},{{.}}{{end}} {{end}}`, container)
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Fields(networks)
		for _, n := range all {
			name, _, _ := strings.Cut(n, ",")
			must(t, "network", "disconnect", "-f", name, container)
		}
		return func() {
			for _, n := range all {
				name, aliases, _ := strings.Cut(n, ",")
				args := []string{"network", "connect"}
				for a := range strings.SplitSeq(aliases, ",") {
					if a != "" {
						args = append(args, "--alias", a)
					}
				}
				must(t, append(args, name, container)...)
			}
		}
	}},
}

func must(t *testing.T, args ...string) {
	t.Helper()
	if _, err := docker(args...); err != nil {
		t.Fatal(err)
	}
}

// recovery is a cell of the table: the longest time without an acceptance, and from an acceptance to the mailbox.
type recovery struct {
	service, fault  string
	accept, deliver time.Duration
}

// Of each kind one container is lost, in three ways, while mail flows to both ingresses. What was accepted arrives, nothing
// bounces, and a second copy has a fault that explains it.
func TestCluster(t *testing.T) {
	in := newInstall(t, "cluster", "compose.yaml", "compose.cluster.yaml")
	in.env = append(in.env, "STAGECOACH_CONFIG=./config.cluster") // the last one counts
	in.edit(t, "config.cluster/stagecoach.yaml", func(s string) string {
		return strings.Replace(s, "outbox: {maildir: {path: /data/outbox}}", `outbox: {smarthost: {address: "smarthost:587", tls: required, ca_file: /pki/ca.pem, auth: {username: coach, password_file: password}}}`, 1)
	})
	in.copyPassword(t)
	in.up(t)
	t.Cleanup(in.down)
	logOnFailure(t, in)
	in.addUser(t)
	if out, err := in.operate("", "dkim", "new", "example.com"); err != nil { // both signers take it up
		t.Fatalf("dkim new: %v\n%s", err, out)
	}

	l := startLoad(t, in, clusterRate, 8, in.ports["SUBMISSION"], in.ports["SUBMISSION_2"])
	eventually(t, "mail flows", time.Minute, func() bool { return l.counts()[accepted] > clusterRate })
	var table []recovery
	var inForce []window
	for _, service := range []string{"nats-2", "ingress", "antivirus", "disclaimer", "archive", "signer", "egress", "clamav", "admin"} {
		t.Run(service, func(t *testing.T) {
			for _, f := range faults {
				t.Run(f.name, func(t *testing.T) {
					r := recovery{service: service, fault: f.name}
					begin := time.Now()
					r.accept, r.deliver = in.strike(t, l, f, in.container(service, 1))
					table = append(table, r)
					inForce = append(inForce, window{service + " " + f.name, begin, time.Now()})
					t.Logf("accepted again after %v, delivered after %v", r.accept, r.deliver)
				})
			}
		})
	}
	l.settle(t, recovers, inForce...)
	var b strings.Builder
	b.WriteString("\n| one of | killed | paused 30 s | cut off 30 s |\n|---|---|---|---|\n")
	for i := 0; i < len(table); {
		row := map[string]string{}
		service := table[i].service
		for ; i < len(table) && table[i].service == service; i++ {
			row[table[i].fault] = fmt.Sprintf("%.1f s / %.1f s", table[i].accept.Seconds(), table[i].deliver.Seconds())
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", service, row["killed"], row["paused"], row["cut off"])
	}
	t.Log(b.String())
}

// strike does one fault under load, ends it after a while, and waits until everything that was accepted meanwhile has
// arrived, which is to be within a minute of the fault's end. It gives the longest time without an acceptance, and the longest from an acceptance to the mailbox.
func (in *install) strike(t *testing.T, l *load, f fault, container string) (accept, deliver time.Duration) {
	t.Helper()
	box := newMailbox(in)
	begin := time.Now()
	if undo := f.do(t, container); undo != nil {
		time.Sleep(outage)
		undo()
	}
	eventually(t, container+" is healthy after it was "+f.name, 2*time.Minute, func() bool {
		state, err := docker("inspect", "-f", "{{.State.Health.Status}}", container)
		return err == nil && state == "healthy"
	})
	end := time.Now() // of one that was killed: it has to start first, and clamd to read its signatures
	eventually(t, "mail is accepted after "+container+" was "+f.name, time.Minute, func() bool { _, ok := l.since(end); return ok })
	eventually(t, "what was accepted while "+container+" was "+f.name+" has arrived", recovers, func() bool {
		return len(l.missing(box.look(t), end)) == 0
	})
	return l.longestGap(begin, end), l.slowest(begin, end, box.got)
}
