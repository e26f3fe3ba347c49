package spool_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// lines is n bytes of text.
func lines(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		if b[i] = 'a' + byte(i%26); i%72 == 71 {
			b[i] = '\n'
		}
	}
	return b
}

// judged is what four stages said of a message of 4 KB: a disclaimer in two parts, two signatures above it.
func judged(b *testing.B, diffs bool) []spool.Hop {
	body := lines(4 << 10)
	edits := []mail.Edits{{}, {Splices: []mail.Splice{{Offset: 1800, Insert: body[:60]}, {Offset: 3000, Insert: body[:80]}}}, {}, {Splices: []mail.Splice{{Insert: body[:1150]}}}}
	var out []spool.Hop
	for i, e := range edits {
		r := chain.Report{Instance: []string{"antivirus", "disclaimer", "archive", "signer"}[i], Hash: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			Recipients: []mail.RecipientID{"r1", "r2"}, Outcome: chain.ByVerdict, Took: time.Millisecond, Edits: e}
		if diffs {
			d, err := mail.NewDiff(mail.FromBytes(body), e.Splices)
			must(b, err)
			r.Diff = d
		}
		out = append(out, spool.Hop{Report: r, At: time.Now()})
	}
	return out
}

// BenchmarkTrail is what the trail costs for one message of two recipients, besides its end: the time of those who tell
// it, what writes it, and what it takes on disk.
func BenchmarkTrail(b *testing.B) {
	a := accepted("m", spool.Body{}, "r1", "r2")
	about := spool.About{MessageID: "<0123456789abcdef.0123456789@mail.example.com>", Subject: "The figures of the third quarter", Prepended: make([]byte, 330)}
	for _, c := range []struct {
		name  string
		event spool.Event
	}{
		{"hops without diffs", spool.Event{Revision: "0123456789abcdef", Chain: "outbound", Hops: judged(b, false)}},
		{"hops", spool.Event{Revision: "0123456789abcdef", Chain: "outbound", Hops: judged(b, true)}},
		{"acceptance", spool.Event{Accepted: &spool.Acceptance{Received: a.Received, Envelope: a.Envelope, Size: 4 << 10, About: about}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			nc := connect(b, newServer(b))
			s, _ := open(b, options(nc, "mx"))
			n, told := 0, time.Duration(0)
			for b.Loop() {
				start := time.Now()
				e := c.event
				e.ID = mail.NewID(start)
				s.Trail(&e)
				told += time.Since(start)
				if n++; n%1000 == 0 { // more would be dropped
					eventually(b, "the trail is written", s.TrailDry)
				}
			}
			eventually(b, "the trail is written", s.TrailDry)
			js, err := jetstream.New(nc)
			must(b, err)
			trail, err := js.Stream(b.Context(), "TRAIL")
			must(b, err)
			b.ReportMetric(float64(told.Nanoseconds())/float64(n), "told-ns/op")
			b.ReportMetric(float64(trail.CachedInfo().State.Bytes)/float64(n), "disk-B/op")
		})
	}
}

// BenchmarkDiff is what a stage's edits cost to be shown.
func BenchmarkDiff(b *testing.B) {
	c := mail.FromBytes(lines(4 << 10))
	splices := []mail.Splice{{Offset: 1800, Insert: lines(60)}, {Offset: 3000, Insert: lines(80)}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := mail.NewDiff(c, splices); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScanTrail is how fast the trail is looked through for one message that is not in it.
func BenchmarkScanTrail(b *testing.B) {
	nc := connect(b, newServer(b))
	s, _ := open(b, options(nc, "mx"))
	hops := judged(b, true)
	for i := range 20_000 {
		s.Trail(&spool.Event{ID: mail.NewID(time.Now()), Hops: hops})
		if i%1000 == 999 {
			eventually(b, "the trail is written", s.TrailDry)
		}
	}
	js, err := jetstream.New(nc)
	must(b, err)
	trail, err := js.Stream(b.Context(), "TRAIL")
	must(b, err)
	b.SetBytes(int64(trail.CachedInfo().State.Bytes))
	for b.Loop() {
		must(b, spool.ScanTrail(b.Context(), nc, time.Time{}, func(_ time.Time, s *spool.Sketch) (bool, error) { return string(s.ID) != "m", nil }))
	}
}
