// Package rig sets up whole Stagecoach installations on loopback for tests: the real programs as processes, a
// smarthost that demands TLS and AUTH and keeps a ledger, and certificates of their own.
package rig

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// Mode is how the installation runs.
type Mode string

// The modes.
const (
	// Up is everything in one process.
	Up Mode = "up"
	// Services is every service a process of its own, with `stagecoach nats`.
	Services Mode = "services"
	// PlainNATS is the same with a plain nats-server.
	PlainNATS Mode = "services with nats-server"
)

// Modes are all modes.
func Modes() []Mode { return []Mode{Up, Services, PlainNATS} }

// StageTypes are the services that are stages.
var StageTypes = []string{"antivirus", "disclaimer", "archive", "signer"}

// Rig is one installation.
type Rig struct {
	T    testing.TB
	Mode Mode
	// Dir holds everything: stagecoach.yaml, data, pki, logs.
	Dir string
	CA  *CA
	// Instances are the ingresses; the first one is "one".
	Instances []string
	// Tags are build tags of the programs: for builds that are broken on purpose.
	Tags string
	// LazyNATS runs a plain nats-server as it comes: it acknowledges what is not on disk yet.
	LazyNATS bool
	// SecureNATS puts `stagecoach nats` behind TLS, with the users and permissions of deploy/compose.
	SecureNATS bool
	// People are those of the admin API, as they stand in the file. With some, admin has a port: under Up that of the
	// one process, else it is a process of its own.
	People string

	// Ingress are more settings of the ingress, Listeners more of its listeners, as they stand in the file.
	Ingress, Listeners string

	ports map[string]int
	mu    sync.Mutex
	procs map[string]*Proc
	conns []*grpc.ClientConn
}

// New prepares an installation; nothing runs yet. Everything ends with the test.
func New(t testing.TB, mode Mode) *Rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "sc") // short: unix sockets live in it
	if err != nil {
		t.Fatal(err)
	}
	r := &Rig{T: t, Mode: mode, Dir: dir, ports: map[string]int{}, procs: map[string]*Proc{}, Instances: []string{"one"}}
	t.Cleanup(func() {
		r.StopAll()
		if t.Failed() {
			r.dumpLogs()
			if os.Getenv("STAGECOACH_TEST_KEEP") != "" {
				t.Logf("kept: %s", dir)
				return
			}
		}
		_ = os.RemoveAll(dir)
	})
	r.CA = NewCA(t)
	pki := filepath.Join(dir, "pki")
	for _, name := range append([]string{"ingress", "egress", "admin"}, StageTypes...) {
		r.CA.Issue(t, pki, name, name)
	}
	return r
}

// Path is a path below the rig's folder.
func (r *Rig) Path(elem ...string) string { return filepath.Join(append([]string{r.Dir}, elem...)...) }

// WriteFile writes a file below the rig's folder and returns its path.
func (r *Rig) WriteFile(name, content string) string {
	r.T.Helper()
	p := r.Path(name)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		r.T.Fatal(err)
	}
	tmp := p + ".tmp"
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		r.T.Fatal(err)
	}
	if err := os.Rename(tmp, p); err != nil {
		r.T.Fatal(err)
	}
	return p
}

// Port gives the port of a name, the same one each time.
func (r *Rig) Port(name string) int {
	r.T.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.ports[name]; ok {
		return p
	}
	p, err := freePort()
	if err != nil {
		r.T.Fatal(err)
	}
	r.ports[name] = p
	return p
}

var (
	portMu sync.Mutex
	taken  = map[int]bool{}
)

// freePort finds a port below those that the system gives to outgoing connections: one of them could take it while
// the process that listens on it is down. No two rigs of this process get the same.
func freePort() (int, error) {
	portMu.Lock()
	defer portMu.Unlock()
	var last error
	for range 100 {
		p := 10_000 + rand.IntN(22_000)
		if taken[p] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			last = err
			continue
		}
		taken[p] = true
		return p, l.Close()
	}
	return 0, fmt.Errorf("no free port: %w", last)
}

// Addr is 127.0.0.1 with the port of a name.
func (r *Rig) Addr(name string) string { return fmt.Sprintf("127.0.0.1:%d", r.Port(name)) }

// ConfigFile is the configuration of an ingress instance and of everything else.
func (r *Rig) ConfigFile() string { return r.Path("stagecoach.yaml") }

// Configure writes the configuration: what every installation needs, and body: domains, stages, chains, routes.
// In body, {{name}} is 127.0.0.1 with the port of that name.
func (r *Rig) Configure(body string) {
	r.T.Helper()
	for _, instance := range r.Instances[1:] { // each further ingress has ports of its own
		r.WriteFile("stagecoach-"+instance+".yaml", r.config(body, instance))
	}
	r.WriteFile("stagecoach.yaml", r.config(body, r.Instances[0]))
}

func (r *Rig) config(body, instance string) string {
	head := `hostname: relay.example.com
data_dir: data
postmaster: postmaster@example.com
pki: {directory: pki}
` + r.control() + `ingress:
  address: "{{ingress-` + instance + `}}"
` + r.Ingress + `  listeners:
    - {name: local, address: "{{smtp-` + instance + `}}", tls: none}
` + r.Listeners + `  limits: {message_size: 60MB}
egress: {address: "{{egress}}"}
`
	text := head + body
	for {
		i := strings.Index(text, "{{")
		if i < 0 {
			return text
		}
		j := strings.Index(text[i:], "}}") + i
		text = text[:i] + r.Addr(text[i+2:j]) + text[j+2:]
	}
}

// SMTP is the address of the first ingress.
func (r *Rig) SMTP() string { return r.Addr("smtp-one") }

// Send sends one message and returns the id from the 250.
func (r *Rig) Send(from string, to []string, raw string) (id string, err error) {
	return Send(r.SMTP(), from, to, raw)
}

// Send sends one message to an SMTP server and returns what followed the 250 after DATA: its id.
func Send(addr, from string, to []string, raw string) (id string, err error) {
	nc, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(2 * time.Minute))
	c, err := smtp.NewClient(nc, "client.example.com")
	if err != nil {
		return "", err
	}
	if err := c.Hello("client.example.com"); err != nil {
		return "", err
	}
	if err := c.Mail(from); err != nil {
		return "", err
	}
	for _, t := range to {
		if err := c.Rcpt(t); err != nil {
			return "", err
		}
	}
	n, err := c.Text.Cmd("DATA")
	if err != nil {
		return "", err
	}
	c.Text.StartResponse(n)
	_, _, err = c.Text.ReadResponse(354)
	c.Text.EndResponse(n)
	if err != nil {
		return "", err
	}
	w := c.Text.DotWriter()
	if _, err := w.Write([]byte(raw)); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	_, msg, err := c.Text.ReadResponse(250)
	if err != nil {
		return "", err
	}
	fields := strings.Fields(msg)
	for i, f := range fields {
		if f == "accepted" && i > 0 {
			return fields[i-1], nil
		}
	}
	return "", fmt.Errorf("no id in %q", msg)
}

// MustSend is Send for a message that has to be accepted.
func (r *Rig) MustSend(from string, to []string, raw string) string {
	r.T.Helper()
	id, err := r.Send(from, to, raw)
	if err != nil {
		r.T.Fatalf("send: %v", err)
	}
	return id
}

// InRooms is the filter that picks a room, or all of them.
func InRooms(room string) *adminv1.Filter {
	if room == "" {
		return nil
	}
	return &adminv1.Filter{Rooms: []string{room}}
}

// As gives a context for calls in the name of a person.
func As(ctx context.Context, person string) context.Context { return service.WithActor(ctx, person) }

// Changed counts the messages that changed.
func Changed(changes []*adminv1.Change) (n int) {
	for _, c := range changes {
		if c.GetRecipients() > 0 {
			n++
		}
	}
	return n
}

// InRoom lists the messages in a room of the first ingress.
func (r *Rig) InRoom(room string) []*adminv1.WaitingMessage {
	r.T.Helper()
	resp, err := r.Queue(r.Instances[0]).ListMessages(r.T.Context(), &adminv1.ListMessagesRequest{Filter: InRooms(room), PageSize: 1000}, grpc.WaitForReady(true))
	if err != nil {
		r.T.Fatalf("list %s: %v", room, err)
	}
	return resp.GetMessages()
}

// Eventually waits until ok holds, at most for limit.
func (r *Rig) Eventually(what string, limit time.Duration, ok func() bool) {
	r.T.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			r.T.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// Run runs f as a subtest of the test that set the installation up: what fails in it fails the subtest.
func (r *Rig) Run(name string, f func(t *testing.T)) {
	r.T.Helper()
	outer, ok := r.T.(*testing.T)
	if !ok {
		r.T.Fatal("subtests are for tests")
	}
	outer.Run(name, func(t *testing.T) {
		r.T = t
		defer func() { r.T = outer }()
		f(t)
	})
}

func (r *Rig) dumpLogs() {
	logs, err := filepath.Glob(r.Path("*.log"))
	if err != nil {
		return
	}
	for _, l := range logs {
		b, err := os.ReadFile(l)
		if err != nil || len(b) == 0 {
			continue
		}
		lines := bytes.Split(b, []byte("\n"))
		if len(lines) > 60 {
			lines = lines[len(lines)-60:]
		}
		r.T.Logf("%s:\n%s", filepath.Base(l), bytes.Join(lines, []byte("\n")))
	}
}
