package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

func streamState(t *testing.T, nc *nats.Conn, name string) jetstream.StreamState {
	t.Helper()
	js, err := jetstream.New(nc)
	must(t, err)
	s, err := js.Stream(background(t), name)
	must(t, err)
	return s.CachedInfo().State
}

func TestACrashKeepsWhatWasAccepted(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	s, r := open(t, options(nc, "mx 1.example"))
	if len(r.Run) != 0 || !r.NotBefore.IsZero() {
		t.Fatalf("a new shard recovered %+v", r)
	}
	small, large := []byte("Subject: small\r\n\r\nhello\r\n"), bytes.Repeat([]byte("0123456789abcdef"), 200<<10)
	must(t, s.Accept(ctx, message(t, s, "small", small, "r1", "r2", "r3")))
	must(t, s.Accept(ctx, message(t, s, "large", large, "r1")))
	must(t, s.Accept(ctx, message(t, s, "gone", large, "r1")))
	must(t, s.Accept(ctx, message(t, s, "voided", small, "r1")))
	must(t, s.Settle(ctx, delivered("small", "r1")))
	must(t, s.Settle(ctx, delivered("gone", "r1")))
	must(t, s.Void(ctx, "voided"))
	due := time.Now().Add(time.Hour).Truncate(0).UTC()
	must(t, s.Settle(ctx, retry("small", due, "r2")))
	s.Kill()

	before := time.Now()
	s, r = open(t, options(nc, "mx 1.example"))
	run := runIDs(r)
	if len(run) != 2 || run["small"] == nil || run["large"] == nil {
		t.Fatalf("to run: %v", run)
	}
	if d := r.NotBefore.Sub(before); d < 300*time.Millisecond {
		t.Errorf("to be run %s after the takeover: an open outcome may need 300ms", d)
	}
	a := run["small"]
	if len(a.Starts) != 1 || a.Starts[0].Chain != "a" || !slices.Equal(a.Starts[0].Recipients, []mail.RecipientID{"r3"}) {
		t.Errorf("starts %+v", a.Starts)
	}
	if a.Envelope.ReversePath.Local != "sender \xff" || a.Envelope.EnvID != "env\xfe" || !a.Received.Equal(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)) {
		t.Errorf("envelope changed: %+v", a.Envelope)
	}
	if got := read(t, s, "small", a.Body); !bytes.Equal(got, small) {
		t.Errorf("small body %q", got)
	}
	if got := read(t, s, "large", run["large"].Body); !bytes.Equal(got, large) {
		t.Errorf("large body differs")
	}
	c, err := s.Content(ctx, "large", run["large"].Body, t.TempDir())
	must(t, err)
	if c.Size() != int64(len(large)) {
		t.Errorf("content of %d bytes", c.Size())
	}
	c.Release()
	m, ok := s.Waiting().Get("small")
	if !ok || len(m.Groups) != 1 || !m.Groups[0].Next.Equal(due) {
		t.Fatalf("waiting: %+v", m)
	}

	// All over: nothing is left anywhere.
	must(t, s.Settle(ctx, delivered("small", "r2", "r3")))
	must(t, s.Settle(ctx, delivered("large", "r1")))
	eventually(t, "everything deleted", func() bool {
		return streamState(t, nc, "BODY_mx_201_2eexample").Msgs == 0 && streamState(t, nc, "DEPOT_mx_201_2eexample").Msgs == 1 &&
			streamState(t, nc, "SPOOL_mx_201_2eexample").Msgs == 0
	})
	if !s.Empty() {
		t.Error("not empty")
	}
	must(t, s.Close(ctx))
	if err := s.Accept(ctx, accepted("late", spool.Body{}, "r")); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestAProcessOwnsAShardTwice(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	o := options(nc, "mx")
	for i := range 3 {
		s, r := open(t, o)
		if len(r.Run) != i {
			t.Fatalf("%d run, want %d", len(r.Run), i)
		}
		must(t, s.Accept(background(t), message(t, s, fmt.Sprintf("m%d", i), []byte("x"), "r")))
		must(t, s.Close(background(t)))
	}
}

func TestReplayIsHarmlessAndEndsStay(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	s, _ := open(t, options(nc, "mx"))
	must(t, s.Accept(ctx, message(t, s, "m", []byte("x"), "r1", "r2")))
	must(t, s.Settle(ctx, delivered("m", "r1")))
	must(t, s.Settle(ctx, retry("m", time.Now().Add(time.Hour), "r1", "r2")))
	for range 3 {
		s.Kill()
		var r *spool.Recovered
		s, r = open(t, options(nc, "mx"))
		if len(r.Run) != 0 || len(r.Waiting) != 1 {
			t.Fatalf("run %v, waiting %v", r.Run, r.Waiting)
		}
		m := r.Waiting[0]
		if !slices.Equal(m.Ended, []mail.RecipientID{"r1"}) || len(m.Groups) != 1 || !slices.Equal(m.Groups[0].Recipients, []mail.RecipientID{"r2"}) {
			t.Fatalf("ended %v, groups %+v", m.Ended, m.Groups)
		}
	}
	must(t, s.Settle(ctx, delivered("m", "r2")))
	s.Kill()
	_, r := open(t, options(nc, "mx"))
	if len(r.Run)+len(r.Waiting) != 0 {
		t.Fatalf("an ended message came back: %v %v", r.Run, r.Waiting)
	}
}

func TestTheFloorPassesMailThatWaits(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	s, _ := open(t, options(nc, "mx"))
	edits := mail.Edits{Splices: []mail.Splice{{Offset: 3, Insert: []byte("inserted")}}}
	done := []chain.Report{{Instance: "footer", Hash: "h", Recipients: []mail.RecipientID{"r"}, Outcome: chain.ByVerdict, Edits: edits}}
	for i := range 20 {
		id := fmt.Sprintf("m%02d", i)
		must(t, s.Accept(ctx, message(t, s, id, []byte("body of "+id), "r")))
		w := retry(id, time.Now().Add(time.Hour), "r")
		w.Waits[0].Done = done
		must(t, s.Settle(ctx, w))
	}
	eventually(t, "the log purged", func() bool { return streamState(t, nc, "SPOOL_mx").Msgs == 0 })
	v, _ := s.Waiting().Get("m07")
	if !v.Trimmed() || !v.Groups[0].Done[0].EditsOmitted {
		t.Error("the edits of a stored message are kept in memory")
	}
	// A copy of what the view shows must not get into the log.
	if err := s.Settle(ctx, &spool.Settled{ID: "m07", Waits: v.Groups}); err == nil {
		t.Error("a trimmed wait was accepted")
	}
	check := func(s *spool.Shard) {
		t.Helper()
		m, err := s.Load(ctx, "m07")
		must(t, err)
		if got := m.Groups[0].Done; len(got) != 1 || string(got[0].Edits.Splices[0].Insert) != "inserted" || got[0].EditsOmitted {
			t.Fatalf("hops done: %+v", got)
		}
		if got := read(t, s, "m07", m.Body); string(got) != "body of m07" {
			t.Fatalf("body %q", got)
		}
	}
	check(s)
	s.Kill()
	s, r := open(t, options(nc, "mx"))
	if len(r.Waiting) != 20 {
		t.Fatalf("%d wait", len(r.Waiting))
	}
	check(s)
	// Another group of the same message changes; the edits of the first survive.
	must(t, s.Accept(ctx, message(t, s, "two", []byte("2"), "r1", "r2")))
	w := retry("two", time.Now().Add(time.Hour), "r1", "r2")
	w.Waits[0].Recipients = []mail.RecipientID{"r1"}
	w.Waits[0].Done = done
	w.Waits = append(w.Waits, spool.Wait{Recipients: []mail.RecipientID{"r2"}, Chain: "b", Room: spool.Park})
	must(t, s.Settle(ctx, w))
	eventually(t, "stored", func() bool { m, _ := s.Waiting().Get("two"); return m.Trimmed() })
	must(t, s.Settle(ctx, delivered("two", "r2")))
	eventually(t, "stored again", func() bool { return streamState(t, nc, "SPOOL_mx").Msgs == 0 })
	s.Kill()
	s, _ = open(t, options(nc, "mx"))
	m, err := s.Load(ctx, "two")
	must(t, err)
	if len(m.Groups) != 1 || string(m.Groups[0].Done[0].Edits.Splices[0].Insert) != "inserted" {
		t.Fatalf("groups %+v", m.Groups)
	}
}

func TestOpenWaitsAreUnknownAfterATakeover(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	s, _ := open(t, options(nc, "mx"))
	must(t, s.Accept(ctx, message(t, s, "m", []byte("x"), "r")))
	w := retry("m", time.Now(), "r")
	w.Waits[0].Open = true
	must(t, s.Settle(ctx, w))
	if due := s.Waiting().Due(time.Now().Add(time.Hour), 9); len(due) != 0 {
		t.Fatalf("an open wait was woken: %v", due)
	}
	s.Kill()
	s, r := open(t, options(nc, "mx"))
	if due := s.Waiting().Due(r.NotBefore.Add(-time.Millisecond), 9); len(due) != 0 {
		t.Fatalf("woken before its outcome can be known: %v", due)
	}
	if due := s.Waiting().Due(r.NotBefore, 9); len(due) != 1 {
		t.Fatal("not woken after it")
	}
	s.MarkIdle()
	must(t, s.Close(ctx))
	if _, r = open(t, options(nc, "mx")); !r.NotBefore.IsZero() {
		t.Errorf("closed idle, and still to wait until %s", r.NotBefore)
	}
}

func TestDSNsStandInTheRecordOfTheirCause(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	s, _ := open(t, options(nc, "mx"))
	must(t, s.Accept(ctx, message(t, s, "m", []byte("x"), "r")))
	at := streamState(t, nc, "SPOOL_mx").LastSeq
	dsn := message(t, s, "dsn", []byte("report"), "sender")
	dsn.Reports = "m"
	must(t, s.Settle(ctx, &spool.Settled{ID: "m", Ends: []spool.End{{Recipients: []mail.RecipientID{"r"}, Kind: spool.EndReported}}}, dsn))
	if last := streamState(t, nc, "SPOOL_mx").LastSeq; last != at+1 {
		t.Fatalf("%d records for a settlement and its report", last-at)
	}
	s.Kill()
	_, r := open(t, options(nc, "mx"))
	if len(r.Run) != 1 || r.Run[0].Reports != "m" {
		t.Fatalf("to run: %+v", r.Run)
	}
}

func TestLostAcknowledgements(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	s, _ := open(t, options(nc, "mx").WithWire(spool.LostAcks(5)))
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 25 {
				id := fmt.Sprintf("m-%d-%d", w, i)
				if err := s.Accept(ctx, accepted(id, spool.Body{}, "r1", "r2")); err != nil {
					t.Error(err)
				}
				if err := s.Settle(ctx, delivered(id, "r1")); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					if err := s.Settle(ctx, retry(id, time.Now().Add(time.Hour), "r2")); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	s.Kill()
	_, r := open(t, options(nc, "mx"))
	if len(r.Run) != 96 || len(r.Waiting) != 104 {
		t.Fatalf("run %d, waiting %d", len(r.Run), len(r.Waiting))
	}
}

func TestAnAppendThatGotNo250IsVoid(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	nc := connect(t, srv)
	stuck := spool.NewStuck()
	s, _ := open(t, options(nc, "mx").WithWire(stuck.Wrap))
	stuck.Hold()
	large := bytes.Repeat([]byte("0123456789abcdef"), 32<<10)
	a := message(t, s, "m", large, "r")
	ctx, cancel := context.WithCancel(background(t))
	answer := make(chan error, 1)
	go func() { answer <- s.Accept(ctx, a) }()
	eventually(t, "known to be down", func() bool { return errors.Is(s.Ready(), spool.ErrDown) })
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Fatalf("accept: %v", err)
	}
	// One that is still queued behind it is simply taken back.
	if err := s.Accept(ctx, accepted("behind", spool.Body{}, "r")); !errors.Is(err, context.Canceled) {
		t.Fatalf("accept: %v", err)
	}
	stuck.Release()
	must(t, s.Accept(background(t), accepted("after", spool.Body{}, "r")))
	must(t, s.Ready())
	eventually(t, "the chunks deleted", func() bool { return streamState(t, nc, "BODY_mx").Msgs == 0 })
	s.Kill()
	_, r := open(t, options(nc, "mx"))
	if len(r.Run) != 1 || r.Run[0].ID != "after" {
		t.Fatalf("to run: %+v", runIDs(r))
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	s, _ := open(t, options(nc, "mx"))
	for _, size := range []int{0, 1, spool.InlineLimit, spool.InlineLimit + 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 7} {
		id := fmt.Sprintf("size-%d", size)
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(i * 7)
		}
		w := s.NewBody(ctx, id)
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 100_001)
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		b, err := w.Finish()
		must(t, err)
		if inline := size <= spool.InlineLimit; inline != (b.Chunks == 0) || b.Size != int64(size) {
			t.Errorf("%d bytes: %d inline, %d chunks, size %d", size, len(b.Inline), b.Chunks, b.Size)
		}
		if got := read(t, s, id, b); !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back different", size)
		}
		if b.Size > 0 {
			b.CRC++
			if err := s.OpenBody(ctx, id, b, &bytes.Buffer{}); !errors.Is(err, spool.ErrCorrupt) {
				t.Errorf("%d bytes with a wrong checksum: %v", size, err)
			}
			b.CRC = 0 // as the reports of an earlier release have it
			if got := read(t, s, id, b); !bytes.Equal(got, want) {
				t.Errorf("%d bytes without a checksum came back different", size)
			}
		}
		s.Drop(id, b)
	}
	w := s.NewBody(ctx, "aborted")
	if _, err := w.Write(make([]byte, 5<<20)); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	eventually(t, "chunks deleted", func() bool { return streamState(t, nc, "BODY_mx").Msgs == 0 })

	// Chunks of a message that was never accepted go with the next recovery.
	orphan := s.NewBody(ctx, "orphan")
	if _, err := orphan.Write(make([]byte, 2<<20)); err != nil {
		t.Fatal(err)
	}
	b, err := orphan.Finish()
	must(t, err)
	kept := message(t, s, "kept", make([]byte, 2<<20), "r")
	must(t, s.Accept(ctx, kept))
	s.Kill()
	s, _ = open(t, options(nc, "mx"))
	eventually(t, "orphans deleted", func() bool { return streamState(t, nc, "BODY_mx").Msgs == 2 })
	if err := s.OpenBody(ctx, "orphan", b, &bytes.Buffer{}); err == nil {
		t.Error("the orphan is still there")
	}
	read(t, s, "kept", kept.Body)
}

func TestFullStopsIntakeOnly(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	o := options(nc, "mx")
	o.Limits.Spool = 1 << 20
	var free uint64 = 1 << 40
	var mu sync.Mutex
	o.FreeSpace = func() (uint64, error) { mu.Lock(); defer mu.Unlock(); return free, nil }
	s, _ := open(t, o)
	must(t, s.Ready())
	n := 0
	for ; s.Ready() == nil; n++ {
		must(t, s.Accept(ctx, message(t, s, fmt.Sprintf("m%d", n), make([]byte, 20<<10), "r")))
		if n > 45 {
			// The gauge looks every 20 ms; give it its turn.
			eventually(t, "intake stopped", func() bool { return errors.Is(s.Ready(), spool.ErrFull) })
		}
	}
	for i := range n {
		must(t, s.Settle(ctx, delivered(fmt.Sprintf("m%d", i), "r")))
	}
	eventually(t, "intake goes on", func() bool { return s.Ready() == nil })
	mu.Lock()
	free = 1
	mu.Unlock()
	eventually(t, "the disk is full", func() bool { return errors.Is(s.Ready(), spool.ErrFull) })
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	s, _ := open(t, options(nc, "mx"))
	must(t, s.Accept(ctx, accepted("m", spool.Body{}, "r1", "r2")))
	bad := func(name string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	bad("twice", s.Accept(ctx, accepted("m", spool.Body{}, "r")))
	bad("id", s.Accept(ctx, accepted("a.b", spool.Body{}, "r")))
	bad("no recipients", s.Accept(ctx, accepted("n", spool.Body{})))
	bad("recipient twice", s.Accept(ctx, accepted("n", spool.Body{}, "r", "r")))
	a := accepted("n", spool.Body{}, "r1", "r2")
	a.Starts = a.Starts[:1]
	bad("recipient in no start", s.Accept(ctx, a))
	bad("size", s.Accept(ctx, accepted("n", spool.Body{Inline: []byte("x")}, "r")))
	a = accepted("n", spool.Body{}, "r")
	a.Envelope.Origin.Helo = string(make([]byte, 5<<20))
	bad("too large", s.Accept(ctx, a))
	bad("settled unknown", s.Settle(ctx, delivered("unknown", "r")))
	bad("settled nothing", s.Settle(ctx, &spool.Settled{ID: "m"}))
	bad("settled nobody", s.Settle(ctx, delivered("m")))
	bad("settled twice", s.Settle(ctx, delivered("m", "r1", "r1")))
	bad("no room", s.Settle(ctx, &spool.Settled{ID: "m", Waits: []spool.Wait{{Recipients: []mail.RecipientID{"r1"}, Room: "attic"}}}))
	must(t, s.Settle(ctx, delivered("m", "r1", "r2", "not of it")))
	eventually(t, "empty", s.Empty)
}
