package antivirus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
	"github.com/stagecoachmail/stagecoach/stage/stagetest"
)

// clamdStage is a stage with this clamd, and a clock of its own.
func clamdStage(t testing.TB, url string, atOnce int, now func() time.Time) *Stage {
	t.Helper()
	c := defaultConfig()
	c.Clamd, c.MaxScans = url, atOnce
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	s := settings(t)
	if now != nil {
		s.Now = now
	}
	st, err := New(s, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// textMail is a harmless message of about n bytes, another one for each seed.
func textMail(n int, seed byte) []byte {
	b := []byte("Subject: text\r\nContent-Type: text/plain\r\n\r\n")
	for len(b) < n {
		b = fmt.Appendf(b, "This is line %d of text number %d, and there is no harm in it.\r\n", len(b), seed)
	}
	return b
}

// What clamd may say, and what it means. An answer that is not whole and plain is an error, never clean.
func TestReplies(t *testing.T) {
	const (
		ok   = "continue"
		fail = "error"
	)
	for reply, want := range map[string]string{
		"stream: OK\x00":                                           ok,
		"instream(127.0.0.1@49152): OK\x00":                        ok,
		"stream: Win.Test.EICAR_HDB-1 FOUND\x00":                   "quarantine infected: Win.Test.EICAR_HDB-1",
		"stream: OK FOUND\x00":                                     "quarantine infected: OK",
		"stream: Eicar(44d88612:68) FOUND\x00":                     "quarantine infected: Eicar(44d88612:68)",
		"INSTREAM size limit exceeded. ERROR\x00":                  "quarantine unscannable: clamd did not scan all of it (StreamMaxLength)",
		"stream: Heuristics.Limits.Exceeded.MaxScanSize FOUND\x00": "quarantine unscannable: clamd did not scan all of it (Heuristics.Limits.Exceeded.MaxScanSize)",
		"stream: Heuristics.Encrypted.Zip FOUND\x00":               "quarantine unscannable",
		"stream: Can't allocate memory ERROR\x00":                  fail,
		"COMMAND READ TIMED OUT\x00":                               fail,
		"UNKNOWN COMMAND\x00":                                      fail,
		"":                                                         fail,
		"\x00":                                                     fail,
		"stream: O":                                                fail,
		"stream: OK":                                               fail,
		"stream: OK\n":                                             fail,
		"stream: OK\n\x00":                                         fail,
		"stream: OK \x00":                                          fail,
		"stream: ok\x00":                                           fail,
		"stream: \x00":                                             fail,
		"OK\x00":                                                   fail,
		"stream: OK\x00stream: Evil FOUND\x00":                     fail,
		"stream:  FOUND\x00":                                       fail,
		"stream: FOUND\x00":                                        fail,
		"stream: Evil\r\nX-Injected: 1 FOUND\x00":                  fail,
		"stream: " + strings.Repeat("x", 5000) + " FOUND\x00": fail,
		strings.Repeat("x", 100_000):                          fail,
	} {
		for _, network := range []string{"tcp", "unix"} {
			f := newFakeClamd(t, network, script{reply: reply})
			st := clamdStage(t, f.url, 1, nil)
			raw := textMail(200<<10, 1)
			res, err := st.Process(t.Context(), stagetest.Message(raw))
			got := strings.TrimSpace(res.Verdict.Kind.String() + " " + res.Verdict.Reason)
			if err != nil {
				got = fail
			}
			if !strings.HasPrefix(got, want) || want == ok && got != ok {
				t.Errorf("%s, %.60q: %s (%v), want %s", network, reply, got, err, want)
			}
			if f.mu.Lock(); len(f.bodies) != 1 || !bytes.Equal(f.bodies[0], raw) {
				t.Errorf("%s, %.60q: clamd did not get the message", network, reply)
			}
			f.mu.Unlock()
		}
	}
}

// clamd answers before it has the whole message, and closes, or reads no more.
func TestEarlyReplies(t *testing.T) {
	raw := textMail(8<<20, 1) // more than what the sockets hold
	for _, hang := range []bool{false, true} {
		for reply, want := range map[string]string{
			"INSTREAM size limit exceeded. ERROR\x00": "quarantine unscannable",
			"stream: Evil FOUND\x00":                  "quarantine infected: Evil",
			"stream: OK\x00":                          "error",
			"stream: O":                               "error",
			"":                                        "error",
		} {
			if hang && !strings.HasSuffix(reply, "\x00") {
				continue
			}
			for _, network := range []string{"tcp", "unix"} {
				f := newFakeClamd(t, network, script{reply: reply, after: 100_000, hang: hang})
				st := clamdStage(t, f.url, 1, nil)
				res, err := st.Process(t.Context(), stagetest.Message(raw))
				got := res.Verdict.Kind.String() + " " + res.Verdict.Reason
				if err != nil {
					got = "error"
				}
				if !strings.HasPrefix(got, want) {
					t.Errorf("%s, %q, hang %v: %s (%v), want %s", network, reply, hang, got, err, want)
				}
			}
		}
	}
}

func TestClamdDown(t *testing.T) {
	st := clamdStage(t, "unix:///nonexistent/clamd.sock", 1, nil)
	if res, err := st.Process(t.Context(), stagetest.Message(textMail(100, 1))); err == nil {
		t.Errorf("verdict %v", res.Verdict.Kind)
	}
}

// What the built-in engine holds is not sent to clamd.
func TestBuiltinFirst(t *testing.T) {
	f := newFakeClamd(t, "tcp", script{reply: "stream: OK\x00"})
	st := clamdStage(t, f.url, 1, nil)
	if got := verdict(t, st, []byte("\r\n"+testSignature)); !strings.HasPrefix(got, "quarantine infected") {
		t.Error(got)
	}
	if n, _, _ := f.seen(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// A scan that outlives its deadline keeps its place; the next attempt waits for it instead of starting another; and
// what it said when nobody waited is used.
func TestTimedOut(t *testing.T) {
	release := make(chan struct{})
	f := newFakeClamd(t, "tcp", script{reply: "stream: Slow FOUND\x00", wait: release}, script{reply: "stream: OK\x00"})
	st := clamdStage(t, f.url, 1, nil)
	raw := textMail(1000, 1)
	attempt := func(raw []byte, d time.Duration) (stage.Result, error) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return st.Process(ctx, stagetest.Message(raw))
	}
	for i := range 3 {
		// The first attempt may end before clamd has the message; until it has, the scan may be stopped.
		if i == 0 {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-f.scanned
				for !st.clamd.isSent() {
					runtime.Gosched()
				}
				cancel()
			}()
			if _, err := st.Process(ctx, stagetest.Message(raw)); !errors.Is(err, context.Canceled) {
				t.Fatalf("error %v", err)
			}
			continue
		}
		if res, err := attempt(raw, 20*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("attempt %d: %+v, %v", i, res, err)
		}
	}
	if _, err := attempt(textMail(1000, 2), 20*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("another message, while the only place is taken: %v", err)
	}
	if n, _, _ := f.seen(); n != 1 {
		t.Fatalf("%d scans were started, want 1", n)
	}
	done := st.clamd.running()
	close(release)
	<-done
	res, err := attempt(raw, time.Minute)
	if err != nil || res.Verdict.Kind != stage.KindQuarantine {
		t.Errorf("the answer that came late: %+v, %v", res, err)
	}
	if n, _, _ := f.seen(); n != 1 {
		t.Errorf("%d scans were started, want 1", n)
	}
	// It is used once: signatures change.
	if res, err = attempt(raw, time.Minute); err != nil || res.Verdict.Kind != stage.KindContinue {
		t.Errorf("after that: %+v, %v", res, err)
	}
}

// isSent says whether clamd has the whole of a message whose scan still runs.
func (s *scans) isSent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sc := range s.all {
		if sc.sent {
			return true
		}
	}
	return false
}

// running gives what is closed when a running scan ends.
func (s *scans) running() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sc := range s.all {
		return sc.done
	}
	return nil
}

// A late answer is forgotten after a time, a late failure at once.
func TestUnclaimed(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := newScans(endpoint{}, 1, func() time.Time { return now })
	unclaimed := func(b byte, err error) {
		sc := &scan{done: make(chan struct{}), cancel: func() {}}
		s.all[digest{b}] = sc
		s.finish(digest{b}, sc, reply{kind: replyClean}, err)
	}
	unclaimed(1, nil)
	unclaimed(2, io.EOF)
	if _, ok := s.all[digest{2}]; ok || len(s.all) != 1 {
		t.Errorf("kept: %v", s.all)
	}
	now = now.Add(unclaimedFor)
	if s.expire(); len(s.all) != 0 {
		t.Errorf("kept after %v: %v", unclaimedFor, s.all)
	}
	for i := range maxUnclaimed + 10 {
		now = now.Add(time.Second)
		sc := &scan{done: make(chan struct{})}
		sum := digest{1, byte(i), byte(i >> 8)}
		s.expire()
		s.all[sum] = sc
		s.finish(sum, sc, reply{kind: replyClean}, nil)
	}
	if _, oldest := s.all[digest{1}]; oldest || len(s.all) > maxUnclaimed {
		t.Errorf("%d kept, the oldest: %v", len(s.all), oldest)
	}
}

// Before clamd has the whole message, an attempt that ends takes its scan along.
func TestAbandoned(t *testing.T) {
	f := newFakeClamd(t, "tcp", script{after: 1000, wait: make(chan struct{})}, script{reply: "stream: OK\x00"})
	st := clamdStage(t, f.url, 1, nil)
	raw := textMail(8<<20, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-f.scanned
		cancel()
	}()
	if _, err := st.Process(ctx, stagetest.Message(raw)); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	res, err := st.Process(t.Context(), stagetest.Message(raw))
	if err != nil || res.Verdict.Kind != stage.KindContinue {
		t.Errorf("the next attempt: %+v, %v", res, err)
	}
}

func TestMaxScans(t *testing.T) {
	gate := make(chan struct{})
	f := newFakeClamd(t, "unix", script{reply: "stream: OK\x00", wait: gate})
	st := clamdStage(t, f.url, 3, nil)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			if _, err := st.Process(t.Context(), stagetest.Message(textMail(1000, byte(i)))); err != nil {
				t.Error(err)
			}
		})
	}
	for range 3 {
		<-f.scanned
	}
	close(gate)
	wg.Wait()
	if n, whole, most := f.seen(); n != 12 || whole != 12 || most > 3 {
		t.Errorf("%d scans, %d whole, %d at once; want 12, 12, 3 at most", n, whole, most)
	}
}

// A message that cannot be read to its end is not scanned in part, and clamd is not left waiting.
func TestUnreadableForClamd(t *testing.T) {
	f := newFakeClamd(t, "tcp", script{reply: "stream: OK\x00"})
	at, err := parseClamd(f.url)
	if err != nil {
		t.Fatal(err)
	}
	c := &faultyContent{Content: mail.FromBytes(textMail(500<<10, 1)), failAt: 4}
	r, err := instream(t.Context(), at, c, func() { t.Error("reported as sent") })
	if err == nil {
		t.Errorf("reply %+v", r)
	}
	if _, whole, _ := f.seen(); whole != 0 {
		t.Error("clamd took it for whole")
	}
}

// Whatever clamd says: clean is one text, and a name that gets out is harmless.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"stream: OK\x00", "stream: Evil FOUND\x00", "INSTREAM size limit exceeded. ERROR\x00", "instream(local): OK\x00", "stream: OK"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReply(b)
		if err != nil {
			if r != (reply{}) {
				t.Errorf("%+v with %v", r, err)
			}
			return
		}
		if b[len(b)-1] != 0 {
			t.Error("half a reply is taken")
		}
		if r.kind == replyClean && !strings.HasSuffix(string(b), ": OK\x00") {
			t.Errorf("%q is taken for clean", b)
		}
		found, err := r.finding()
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(found.reason, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Errorf("reason %q", found.reason)
		}
	})
}
