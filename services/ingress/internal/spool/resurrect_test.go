package spool_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestEndedStaysEnded: a message that waited more than once and has ended is not found again when the server has to
// read its files anew, as it does after a crash.
func TestEndedStaysEnded(t *testing.T) {
	dir := t.TempDir()
	srv, err := startServer(dir)
	if err != nil {
		t.Fatal(err)
	}
	nc := connect(t, srv)
	s, _ := open(t, options(nc, "mx"))
	ctx := background(t)
	if err := s.Accept(ctx, message(t, s, "id", []byte("body\r\n"), "r")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := s.Settle(ctx, retry("id", time.Now().Add(time.Hour), "r")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the older value is deleted", func() bool { return streamState(t, nc, "DEPOT_mx").Msgs == 3 }) // mark, bytes, value
	}
	if err := s.Settle(ctx, delivered("id", "r")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left", func() bool {
		return streamState(t, nc, "DEPOT_mx").Msgs == 1 && streamState(t, nc, "SPOOL_mx").Msgs <= 1
	})
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	srv.Shutdown()
	srv.WaitForShutdown()
	states, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*", "msgs", "index.db"))
	if err != nil || len(states) == 0 {
		t.Fatalf("no state files: %v", err)
	}
	for _, f := range states {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	if srv, err = startServer(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	_, found := open(t, options(connect(t, srv), "mx"))
	if len(found.Waiting)+len(found.Run) > 0 {
		t.Fatalf("it is back: waiting %+v, run %+v", found.Waiting, found.Run)
	}
}
