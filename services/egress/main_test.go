package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const simple = "From: a@from.example\r\nSubject: x\r\n\r\nHello.\r\n.\r\nBye.\r\n"

// sink records what comes back, and gives leave unless told otherwise.
type sink struct {
	ready func(ctx context.Context, to []mail.RecipientID) error

	mu    sync.Mutex
	fates []chain.Fate
	asked [][]mail.RecipientID
}

func (s *sink) Report(chain.Report) {}

func (s *sink) Fate(f chain.Fate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fates = append(s.fates, f)
}

func (s *sink) Ready(ctx context.Context, to []mail.RecipientID) error {
	s.mu.Lock()
	s.asked = append(s.asked, to)
	s.mu.Unlock()
	if s.ready != nil {
		return s.ready(ctx, to)
	}
	return nil
}

func (s *sink) leaves() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// of gives the fate of each recipient, and fails if one has not exactly one.
func (s *sink) of(t *testing.T, to ...mail.RecipientID) map[mail.RecipientID]chain.Fate {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	got := map[mail.RecipientID]chain.Fate{}
	for _, f := range s.fates {
		if _, twice := got[f.Recipient]; twice {
			t.Errorf("two fates for %s", f.Recipient)
		}
		got[f.Recipient] = f
	}
	if len(got) != len(to) {
		t.Fatalf("%d fates for %d recipients: %+v", len(got), len(to), s.fates)
	}
	return got
}

// want compares kinds in the order of the recipients r0, r1…
func (s *sink) want(t *testing.T, kinds ...chain.FateKind) []chain.Fate {
	t.Helper()
	ids := make([]mail.RecipientID, len(kinds))
	for i := range ids {
		ids[i] = rid(i)
	}
	got := s.of(t, ids...)
	out := make([]chain.Fate, len(kinds))
	for i, id := range ids {
		out[i] = got[id]
		if got[id].Kind != kinds[i] {
			t.Errorf("%s: %s, want %s: %s", id, got[id].Kind, kinds[i], describe(got[id]))
		}
	}
	return out
}

func describe(f chain.Fate) string {
	reply := "no reply"
	if f.Reply != nil {
		reply = f.Reply.Error()
	}
	return fmt.Sprintf("%s about %s %q, %s, %q", f.Kind, f.Concern, f.About, reply, f.Reason)
}

func rid(i int) mail.RecipientID { return mail.RecipientID(fmt.Sprintf("r%d", i)) }

// parcel makes one for the route "out".
func parcel(id, content string, to ...string) *chain.Parcel {
	p := &chain.Parcel{Message: mail.Message{ID: id, Attempt: 1, Content: mail.FromBytes([]byte(content))},
		Slip: chain.Slip{Route: chain.Route{Name: "out", Hash: "h1"}}}
	p.Envelope.ReversePath = mail.Address{Local: "sender", Domain: "from.example"}
	for i, a := range to {
		at := strings.LastIndexByte(a, '@')
		p.Envelope.Recipients = append(p.Envelope.Recipients, mail.Recipient{ID: rid(i), Address: mail.Address{Local: a[:at], Domain: a[at+1:]}})
		p.Pending = append(p.Pending, rid(i))
	}
	return p
}

// rig is an engine with what surrounds it in a test.
type rig struct {
	*Egress
	log *logbook
	dir string
}

type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type setup struct {
	route  config.Route
	opts   func(*Options)
	limits func(*limits)
}

func conf(dir string, r config.Route) *config.Config {
	r.Name, r.Hash = "out", "h1"
	return &config.Config{Hostname: "gate.example", DataDir: dir, Dir: dir, Routes: map[string]*config.Route{"out": &r}}
}

func build(t *testing.T, s setup) *rig {
	t.Helper()
	r := &rig{log: &logbook{}, dir: t.TempDir()}
	short := 2 * time.Second
	o := Options{Config: conf(r.dir, s.route), Logger: slog.New(slog.NewJSONHandler(r.log, nil)),
		Deadlines: Deadlines{Greeting: short, Hello: short, Mail: short, Rcpt: short, Data: short, Block: short, Dot: short, Reset: short, Farewell: 200 * time.Millisecond}}
	if s.opts != nil {
		s.opts(&o)
	}
	l := defaultLimits()
	if s.limits != nil {
		s.limits(&l)
	}
	e, err := newEgress(o, l)
	if err != nil {
		t.Fatal(err)
	}
	r.Egress = e
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

func smart(s *smtptest.Server) config.Route {
	return config.Route{Smarthost: &config.Smarthost{Address: s.Addr, TLS: config.TLSNone}}
}

func (r *rig) carry(t *testing.T, p *chain.Parcel) *sink {
	t.Helper()
	s := &sink{}
	r.Carry(t.Context(), p, s)
	return s
}

func (r *rig) file(t *testing.T, name string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// answer makes a script that answers one step, where the line contains what, with a reply.
func answer(step, what, reply string) smtptest.Script {
	return func(c *smtptest.Conn, at, line string) bool {
		if at != step || !strings.Contains(line, what) {
			return false
		}
		c.Say(strings.Split(reply, "\n")...)
		return true
	}
}

// clock is set by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now()} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var errRefusal = errors.New("fenced")
