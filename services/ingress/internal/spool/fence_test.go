package spool_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// twoOwners lets a second process take the shard from a first that does not renew (as if it were paused), then
// wakes the first. It gives how many acceptances the first still got, and how many messages a third owner finds.
func twoOwners(t *testing.T, wire func(spool.Wire) spool.Wire) (late int, found int, err error) {
	t.Helper()
	nc := connect(t, newServer(t))
	ctx := background(t)
	o := options(nc, "mx")
	o.Times.Renew = time.Hour
	o.Times.Lease = time.Minute // it takes itself for the owner, however slow this machine is
	if wire != nil {
		o = o.WithWire(wire)
	}
	first, _ := open(t, o)
	must(t, first.Accept(ctx, message(t, first, "before", []byte("x"), "r")))
	if !first.MayGo() {
		t.Fatal("a fresh lease gives no leave")
	}
	o2 := options(nc, "mx")
	if wire != nil {
		o2 = o2.WithWire(wire)
	}
	second, r := open(t, o2)
	if len(r.Run) != 1 || r.Run[0].ID != "before" {
		t.Fatalf("the second owner runs %v", runIDs(r))
	}
	for i := range 10 {
		if err = first.Accept(ctx, accepted(fmt.Sprintf("late%d", i), spool.Body{}, "r")); err == nil {
			late++
		}
	}
	// Its depot too: a value written now would bring back what the second owner ends.
	if serr := first.Settle(ctx, retry("before", time.Now().Add(time.Hour), "r")); serr == nil {
		late++
	}
	must(t, second.Settle(ctx, delivered("before", "r")))
	second.Kill()
	first.Kill()
	_, r = open(t, options(nc, "mx"))
	return late, len(r.Run) + len(r.Waiting), err
}

func TestTheFence(t *testing.T) {
	t.Parallel()
	late, found, err := twoOwners(t, nil)
	if late != 0 || found != 0 || !errors.Is(err, spool.ErrFenced) {
		t.Fatalf("%d appends of a stale owner were taken, %d messages came back; error %v", late, found, err)
	}
}

func TestTheFenceTestSeesAMissingFence(t *testing.T) {
	t.Parallel()
	if late, found, _ := twoOwners(t, spool.Unfenced); late == 0 || found == 0 {
		t.Fatalf("without a fence: %d late appends, %d messages", late, found)
	}
}

func TestAFencedShardIsDone(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	first, _ := open(t, options(nc, "mx"))
	o := options(nc, "mx")
	o.ExclusiveOwner = true
	second, _ := open(t, o)
	select {
	case <-first.Done():
	case <-background(t).Done():
		t.Fatal("the first owner never noticed")
	}
	if !errors.Is(first.Err(), spool.ErrFenced) || !errors.Is(first.Ready(), spool.ErrFenced) || first.MayGo() {
		t.Errorf("err %v, ready %v, may go %v", first.Err(), first.Ready(), first.MayGo())
	}
	if _, err := first.NewBody(context.Background(), "x").Write([]byte("x")); !errors.Is(err, spool.ErrFenced) {
		t.Errorf("writing a body: %v", err)
	}
	must(t, second.Accept(background(t), accepted("m", spool.Body{}, "r")))
	if err := first.Close(background(t)); !errors.Is(err, spool.ErrFenced) {
		t.Errorf("closing the fenced one: %v", err)
	}
}

func TestALiveOwnerStopsAStarterOfItsName(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	first, _ := open(t, options(nc, "mx"))
	_, _, err := spool.Open(background(t), options(nc, "mx"))
	if !errors.Is(err, spool.ErrOwned) {
		t.Fatalf("second owner: %v", err)
	}
	must(t, first.Accept(background(t), accepted("m", spool.Body{}, "r")))
}

func TestNoRenewalNoLeave(t *testing.T) {
	t.Parallel()
	nc := connect(t, newServer(t))
	o := options(nc, "mx")
	o.Times.Renew = time.Hour
	o.Times.Lease = 200 * time.Millisecond
	s, _ := open(t, o)
	eventually(t, "leave ends", func() bool { return !s.MayGo() })
	if !errors.Is(s.Ready(), spool.ErrDown) {
		t.Errorf("ready: %v", s.Ready())
	}
	if s.Err() != nil {
		t.Errorf("nobody took the shard, and yet: %v", s.Err())
	}
}
