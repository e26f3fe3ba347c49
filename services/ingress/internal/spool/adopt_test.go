package spool_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

func TestAdoption(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	dead, _ := open(t, options(nc, "mx1"))
	must(t, dead.Accept(ctx, message(t, dead, "m", make([]byte, 600<<10), "r")))
	orphan := dead.NewBody(ctx, "orphan")
	if _, err := orphan.Write(make([]byte, 2<<20)); err != nil {
		t.Fatal(err)
	}
	live, _ := open(t, options(nc, "mx2"))
	dead.Kill()
	died := time.Now()

	removed := make(chan error, 1)
	a := &spool.Adopter{Options: options(nc, "mx2"), Run: func(ctx context.Context, s *spool.Shard, r *spool.Recovered) {
		if s.Instance() != "mx1" {
			t.Errorf("adopted %s", s.Instance())
		}
		if d := time.Since(died); d < 900*time.Millisecond {
			t.Errorf("adopted after %s, the lease is 1 s", d)
		}
		for _, m := range r.Run {
			if err := s.Settle(ctx, delivered(m.ID, "r")); err != nil {
				t.Error(err)
			}
		}
		err := s.Remove(ctx)
		for err != nil && ctx.Err() == nil && s.Err() == nil { // a slow machine renews late
			err = s.Remove(ctx)
		}
		removed <- err
	}}
	wctx, cancel := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() { watched <- a.Watch(wctx) }()
	select {
	case err := <-removed:
		must(t, err)
	case <-ctx.Done():
		t.Fatal("never adopted")
	}
	cancel()
	<-watched
	js, err := jetstream.New(nc)
	must(t, err)
	for _, name := range []string{"SPOOL_mx1", "BODY_mx1", "DEPOT_mx1"} {
		if _, err := js.Stream(ctx, name); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	if live.Err() != nil {
		t.Error(live.Err())
	}
	// The instance comes back to a new shard.
	back, r := open(t, options(nc, "mx1"))
	if len(r.Run)+len(r.Waiting) != 0 {
		t.Errorf("recovered %v %v", r.Run, r.Waiting)
	}
	must(t, back.Accept(ctx, accepted("n", spool.Body{}, "r")))
}

func TestAnAdoptedShardGoesBack(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	first, _ := open(t, options(nc, "mx1"))
	must(t, first.Accept(ctx, accepted("m", spool.Body{}, "r")))
	first.Kill()
	o := options(nc, "mx1")
	o.Holder = "mx2"
	adopted, _ := open(t, o)
	go func() {
		select {
		case <-adopted.Wanted():
			adopted.MarkIdle()
			if err := adopted.Close(ctx); err != nil {
				t.Error(err)
			}
		case <-ctx.Done():
		}
	}()
	back, r := open(t, options(nc, "mx1"))
	if adopted.Err() == nil || len(r.Run) != 1 {
		t.Fatalf("adopter: %v; run %v", adopted.Err(), r.Run)
	}
	must(t, back.Settle(ctx, delivered("m", "r")))
}
