package spool_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("SPOOL_TEST_CHILD"); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m,
		// The embedded server's own, which end some time after its shutdown.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine.func1"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*ipQueue[...])"),
	)
}

func serverOptions(dir string) *server.Options {
	return &server.Options{
		ServerName: "spooltest", DontListen: true, JetStream: true, SyncAlways: true, StoreDir: dir,
		MaxPayload: 8 << 20, NoLog: true, NoSigs: true, JetStreamMaxStore: 64 << 30, JetStreamMaxMemory: 64 << 20,
	}
}

func startServer(dir string) (*server.Server, error) {
	srv, err := server.NewServer(serverOptions(dir))
	if err != nil {
		return nil, err
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		return nil, fmt.Errorf("the server does not start")
	}
	return srv, nil
}

func newServer(t testing.TB) *server.Server {
	t.Helper()
	srv, err := startServer(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	return srv
}

func connect(t testing.TB, srv *server.Server) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// quick are times for tests: a lease of a second, watched for 150 ms.
func quick() spool.Times {
	return spool.Times{
		Lease: time.Second, Renew: 50 * time.Millisecond, Watch: 150 * time.Millisecond, Append: 5 * time.Second,
		Ack: time.Second, Pause: 10 * time.Millisecond, Floor: 20 * time.Millisecond, Unknown: 300 * time.Millisecond,
		Stall: 500 * time.Millisecond, Trail: 5 * time.Millisecond,
	}
}

var processes atomic.Int64

func options(nc *nats.Conn, instance string) spool.Options {
	return spool.Options{
		Conn: nc, Instance: instance, Process: fmt.Sprintf("p%d", processes.Add(1)), Times: quick(),
		Limits: spool.Limits{Spool: 1 << 30, Body: 1 << 30, Depot: 1 << 30, Trail: 1 << 30},
		Logger: slog.New(slog.DiscardHandler),
	}
}

func open(t testing.TB, o spool.Options) (*spool.Shard, *spool.Recovered) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, r, err := spool.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s, r
}

func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// message makes an accepted entry with a finished body; recipients go round the chains a and b.
func message(t testing.TB, s *spool.Shard, id string, body []byte, recipients ...mail.RecipientID) *spool.Accepted {
	t.Helper()
	w := s.NewBody(context.Background(), id)
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	b, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return accepted(id, b, recipients...)
}

func accepted(id string, b spool.Body, recipients ...mail.RecipientID) *spool.Accepted {
	a := &spool.Accepted{
		ID: id, Received: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Body: b,
		Envelope: mail.Envelope{
			ReversePath: mail.Address{Local: "sender \xff", Domain: "example.org"}, EnvID: "env\xfe",
			Origin: mail.Origin{Direction: mail.Outbound, Relay: "staff", Listener: "mx", Client: "192.0.2.1"},
		},
	}
	starts := map[string]*spool.Start{}
	for i, r := range recipients {
		a.Envelope.Recipients = append(a.Envelope.Recipients, mail.Recipient{ID: r, Address: mail.Address{Local: string(r), Domain: "example.net"}})
		chain := []string{"a", "b"}[i%2]
		if starts[chain] == nil {
			starts[chain] = &spool.Start{Chain: chain}
		}
		starts[chain].Recipients = append(starts[chain].Recipients, r)
	}
	for _, c := range []string{"a", "b"} {
		if starts[c] != nil {
			a.Starts = append(a.Starts, *starts[c])
		}
	}
	return a
}

func delivered(id string, recipients ...mail.RecipientID) *spool.Settled {
	return &spool.Settled{ID: id, Ends: []spool.End{{Recipients: recipients, Kind: spool.EndDelivered}}}
}

func retry(id string, next time.Time, recipients ...mail.RecipientID) *spool.Settled {
	return &spool.Settled{ID: id, Waits: []spool.Wait{{Recipients: recipients, Chain: "a", Room: spool.Retry, Attempts: 1, Next: next}}}
}

func read(t testing.TB, s *spool.Shard, id string, b spool.Body) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := s.OpenBody(background(t), id, b, &buf); err != nil {
		t.Fatalf("body of %s: %v", id, err)
	}
	return buf.Bytes()
}

// eventually polls: what it waits for happens in another process's time, not in a clock of ours.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func runIDs(r *spool.Recovered) map[string]*spool.Accepted {
	m := make(map[string]*spool.Accepted)
	for _, a := range r.Run {
		m[a.ID] = a
	}
	return m
}
