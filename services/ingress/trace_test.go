package ingress

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// acceptAt puts a message into the log whose id is of that time.
func (o *office) acceptAt(t *testing.T, at time.Time, sender string, to ...string) string {
	t.Helper()
	id := mail.NewID(at)
	a := &spool.Accepted{ID: id, Received: at, Body: spool.Body{Inline: []byte("x"), Size: 1}, About: spool.About{MessageID: "<" + id + "@example.com>", Subject: "s"},
		Starts: []spool.Start{{Chain: "all"}}}
	var err error
	if a.Envelope.ReversePath, err = mail.ParseAddress(sender); err != nil {
		t.Fatal(err)
	}
	for i, one := range to {
		address, err := mail.ParseAddress(one)
		if err != nil {
			t.Fatal(err)
		}
		rcpt := mail.Recipient{ID: mail.RecipientID(fmt.Sprint("r", i+1)), Address: address}
		a.Envelope.Recipients = append(a.Envelope.Recipients, rcpt)
		a.Starts[0].Recipients = append(a.Starts[0].Recipients, rcpt.ID)
	}
	if err := o.shard().log.Accept(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	return id
}

func (o *office) settle(t *testing.T, s *spool.Settled) {
	t.Helper()
	if err := o.shard().log.Settle(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

func gone(id string, to ...mail.RecipientID) *spool.Settled {
	return &spool.Settled{ID: id, Ends: []spool.End{{Recipients: to, Kind: spool.EndDelivered, Fate: chain.Fate{Kind: chain.Delivered}}}}
}

func held(id string, open bool, to ...mail.RecipientID) *spool.Settled {
	return &spool.Settled{ID: id, Waits: []spool.Wait{{Recipients: to, Chain: "all", Room: spool.Retry, Since: time.Now(), Next: time.Now().Add(time.Hour), Open: open}}}
}

// written waits until the trail has n events of a message.
func (o *office) written(t *testing.T, id string, n int) {
	t.Helper()
	eventually(t, "the trail is written", func() bool {
		got := 0
		if err := spool.ScanTrail(t.Context(), o.o.Conn, time.Time{}, func(_ time.Time, s *spool.Sketch) (bool, error) {
			if string(s.ID) == id {
				got++
			}
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
		return got >= n
	})
}

func found(t *testing.T, tr *trace, r *adminv1.FindTracesRequest) (ids []string, next string) {
	t.Helper()
	resp, err := tr.FindTraces(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range resp.GetTraces() {
		ids = append(ids, s.GetId())
	}
	return ids, resp.GetNextPageToken()
}

func (o *office) trace() *trace { return o.Trace().(*trace) }

// However far back each look goes, the pages are those of one list, the newest first.
func TestPagesOfTraces(t *testing.T) {
	o := newOffice(t, false)
	now := time.Now()
	var want []string
	for i := range 60 {
		at := now.Add(time.Duration(i-60) * 50 * time.Millisecond)
		if i%2 == 0 { // they need not come in the order of their ids
			at = at.Add(-75 * time.Millisecond)
		}
		sender := "a@example.com"
		if i%3 == 0 {
			sender = "b@example.com"
		}
		id := o.acceptAt(t, at, sender, "x@example.net")
		if o.settle(t, gone(id, "r1")); sender == "a@example.com" {
			want = append(want, id)
		}
		if i == 59 {
			o.written(t, id, 2)
		}
	}
	slices.Sort(want)
	slices.Reverse(want)
	tr := o.trace()
	for _, reach := range []time.Duration{time.Millisecond, 130 * time.Millisecond, time.Hour} {
		for _, size := range []uint32{1, 7, 40, 1000} {
			var got []string
			req := &adminv1.FindTracesRequest{Sender: "a@example.com", PageSize: size}
			for {
				s, err := tr.searchOf(req)
				if err != nil {
					t.Fatal(err)
				}
				s.reach = reach
				list, more, err := s.run(t.Context())
				if err != nil || len(list) > int(size) {
					t.Fatalf("%d found, %v", len(list), err)
				}
				for _, m := range slices.Backward(list) {
					got = append(got, m.id)
					if c := m.count(); !maps.Equal(c, map[string]uint32{"delivered": 1}) {
						t.Errorf("states of %s: %v", m.id, c)
					}
				}
				if !more {
					break
				}
				req.PageToken = list[0].id
			}
			if !slices.Equal(got, want) {
				t.Errorf("reach %v, pages of %d: %d ids, want %d", reach, size, len(got), len(want))
			}
		}
	}
	// The times hold: since is within, until is not.
	since, _ := mail.IDTime(want[20])
	until, _ := mail.IDTime(want[10])
	got, _ := found(t, tr, &adminv1.FindTracesRequest{Sender: "a@example.com", Since: timestamppb.New(since), Until: timestamppb.New(until)})
	if !slices.Equal(got, want[11:21]) {
		t.Errorf("%d of a time, want %d", len(got), 10)
	}
}

// What became of a message is told, also if it ended long after the time that is looked at.
func TestEndsAfterTheTimeOfASearch(t *testing.T) {
	o := newOffice(t, false)
	at := time.Now().Add(-time.Hour)
	id := o.acceptAt(t, at, "a@example.com", "r1@example.net")
	o.settle(t, gone(id, "r1"))
	o.written(t, id, 2)
	resp, err := o.trace().FindTraces(t.Context(), &adminv1.FindTracesRequest{Until: timestamppb.New(at.Add(time.Minute))})
	if err != nil || len(resp.GetTraces()) != 1 || resp.GetTraces()[0].GetStates()["delivered"] != 1 {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestStatesOfTraces(t *testing.T) {
	o := newOffice(t, false)
	id := o.acceptAt(t, time.Now(), "a@example.com", "r1@example.net", "r2@example.net", "r3@example.net", "r4@example.net")
	o.settle(t, gone(id, "r1"))
	o.settle(t, held(id, false, "r2"))
	o.settle(t, held(id, true, "r3"))
	o.written(t, id, 4)
	tr := o.trace()
	state := func() map[string]uint32 {
		resp, err := tr.FindTraces(t.Context(), &adminv1.FindTracesRequest{Id: id})
		if err != nil || len(resp.GetTraces()) != 1 {
			t.Fatal(resp, err)
		}
		return resp.GetTraces()[0].GetStates()
	}
	want := map[string]uint32{"delivered": 1, "waiting": 1, "running": 2}
	if got := state(); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	own := o.own.Swap(nil) // another ingress has only the trail
	if got := state(); !maps.Equal(got, want) {
		t.Errorf("by the trail alone: %v, want %v", got, want)
	}
	o.own.Store(own)
	// Woken it runs, though the log says that it waits.
	if due := own.log.Waiting().Wake(id, func(w *spool.Wait) bool { return w.Recipients[0] == "r2" }); len(due) != 1 {
		t.Fatalf("%d woken", len(due))
	}
	want = map[string]uint32{"delivered": 1, "running": 3}
	if got := state(); !maps.Equal(got, want) {
		t.Errorf("woken: %v, want %v", got, want)
	}
	// A wait that comes after an end does not bring it back.
	o.settle(t, held(id, false, "r1", "r4"))
	o.written(t, id, 5)
	want = map[string]uint32{"delivered": 1, "running": 2, "waiting": 1}
	if got := state(); !maps.Equal(got, want) {
		t.Errorf("after its end: %v, want %v", got, want)
	}
}

// writeAgain doubles what stands in the trail, as recoveries do it.
func (o *office) writeAgain(t *testing.T) {
	t.Helper()
	js, err := jetstream.New(o.o.Conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "TRAIL")
	if err != nil {
		t.Fatal(err)
	}
	for seq := range stream.CachedInfo().State.LastSeq {
		m, err := stream.GetMsg(t.Context(), seq+1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), m.Subject, m.Data); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTraceAfterACrash(t *testing.T) {
	o := newOffice(t, false)
	id := o.acceptAt(t, time.Now(), "a@example.com", "r1@example.net", "r2@example.net", "r3@example.net")
	o.settle(t, gone(id, "r1"))
	o.settle(t, held(id, false, "r2", "r3"))
	o.written(t, id, 3)
	o.writeAgain(t)
	o.settle(t, gone(id, "r2"))
	tr := o.trace()
	eventually(t, "the end is told", func() bool {
		resp, err := tr.GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: id})
		if err != nil {
			t.Fatal(err)
		}
		ends, waits := 0, 0
		for _, e := range resp.GetTrace().GetEvents() {
			ends, waits = ends+len(e.GetEnds()), waits+len(e.GetWaits())
		}
		if ends > 2 || waits > 1 || resp.GetTrace().GetSubject() != "s" {
			t.Fatalf("told twice: %v", resp)
		}
		return ends == 2 && waits == 1
	})
	resp, err := tr.FindTraces(t.Context(), &adminv1.FindTracesRequest{Id: id})
	if err != nil || len(resp.GetTraces()) != 1 || !maps.Equal(resp.GetTraces()[0].GetStates(), map[string]uint32{"delivered": 2, "waiting": 1}) {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestTraceWithoutItsAcceptance(t *testing.T) {
	o := newOffice(t, false)
	at := time.Now().Add(-time.Second).Truncate(time.Microsecond)
	id := mail.NewID(at)
	o.shard().log.Trail(&spool.Event{ID: id, Text: "something happened"})
	o.written(t, id, 1)
	resp, err := o.trace().GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: id})
	if tr := resp.GetTrace(); err != nil || tr.GetAccepted() || len(tr.GetEvents()) != 1 || tr.GetEvents()[0].GetText() != "something happened" || !tr.GetReceived().AsTime().Equal(at) {
		t.Errorf("%v, %v", resp, err)
	}
}

// What was accepted just now is not in the trail yet, but here.
func TestTraceBeforeTheTrailHasIt(t *testing.T) {
	o := newOffice(t, false)
	s := o.own.Swap(nil)
	o.finish(s)
	o.o.Times.Trail = time.Hour
	s, err := o.openShard(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o.own.Store(s)
	defer func() { o.own.Store(nil); s.abandon() }() // in good order it would wait for the hour
	id := o.acceptAt(t, time.Now(), "a@example.com", "r1@example.net")
	resp, err := o.trace().GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: id})
	if tr := resp.GetTrace(); err != nil || tr.GetAccepted() || tr.GetEnvelope().GetReversePath() != "a@example.com" || tr.GetSize() != 1 {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestTraceRefusals(t *testing.T) {
	t.Parallel() // it waits most of its time
	o := newOffice(t, false)
	id := o.acceptAt(t, time.Now(), "a@example.com", "r1@example.net")
	o.written(t, id, 1)
	tr := o.trace()
	now := time.Now()
	for name, r := range map[string]*adminv1.FindTracesRequest{
		"id":         {Id: "../x"},
		"sender":     {Sender: "a b"},
		"recipient":  {Recipient: "*@"},
		"address":    {Address: "x\r\ny"},
		"page size":  {PageSize: 1001},
		"page token": {PageToken: "m"},
		"times":      {Since: timestamppb.New(now), Until: timestamppb.New(now.Add(-time.Second))},
	} {
		if _, err := tr.FindTraces(t.Context(), r); status.Code(err) != codes.InvalidArgument || strings.ContainsAny(err.Error(), "\r\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := tr.GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: "m\n"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no id: %v", err)
	}
	over, cancel := context.WithDeadline(t.Context(), now)
	defer cancel()
	if _, err := tr.FindTraces(over, &adminv1.FindTracesRequest{}); status.Code(err) != codes.DeadlineExceeded && status.Code(err) != codes.ResourceExhausted {
		t.Errorf("no time: %v", err)
	}
	// Two at once are enough; who waits for his turn does not wait for ever.
	tr.slots <- struct{}{}
	tr.slots <- struct{}{}
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := tr.GetTrace(soon, &adminv1.GetTraceRequest{Id: id}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("no turn: %v", err)
	}
	<-tr.slots
	if _, err := tr.GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: id}); err != nil || len(tr.slots) != 1 {
		t.Errorf("in turn: %v, %d turns taken", err, len(tr.slots))
	}
	<-tr.slots
	o.nats.Shutdown()
	if _, err := tr.GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: id}); status.Code(err) != codes.Unavailable {
		t.Errorf("no NATS: %v", err)
	}
}

// A page ends before it becomes too large to be sent, and so does a trace.
func TestLargeTraces(t *testing.T) {
	o := newOffice(t, false)
	var to []string
	for i := range 1000 {
		to = append(to, fmt.Sprintf("%s%d@example.net", strings.Repeat("x", 50), i))
	}
	var want []string
	for i := range 90 {
		want = append(want, o.acceptAt(t, time.Now().Add(time.Duration(i)*time.Microsecond), "a@example.com", to...))
	}
	o.written(t, want[89], 1)
	slices.Sort(want)
	slices.Reverse(want)
	tr := o.trace()
	var got []string
	req := &adminv1.FindTracesRequest{PageSize: 1000, Until: timestamppb.New(time.Now().Add(time.Second))}
	for {
		resp, err := tr.FindTraces(t.Context(), req)
		if err != nil || proto.Size(resp) > 4<<20 {
			t.Fatalf("%d bytes, %v", proto.Size(resp), err)
		}
		for _, s := range resp.GetTraces() {
			got = append(got, s.GetId())
		}
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d ids, want %d", len(got), len(want))
	}
	diff := mail.Diff{Hunks: []mail.Hunk{{Inserted: []byte(strings.Repeat("y", 15<<10))}}}
	id := o.acceptAt(t, time.Now(), "a@example.com", "r1@example.net")
	const events = 400
	for range events {
		o.shard().log.Trail(&spool.Event{ID: id, Hops: []spool.Hop{{Report: chain.Report{Instance: "a", Outcome: chain.ByVerdict, Diff: diff}}}})
	}
	o.written(t, id, events+1)
	resp, err := tr.GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: id})
	list := resp.GetTrace().GetEvents()
	if err != nil || proto.Size(resp) > 4<<20 || len(list) != events || list[0].GetHops()[0].GetDiff().GetCut() || !list[events-1].GetHops()[0].GetDiff().GetCut() {
		t.Errorf("%d bytes, %d events, %v", proto.Size(resp), len(list), err)
	}
}
