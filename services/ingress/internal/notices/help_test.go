package notices

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	netmail "net/mail"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/stagecoachmail/stagecoach/mail"
)

// world is an installation whose time the test moves.
type world struct {
	t    *testing.T
	conn *nats.Conn
	now  time.Time
	// letters were sent, by whomever.
	letters []letter
}

type letter struct{ by, subject, text string }

// office is one ingress of it.
type office struct {
	*Teller
	w     *world
	name  string
	stops []Stop
	certs []Certificate
	fills []Fill
	held  []Held
	fails error
	asked int // for what is held
}

func newWorld(t *testing.T) *world {
	t.Helper()
	srv, err := server.NewServer(&server.Options{ServerName: "test", DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return &world{t: t, conn: nc, now: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)}
}

// office starts an ingress, or starts it again.
func (w *world) office(name string) *office {
	w.t.Helper()
	o := &office{w: w, name: name}
	var err error
	o.Teller, err = New(w.t.Context(), Options{Conn: w.conn, Instance: name, Process: name + w.now.String(), Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now },
		Location: time.FixedZone("CET", 3600)})
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (o *office) source() Source {
	return Source{Postmaster: func() (mail.Address, string) {
		return mail.Address{Local: "it", Domain: "example.com"}, "relay.example.com"
	},
		Stops: func() []Stop { return o.stops }, Certificates: func() []Certificate { return o.certs }, Fills: func() []Fill { return o.fills },
		Held: func(_ context.Context, most int) ([]Held, int) {
			o.asked++
			return o.held[:min(len(o.held), most)], len(o.held)
		},
		Send: func(_ context.Context, to mail.Address, write func(string, time.Time) []byte) error {
			if o.fails != nil {
				return o.fails
			}
			if to.String() != "it@example.com" {
				o.w.t.Errorf("it goes to %s", to)
			}
			o.w.letters = append(o.w.letters, read(o.w.t, o.name, write("id", o.w.now)))
			return nil
		}}
}

// read reads a letter as the postmaster's program does.
func read(t *testing.T, by string, raw []byte) letter {
	t.Helper()
	m, err := netmail.ReadMessage(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(raw)) {
		if !strings.HasSuffix(l, "\r\n") || len(l) > 200 || strings.ContainsFunc(strings.TrimSuffix(l, "\r\n"), func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("a line is %q", l)
		}
	}
	return letter{by, subject, string(text)}
}

// pass lets time pass, with a look of every office each 20 s.
func (w *world) pass(d time.Duration, offices ...*office) {
	w.t.Helper()
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(min(20*time.Second, end.Sub(w.now)))
		for _, o := range offices {
			o.Look(w.t.Context(), o.source())
		}
	}
}

// wants compares what was sent since the last time: for each letter, words that it has, of the subject first.
func (w *world) wants(what string, letters ...[]string) []letter {
	w.t.Helper()
	got := w.letters
	w.letters = nil
	if len(got) != len(letters) {
		w.t.Fatalf("%s: %d letters, want %d: %v", what, len(got), len(letters), got)
	}
	for i, words := range letters {
		for n, word := range words {
			if in := got[i].subject + "\n" + got[i].text; n == 0 && !strings.Contains(got[i].subject, word) || !strings.Contains(in, word) {
				w.t.Errorf("%s: %q does not stand in letter %d:\n%s\n%s", what, word, i, got[i].subject, got[i].text)
			}
		}
	}
	return got
}

var errNo = errors.New("no")

func nullPostmaster(to mail.Address, host string) func() (mail.Address, string) {
	return func() (mail.Address, string) { return to, host }
}
