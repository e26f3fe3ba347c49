package smtpd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/users"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// taken is a message that the fake intake committed.
type taken struct {
	id     string
	env    mail.Envelope
	starts map[string][]mail.RecipientID
	data   string // with our Received field
	head   Head
}

// body is the message without our Received field.
func (m taken) body() string {
	i := strings.Index(m.data, "\r\n")
	for i >= 0 && i+2 < len(m.data) && (m.data[i+2] == '\t' || m.data[i+2] == ' ') {
		j := strings.Index(m.data[i+2:], "\r\n")
		i += 2 + j
	}
	return m.data[i+2:]
}

// fakeIntake keeps messages in memory.
type fakeIntake struct {
	mu       sync.Mutex
	n        int
	messages []taken
	open     int
	room     int // receptions at once; 0: any number
	aborted  int
	sizes    []int64
	admit    func(mail.Origin) error
	begin    error
	write    error
	commit   error
	slow     chan struct{} // if not nil, Commit waits for it
}

func (f *fakeIntake) Admit(_ context.Context, o mail.Origin) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.admit != nil {
		return f.admit(o)
	}
	return nil
}

func (f *fakeIntake) Begin(_ context.Context, env *mail.Envelope, starts map[string][]mail.RecipientID, size int64) (Reception, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.begin != nil {
		return nil, f.begin
	}
	if f.room > 0 && f.open >= f.room {
		return nil, &mail.Reply{Code: 452, Enhanced: "4.3.1", Text: "no room"}
	}
	f.n++
	f.open++
	f.sizes = append(f.sizes, size)
	return &fakeReception{f: f, max: size, m: taken{id: fmt.Sprintf("m%d", f.n), env: *env, starts: starts}}, nil
}

func (f *fakeIntake) all() []taken {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]taken(nil), f.messages...)
}

type fakeReception struct {
	f    *fakeIntake
	m    taken
	buf  bytes.Buffer
	max  int64
	over bool
}

func (r *fakeReception) ID() string { return r.m.id }

func (r *fakeReception) Write(p []byte) (int, error) {
	if r.over {
		return 0, errors.New("written to after its end")
	}
	if r.f.write != nil {
		return 0, r.f.write
	}
	if int64(r.buf.Len()+len(p)) > r.max {
		return 0, errors.New("more written than was reserved")
	}
	return r.buf.Write(p)
}

func (r *fakeReception) Commit(ctx context.Context, head Head) (string, error) {
	if r.f.slow != nil {
		select {
		case <-r.f.slow:
		case <-ctx.Done():
			r.end()
			return "", ctx.Err()
		}
	}
	r.end()
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	if r.f.commit != nil {
		return "", r.f.commit
	}
	r.m.data, r.m.head = r.buf.String(), head
	r.f.messages = append(r.f.messages, r.m)
	return r.m.id, nil
}

func (r *fakeReception) Abort() {
	r.end()
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.f.aborted++
}

func (r *fakeReception) end() {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	if r.over {
		panic("a reception was ended twice")
	}
	r.over = true
	r.f.open--
}

// logBuffer is a log that tests can read.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// rig is a server with everything around it.
type rig struct {
	t      *testing.T
	cfg    *config.Config
	intake *fakeIntake
	policy *policy.Policy
	users  *users.Store
	server *Server
	log    *logBuffer
	addrs  map[string]string
	sleeps []time.Duration
	loops  []Loop
	mu     sync.Mutex
	served chan error
}

const password = "correct horse"

// usersFile has one user, alice, with password.
func usersFile(t *testing.T) string {
	t.Helper()
	h, err := users.Hash(password)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(name, []byte("users:\n  alice: {password: \""+h+"\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// baseConfig: 127.0.0.1 is a stranger; the listener "inside" has a relay rule for it.
func baseConfig(t *testing.T) *config.Config {
	t.Helper()
	list := filepath.Join(t.TempDir(), "recipients.txt")
	if err := os.WriteFile(list, []byte("# people\nuser\nother@example.com\ninfo\nodd%name\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	scan := &config.Stage{Name: "scan", Hash: "h1"}
	loop := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	return &config.Config{
		Hostname:   "relay.example.com",
		Postmaster: mail.Address{Local: "it", Domain: "example.com"},
		Ingress: config.Ingress{
			Listeners: []config.Listener{
				{Name: "mx", TLS: config.ListenerSTARTTLS},
				{Name: "submission", TLS: config.ListenerSTARTTLS, AuthRequired: true},
				{Name: "submissions", TLS: config.ListenerImplicit, AuthRequired: true},
				{Name: "inside", TLS: config.ListenerPlain},
				{Name: "narrow", TLS: config.ListenerPlain},
			},
			Limits: config.Limits{MessageSize: 1e6, Recipients: 5, Connections: 100},
		},
		Domains: []config.Domain{{Name: "example.com", File: list}, {Name: "any.example", Any: true}},
		Relay: []config.RelayRule{
			{Name: "mailserver", Networks: loop, Listeners: []string{"inside"}},
			{Name: "first", Networks: loop, Listeners: []string{"narrow"}, Senders: []string{"*@one.example"}},
			{Name: "second", Networks: loop, Listeners: []string{"narrow"}, Senders: []string{"*@two.example"}},
			{Name: "staff", Auth: true, Listeners: []string{"submission", "submissions"}},
		},
		Chains: []*config.Chain{
			{Name: "info", Match: config.Match{Direction: []mail.Direction{mail.Inbound}, Recipients: []string{"info@example.com"}}},
			{Name: "inbound", Match: config.Match{Direction: []mail.Direction{mail.Inbound}}, Stages: []config.Use{{Stage: scan, Inline: true, OnError: "defer"}}},
			{Name: "second", Match: config.Match{Relay: []string{"second"}}},
			{Name: "outbound", Match: config.Match{Direction: []mail.Direction{mail.Outbound}}},
		},
	}
}

// newRig starts a server; change may change its configuration and limits first.
func newRig(t *testing.T, change func(*config.Config, *Options)) *rig {
	t.Helper()
	r := &rig{t: t, cfg: baseConfig(t), intake: &fakeIntake{}, log: &logBuffer{}, addrs: map[string]string{}, served: make(chan error, 1)}
	logger := slog.New(slog.NewTextHandler(r.log, nil))
	opts := Options{
		Intake: r.intake, Logger: logger, Now: time.Now,
		Sleep: func(_ context.Context, d time.Duration) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.sleeps = append(r.sleeps, d)
		},
		OnLoop: func(l Loop) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.loops = append(r.loops, l)
		},
	}
	if change != nil {
		change(r.cfg, &opts)
	}
	var err error
	opts.Policy, err = policy.New(r.cfg, policy.Options{Logger: logger, Now: time.Now, Secret: []byte("0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	opts.Users, err = users.Open(r.cfg.Ingress.UsersFile, logger, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	r.policy, r.users = opts.Policy, opts.Users
	if r.server, err = New(r.cfg, opts); err != nil {
		t.Fatal(err)
	}
	listeners := map[string]net.Listener{}
	for _, l := range r.cfg.Ingress.Listeners {
		nl, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[l.Name] = nl
		r.addrs[l.Name] = nl.Addr().String()
	}
	go func() { r.served <- r.server.Serve(listeners) }()
	t.Cleanup(r.stop)
	return r
}

func (r *rig) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := r.server.Shutdown(ctx); err != nil {
		r.t.Errorf("shutdown: %v", err)
	}
	if err := <-r.served; err != nil {
		r.t.Errorf("serve: %v", err)
	}
	r.intake.mu.Lock()
	defer r.intake.mu.Unlock()
	if r.intake.open != 0 {
		r.t.Errorf("%d receptions were neither committed nor aborted", r.intake.open)
	}
}

// client is one end of a dialogue.
type client struct {
	t  *testing.T
	c  net.Conn
	in []byte
}

func (r *rig) dial(listener string) *client {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.addrs[listener])
	if err != nil {
		r.t.Fatal(err)
	}
	c := &client{t: r.t, c: nc}
	r.t.Cleanup(func() { _ = nc.Close() })
	return c
}

// hello dials and says EHLO.
func (r *rig) hello(listener string) *client {
	r.t.Helper()
	c := r.dial(listener)
	if listener == "submissions" {
		c.secure()
	}
	c.expect("220 ")
	c.script("C: EHLO client.example", "S: 250 ")
	return c
}

func (c *client) secure() {
	c.t.Helper()
	t := tls.Client(c.c, &tls.Config{InsecureSkipVerify: true})
	if err := t.Handshake(); err != nil {
		c.t.Fatalf("TLS: %v", err)
	}
	c.c = t
}

func (c *client) send(s string) {
	c.t.Helper()
	_ = c.c.SetWriteDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c.c, s); err != nil {
		c.t.Fatalf("send %.60q: %v", s, err)
	}
}

// line reads one line; "EOF" at the end of the connection.
func (c *client) line() string {
	c.t.Helper()
	for {
		if i := bytes.IndexByte(c.in, '\n'); i >= 0 {
			s := string(c.in[:i+1])
			c.in = c.in[i+1:]
			if !strings.HasSuffix(s, "\r\n") {
				c.t.Fatalf("a reply with a bare LF: %q", s)
			}
			return strings.TrimSuffix(s, "\r\n")
		}
		buf := make([]byte, 4096)
		_ = c.c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.c.Read(buf)
		c.in = append(c.in, buf[:n]...)
		if n == 0 && err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.t.Fatalf("no reply; so far %q", c.in)
			}
			return "EOF"
		}
	}
}

// reply reads a whole reply, its lines joined by newlines.
func (c *client) reply() string {
	c.t.Helper()
	var all []string
	for {
		l := c.line()
		all = append(all, l)
		if len(l) < 4 || l[3] != '-' {
			return strings.Join(all, "\n")
		}
	}
}

// expect compares the last line of the next reply: as a prefix, or as a pattern between slashes.
func (c *client) expect(want string) string {
	c.t.Helper()
	got := c.reply()
	last := got[strings.LastIndexByte(got, '\n')+1:]
	if pattern, ok := strings.CutPrefix(want, "/"); ok {
		if !regexp.MustCompile(strings.TrimSuffix(pattern, "/")).MatchString(got) {
			c.t.Fatalf("got %q, want a match of %s", got, want)
		}
	} else if !strings.HasPrefix(last, want) {
		c.t.Fatalf("got %q, want %q", got, want)
	}
	return got
}

// script plays a dialogue: "C: " lines are sent with CRLF, "R: " lines raw with Go escapes, "S: " lines expected,
// "TLS" makes a handshake.
func (c *client) script(lines ...string) {
	c.t.Helper()
	for _, l := range lines {
		for one := range strings.SplitSeq(strings.TrimSpace(l), "\n") {
			one = strings.TrimLeft(one, "\t ")
			switch {
			case one == "" || one[0] == '#':
			case one == "TLS":
				c.secure()
			case one == "C:":
				c.send("\r\n")
			case strings.HasPrefix(one, "C: "):
				c.send(one[3:] + "\r\n")
			case strings.HasPrefix(one, "R: "):
				c.send(unescape(c.t, one[3:]))
			case strings.HasPrefix(one, "S: "):
				c.expect(one[3:])
			default:
				c.t.Fatalf("script: %q", one)
			}
		}
	}
}

func unescape(t *testing.T, s string) string {
	t.Helper()
	r := strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\0`, "\x00", `\t`, "\t", `\\`, `\`)
	return r.Replace(s)
}
