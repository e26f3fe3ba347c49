package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stagecoachmail/stagecoach/test/bench/internal/corpus"
	"github.com/stagecoachmail/stagecoach/test/bench/internal/ledger"
	"github.com/stagecoachmail/stagecoach/test/bench/internal/sink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newLoad loads addr with a corpus.
func newLoad(t *testing.T, addr, name string, sessions int, rate float64) *Load {
	t.Helper()
	c, err := corpus.New(name, 1, ledger.TokenSize)
	if err != nil {
		t.Fatal(err)
	}
	return &Load{Target: Target{Addr: addr}, Corpus: c, Ledger: ledger.New(1), Sessions: sessions, Rate: rate}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What is accepted arrives, each message once, over more than one connection.
func TestClosedLoop(t *testing.T) {
	l := listen(t)
	load := newLoad(t, l.Addr().String(), "mixed", 4, 0)
	s := sink.Serve(l, sink.Options{TokenSize: ledger.TokenSize, Arrived: func(a sink.Arrival) { load.Ledger.Arrived(a.Token, a.Size, a.Signed, a.At) }})
	if err := load.Run(t.Context(), 300*time.Millisecond); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if v := load.Ledger.Violations(false); len(v) > 0 {
		t.Errorf("%d violations: %s, ...", len(v), v[0])
	}
	f := load.Ledger.Figures(0)
	if least := 4*perSession + 1; f.Messages < least || f.Messages != load.Ledger.Len() {
		t.Errorf("%d of %d messages arrived, want %d at least", f.Messages, load.Ledger.Len(), least)
	}
	if want := int64(load.Corpus.At(0).Size()) * 10; f.Bytes < want {
		t.Errorf("%d bytes", f.Bytes)
	}
}

// serve answers sessions by a script: answer gets each command line, "." for a message, and how many of those lines there
// were before.
func serve(t *testing.T, answer func(line string, n int) string) (addr string) {
	t.Helper()
	l := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var n atomic.Int64
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			talk(c, &n, answer)
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func talk(c net.Conn, n *atomic.Int64, answer func(line string, n int) string) {
	defer c.Close()
	r := bufio.NewReader(c)
	data := false
	_, err := fmt.Fprint(c, "220-hello\r\n220 there\r\n")
	for err == nil {
		var line string
		if line, err = r.ReadString('\n'); err != nil {
			return
		}
		if line = strings.TrimSpace(line); data && line != "." {
			continue
		}
		reply := answer(line, int(n.Load()))
		if line == "." {
			n.Add(1)
		}
		if reply == "" {
			return
		}
		data = strings.HasPrefix(reply, "354")
		_, err = fmt.Fprintf(c, "%s\r\n", reply)
	}
}

// polite is a server that takes everything.
func polite(line string) string {
	switch {
	case line == "DATA":
		return "354 go ahead"
	case line == "QUIT":
		return "221 bye"
	}
	return "250 ok"
}

func TestAnswers(t *testing.T) {
	run := func(answer func(line string, n int) string) (*Load, error) {
		load := newLoad(t, serve(t, answer), "10k", 1, 0)
		return load, load.Run(t.Context(), 400*time.Millisecond)
	}

	t.Run("a 4xx is no end", func(t *testing.T) {
		first := true
		load, err := run(func(line string, n int) string {
			if n == 0 && first && strings.HasPrefix(line, "MAIL") {
				return "451 4.3.2 later"
			}
			if n == 0 && first && line != "RSET" && !strings.HasPrefix(line, "EHLO") {
				return "503 5.5.1 MAIL first"
			}
			first = first && line != "RSET"
			if n == 3 && line == "." {
				return "452 4.3.1 no room"
			}
			return polite(line)
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := load.Ledger.Deferrals(); n != 2 {
			t.Errorf("%d deferrals, want 2", n)
		}
		for _, v := range load.Ledger.Violations(false) {
			if !strings.Contains(v, "lost") { // this server keeps nothing
				t.Error(v)
			}
		}
		if load.Ledger.Len() < 5 {
			t.Errorf("only %d messages", load.Ledger.Len())
		}
	})
	t.Run("a 5xx is a violation", func(t *testing.T) {
		load, err := run(func(line string, n int) string {
			if line == "." {
				return "554 5.6.0 no"
			}
			return polite(line)
		})
		if err != nil {
			t.Fatal(err)
		}
		if v := load.Ledger.Violations(false); len(v) == 0 || !strings.HasSuffix(v[0], "refused for good: 554 5.6.0 no") {
			t.Errorf("violations: %.200q", v)
		}
	})
	t.Run("a broken session is an error", func(t *testing.T) {
		if load, err := run(func(line string, n int) string {
			if n == 2 && line == "." {
				return ""
			}
			return polite(line)
		}); err == nil || !strings.Contains(err.Error(), load.Ledger.Token(2)) {
			t.Errorf("error %v", err)
		}
	})
}

// An open loop keeps to its rate, and a server that stands still for a while costs all that were due meanwhile.
func TestOpenLoop(t *testing.T) {
	stood := false
	load := newLoad(t, serve(t, func(line string, n int) string {
		if n == 10 && line == "." && !stood {
			stood = true
			<-time.After(200 * time.Millisecond)
		}
		return polite(line)
	}), "10k", 1, 100)
	if err := load.Run(t.Context(), 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if n := load.Ledger.Len(); n != 50 {
		t.Errorf("%d messages, want 50", n)
	}
	for n := range load.Ledger.Len() {
		load.Ledger.Arrived(load.Ledger.Token(n), 1<<30, true, time.Now())
	}
	// Without the wait in the queue only one message of 50 would be late.
	if f := load.Ledger.Figures(0); f.Accept.P50 > 150*time.Millisecond || f.Accept.P95 < 100*time.Millisecond {
		t.Errorf("time to the 250: %v", f.Accept)
	}
}

// A bound on bytes ends a load before its time.
func TestMost(t *testing.T) {
	load := newLoad(t, serve(t, func(line string, _ int) string { return polite(line) }), "10k", 1, 0)
	load.Most = 45_000
	start := time.Now()
	if err := load.Run(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if n := load.Ledger.Len(); n != 5 || time.Since(start) > 30*time.Second {
		t.Errorf("%d messages of 10 KB, want 5, after %v", n, time.Since(start))
	}
}

// Several messages go over a connection, which ends in good order.
func TestSessions(t *testing.T) {
	var hello, quit atomic.Int64
	load := newLoad(t, serve(t, func(line string, _ int) string {
		switch verb, _, _ := strings.Cut(line, " "); verb {
		case "EHLO":
			hello.Add(1)
		case "QUIT":
			quit.Add(1)
		}
		return polite(line)
	}), "10k", 1, 0)
	load.Most = int64(load.Corpus.At(0).Size()) * (2*perSession + 3)
	if err := load.Run(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if hello.Load() != 3 || quit.Load() != 3 {
		t.Errorf("%d messages over %d connections, %d ended in good order; want 3", load.Ledger.Len(), hello.Load(), quit.Load())
	}
}

// A server that says nothing does not hold up the end.
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	silence := make(chan struct{})
	load := newLoad(t, serve(t, func(line string, n int) string {
		if n == 5 && line == "." {
			cancel()
			<-silence
		}
		return polite(line)
	}), "10k", 1, 0)
	err := load.Run(ctx, time.Minute)
	close(silence)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
