package bus

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func start(t *testing.T, o Options) *Server {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What was acknowledged is there after a restart, and nobody else can connect.
func TestEmbedded(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Options{Dir: dir})
	nc, err := s.Connect("test")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s", make([]byte, 7<<20)); err != nil {
		t.Fatalf("a record of 7 MiB: %v", err)
	}
	if free, err := s.FreeSpace(); err != nil || free == 0 {
		t.Errorf("FreeSpace: %d, %v", free, err)
	}
	if addr := s.ns.Addr(); addr != nil {
		t.Errorf("the embedded server listens on %v", addr)
	}
	nc.Close()
	s.Stop()

	s = start(t, Options{Dir: dir})
	defer s.Stop()
	if nc, err = s.Connect("again"); err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if n := st.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("%d records after the restart", n)
	}
}

func TestListening(t *testing.T) {
	s := start(t, Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Monitor: "127.0.0.1:0"})
	defer s.Stop()
	nc, err := nats.Connect(s.URL(), nats.Timeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

func TestBadAddress(t *testing.T) {
	for _, o := range []Options{{Listen: "nonsense"}, {Listen: "127.0.0.1:http"}, {Listen: "127.0.0.1:0", Monitor: "x"}} {
		o.Dir, o.Logger = t.TempDir(), slog.New(slog.DiscardHandler)
		if s, err := Start(o); err == nil {
			s.Stop()
			t.Errorf("%+v: started", o)
		}
	}
}
