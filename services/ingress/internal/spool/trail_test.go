package spool_test

import (
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

func TestTheTrailHasEveryEnd(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	if events, err := spool.ReadTrail(ctx, nc, "m", time.Time{}); err != nil || len(events) != 0 {
		t.Fatalf("no trail yet: %v, %v", events, err)
	}
	s, _ := open(t, options(nc, "mx"))
	start := time.Now().Add(-time.Second)
	must(t, s.Accept(ctx, accepted("m", spool.Body{}, "r1", "r2")))
	must(t, s.Accept(ctx, accepted("other", spool.Body{}, "r1")))
	s.Trail(&spool.Event{ID: "m", Revision: "rev", Chain: "a", Hops: []chain.Report{{
		Instance: "footer", Hash: "h", Outcome: chain.ByVerdict, Recipients: []mail.RecipientID{"r1"}, Took: time.Second,
	}}, Text: "ran"})
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
		var err error
		events, err = spool.ReadTrail(ctx, nc, "m", start)
		must(t, err)
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
