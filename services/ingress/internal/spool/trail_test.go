package spool_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// trailOf reads the events of one message, each once.
func trailOf(ctx context.Context, t testing.TB, nc *nats.Conn, id string, since time.Time) []*spool.Event {
	t.Helper()
	var events []*spool.Event
	var once spool.Once
	must(t, spool.ScanTrail(ctx, nc, since, func(_ time.Time, s *spool.Sketch) (bool, error) {
		if string(s.ID) != id {
			return true, nil
		}
		e, err := s.Event()
		if err == nil && (s.Accepted != (e.Accepted != nil) || s.Ends != (len(e.Ends) > 0) || s.Waits != (len(e.Waits) > 0)) {
			t.Errorf("the sketch %+v is not of %+v", s, e)
		}
		if err == nil && once.First(e) {
			events = append(events, e)
		}
		return true, err
	}))
	return events
}

func TestTheTrailHasEveryEnd(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	if events := trailOf(ctx, t, nc, "m", time.Time{}); len(events) != 0 {
		t.Fatalf("no trail yet: %v", events)
	}
	s, _ := open(t, options(nc, "mx"))
	start := time.Now().Add(-time.Second)
	must(t, s.Accept(ctx, accepted("m", spool.Body{}, "r1", "r2")))
	must(t, s.Accept(ctx, accepted("other", spool.Body{}, "r1")))
	s.Trail(&spool.Event{ID: "m", Revision: "rev", Chain: "a", Hops: []spool.Hop{{Report: chain.Report{
		Instance: "footer", Hash: "h", Outcome: chain.ByVerdict, Recipients: []mail.RecipientID{"r1"}, Took: time.Second,
	}}}, Text: "ran"})
	end := delivered("m", "r1")
	end.Revision = "rev"
	end.Ends[0].Fate = chain.Fate{Kind: chain.Delivered, Host: "mx.example.net", Reply: &mail.Reply{Code: 250, Text: "ok \xff"}}
	must(t, s.Settle(ctx, end))
	must(t, s.Settle(ctx, retry("m", time.Now().Add(time.Hour), "r2")))
	must(t, s.Settle(ctx, delivered("other", "r1")))
	// A crash at any moment: what the trail may lack is written again, and read once.
	for range 2 {
		s.Kill()
		s, _ = open(t, options(nc, "mx"))
	}
	var events []*spool.Event
	eventually(t, "the ends on the trail", func() bool {
		events = trailOf(ctx, t, nc, "m", start)
		n := 0
		for _, e := range events {
			n += len(e.Ends) + len(e.Waits)
		}
		return n >= 2
	})
	ends, waits := 0, 0
	for _, e := range events {
		if e.ID != "m" || e.Instance != "mx" {
			t.Errorf("event %+v", e)
		}
		ends, waits = ends+len(e.Ends), waits+len(e.Waits)
		for _, end := range e.Ends {
			if end.Kind != spool.EndDelivered || end.Fate.Host != "mx.example.net" || end.Fate.Reply.Code != 250 {
				t.Errorf("end %+v", end)
			}
		}
	}
	if ends != 1 || waits != 1 {
		t.Errorf("%d ends, %d waits", ends, waits)
	}
}

func TestTheTrailTellsOfTheAcceptance(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	s, _ := open(t, options(nc, "mx"))
	m := message(t, s, "m", []byte("body"), "r1")
	m.About = spool.About{MessageID: "<1@\xff>", Subject: strings.Repeat("ü", 1000), Prepended: []byte("Received: x\r\n")}
	must(t, s.Accept(ctx, m))
	dsn := accepted("dsn", spool.Body{Inline: []byte("x"), Size: 1}, "r1")
	dsn.Reports, dsn.About = "m", spool.About{Subject: "not delivered"}
	must(t, s.Settle(ctx, delivered("m", "r1"), dsn))
	var got, report []*spool.Event
	eventually(t, "both acceptances on the trail", func() bool {
		got, report = trailOf(ctx, t, nc, "m", time.Time{}), trailOf(ctx, t, nc, "dsn", time.Time{})
		return len(got) == 2 && len(report) == 1
	})
	a := got[0].Accepted
	if a == nil || a.Size != 4 || a.MessageID != "<1@\uFFFD>" || len(a.Subject) != 1024 || string(a.Prepended) != "Received: x\r\n" || !a.Received.Equal(m.Received) {
		t.Errorf("%+v", a)
	}
	// What a client called a mailbox is kept as it came.
	if want := m.Envelope; fmt.Sprint(a.Envelope) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", a.Envelope, want)
	}
	if a := report[0].Accepted; a.Reports != "m" || a.Subject != "not delivered" {
		t.Errorf("%+v", a)
	}
}

func TestAnAcceptanceThatACrashMayHaveLostIsToldAgain(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	o := options(nc, "mx")
	o.Times.Trail = time.Hour // it never comes to it
	s, _ := open(t, o)
	must(t, s.Accept(ctx, message(t, s, "running", []byte("Received: from x by y\r\n\tid running (stagecoach t);\r\nSubject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\n"+
		"Message-ID: <1@x>\r\n\r\nbody"), "r1")))
	must(t, s.Accept(ctx, message(t, s, "ended", []byte("x"), "r1")))
	must(t, s.Settle(ctx, delivered("ended", "r1")))
	s.Kill()
	s, _ = open(t, options(nc, "mx"))
	var got []*spool.Event
	eventually(t, "the acceptance on the trail", func() bool {
		got = trailOf(ctx, t, nc, "running", time.Time{})
		return len(got) == 1 && len(trailOf(ctx, t, nc, "ended", time.Time{})) == 1
	})
	if a := got[0].Accepted; a == nil || a.Subject != "grüße" || a.MessageID != "<1@x>" || !bytes.HasPrefix(a.Prepended, []byte("Received: ")) || !bytes.HasSuffix(a.Prepended, []byte("t);\r\n")) {
		t.Errorf("%+v", got[0].Accepted)
	}
	if e := trailOf(ctx, t, nc, "ended", time.Time{})[0]; len(e.Ends) != 1 {
		t.Errorf("of what has ended its end is told: %+v", e)
	}
	s.Kill()
}

// hopWith is a report of edits to content.
func hopWith(t testing.TB, content []byte, edits mail.Edits) spool.Hop {
	t.Helper()
	d, err := mail.NewDiff(mail.FromBytes(content), edits.Splices)
	must(t, err)
	return spool.Hop{At: time.Now(), Report: chain.Report{Instance: "footer", Outcome: chain.ByVerdict, Recipients: []mail.RecipientID{"r1"}, Edits: edits, Diff: d, Shadow: true}}
}

func TestTheTrailKeepsDiffsAndTheDepotDoesNot(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	s, _ := open(t, options(nc, "mx"))
	content := []byte("A: 1\r\n\r\nbody PRECIOUS\r\n")
	edits := mail.Edits{Splices: []mail.Splice{{Offset: 13, Length: 8, Insert: []byte("inserted")}}, ReversePath: &mail.Address{Local: "x", Domain: "example.org"}}
	hop := hopWith(t, content, edits)
	must(t, s.Accept(ctx, message(t, s, "m", content, "r1")))
	s.Trail(&spool.Event{ID: "m", Hops: []spool.Hop{hop}, Kept: []string{"antivirus"}})
	wait := retry("m", time.Now().Add(time.Hour), "r1")
	wait.Waits[0].Done = []chain.Report{hop.Report}
	must(t, s.Settle(ctx, wait))
	var got *spool.Event
	eventually(t, "the hop on the trail", func() bool {
		for _, e := range trailOf(ctx, t, nc, "m", time.Time{}) {
			if len(e.Hops) > 0 {
				got = e
			}
		}
		return got != nil
	})
	h := got.Hops[0]
	if fmt.Sprintf("%+v", h.Diff) != fmt.Sprintf("%+v", hop.Diff) || !h.Shadow || !h.At.Equal(hop.At) || len(h.Edits.Splices) != 0 || *h.Edits.ReversePath != *edits.ReversePath || got.Kept[0] != "antivirus" {
		t.Errorf("%+v", h)
	}
	// The removed bytes stand in the trail and in the body alone; what was inserted in the trail and with what waits.
	eventually(t, "the message in the depot", func() bool {
		m, ok := s.Waiting().Get("m")
		return ok && m.Groups[0].Trimmed()
	})
	m, err := s.Load(ctx, "m")
	must(t, err)
	if d := m.Groups[0].Done[0]; string(d.Edits.Splices[0].Insert) != "inserted" || len(d.Diff.Hunks) != 0 {
		t.Errorf("with what waits: %+v", d)
	}
}

func TestDiffsOfOneEventAreBounded(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	s, _ := open(t, options(nc, "mx"))
	hop := hopWith(t, []byte("body"), mail.Edits{Splices: []mail.Splice{{Insert: bytes.Repeat([]byte("x"), 15<<10)}}})
	must(t, s.Accept(ctx, message(t, s, "m", []byte("body"), "r1")))
	s.Trail(&spool.Event{ID: "m", Hops: slices.Repeat([]spool.Hop{hop}, 1000)})
	var hops []spool.Hop
	eventually(t, "the event on the trail", func() bool {
		for _, e := range trailOf(ctx, t, nc, "m", time.Time{}) {
			hops = append(hops, e.Hops...)
		}
		return len(hops) > 0
	})
	kept, cut := 0, 0
	for _, h := range hops {
		if h.Diff.Cut {
			cut++
		} else {
			kept++
		}
	}
	if kept != 17 || kept+cut != 1000 {
		t.Errorf("%d kept, %d cut", kept, cut)
	}
}
