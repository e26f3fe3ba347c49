package spool_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// Whoever reads a stream leaves nothing behind in the server, which has room for a thousand readers.
func TestReadersLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	ctx := background(t)
	s, _ := open(t, options(nc, "mx"))
	must(t, s.Accept(ctx, accepted("m", spool.Body{}, "r1")))
	must(t, s.Settle(ctx, delivered("m", "r1")))
	eventually(t, "the trail has it", func() bool { return len(trailOf(ctx, t, nc, "m", time.Time{})) > 0 })
	for range 3 {
		trailOf(ctx, t, nc, "m", time.Time{})
		must(t, spool.ScanTrail(ctx, nc, time.Time{}, func(time.Time, *spool.Sketch) (bool, error) { return false, nil }))
	}
	js, err := jetstream.New(nc)
	must(t, err)
	stream, err := js.Stream(ctx, "TRAIL")
	must(t, err)
	if n := stream.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d readers are left", n)
	}
}
