package ingress

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// tail is a caller who follows.
type tail struct {
	grpc.ServerStream
	ctx   context.Context
	begun chan struct{}
	hold  chan struct{} // not nil: he reads nothing until it is closed
	ended chan error

	mu  sync.Mutex
	got []*adminv1.TailEventsResponse
}

func (s *tail) Context() context.Context     { return s.ctx }
func (s *tail) SendHeader(metadata.MD) error { close(s.begun); return nil }
func (s *tail) heard() []*adminv1.TailEventsResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}

func (s *tail) Send(r *adminv1.TailEventsResponse) error {
	if s.hold != nil {
		<-s.hold
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, r)
	return nil
}

// follows begins to follow; stop ends that.
func follows(t *testing.T, in *Ingress, r *adminv1.TailEventsRequest, hold chan struct{}) (s *tail, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s = &tail{ctx: ctx, begun: make(chan struct{}), hold: hold, ended: make(chan error, 1)}
	go func() { s.ended <- in.Events().TailEvents(r, s) }()
	select {
	case <-s.begun:
	case err := <-s.ended:
		s.ended <- err
	}
	return s, func() { cancel(); <-s.ended }
}

// shape is what a response tells, in short.
func shape(r *adminv1.TailEventsResponse) string {
	var parts []string
	add := func(what string, n int) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s:%d", what, n))
		}
	}
	if r.GetAccepted() {
		parts = append(parts, "accepted")
	}
	e := r.GetEvent()
	add("hop", len(e.GetHops()))
	add("fate", len(e.GetFates()))
	add("end", len(e.GetEnds()))
	add("wait", len(e.GetWaits()))
	if e.GetText() != "" {
		parts = append(parts, "text")
	}
	return strings.Join(parts, " ")
}

func TestTailEvents(t *testing.T) {
	o := newOffice(t, false)
	requests := map[string]struct {
		r    *adminv1.TailEventsRequest
		want string
	}{
		"everything":      {&adminv1.TailEventsRequest{}, "accepted, hop:1, end:1, accepted, hop:1, wait:1"},
		"ends":            {&adminv1.TailEventsRequest{Kinds: []string{"end", "text"}}, "end:1"},
		"the sender":      {&adminv1.TailEventsRequest{Address: "anna@example.com"}, "accepted, hop:1, end:1"},
		"a pattern":       {&adminv1.TailEventsRequest{Address: "*@example.net", Kinds: []string{"accepted"}}, "accepted, accepted"},
		"the null sender": {&adminv1.TailEventsRequest{Address: "<>"}, "accepted, hop:1, wait:1"},
		"nobody":          {&adminv1.TailEventsRequest{Address: "zoe@example.com"}, ""},
		"the chain":       {&adminv1.TailEventsRequest{Chain: "all", Kinds: []string{"accepted", "end", "wait"}}, "accepted, end:1, accepted, wait:1"},
		"another chain":   {&adminv1.TailEventsRequest{Chain: "other"}, ""},
		"another id":      {&adminv1.TailEventsRequest{Id: "x"}, ""},
	}
	all := map[string]*tail{}
	for name, c := range requests {
		s, stop := follows(t, o.Ingress, c.r, nil)
		defer stop()
		all[name] = s
	}
	first := o.post(t, o.shard(), chain.Fate{Kind: chain.Delivered}, "anna@example.com", "bob@example.net")
	o.post(t, o.shard(), toRetry, "", "carol@example.net")
	eventually(t, "all is told", func() bool { return len(all["everything"].heard()) == 6 })
	for name, c := range requests {
		var got []string
		told := func() string {
			got = nil
			for _, r := range all[name].heard() {
				got = append(got, shape(r))
			}
			return strings.Join(got, ", ")
		}
		eventually(t, fmt.Sprintf("%s: %s", name, c.want), func() bool { return told() == c.want })
	}
	r := all["everything"].heard()[2]
	if m := r.GetMessage(); r.GetId() != first || m.GetReversePath() != "anna@example.com" || fmt.Sprint(m.GetRecipients()) != "[bob@example.net]" || m.GetSize() != 25 || r.GetEvent().GetShard() != "one" {
		t.Errorf("%v", r)
	}

	_, stop := follows(t, o.Ingress, &adminv1.TailEventsRequest{Kinds: []string{"ends"}}, nil)
	defer stop()
	s, _ := follows(t, o.Ingress, &adminv1.TailEventsRequest{Kinds: []string{"ends"}}, nil)
	wantCode(t, <-s.ended, codes.InvalidArgument, "there is no kind")
	s, _ = follows(t, o.Ingress, &adminv1.TailEventsRequest{Address: "@@"}, nil)
	wantCode(t, <-s.ended, codes.InvalidArgument, "address")
	o.events.close()
	wantCode(t, <-all["everything"].ended, codes.Unavailable)
	all["everything"].ended <- nil
}

// Who does not read misses events, and is told how many; nobody waits for him.
func TestSlowFollower(t *testing.T) {
	in := &Ingress{}
	hold := make(chan struct{})
	s, stop := follows(t, in, &adminv1.TailEventsRequest{}, hold)
	defer stop()
	const sent = 3 * followBuffer
	for i := range sent {
		in.events.tap(&spool.Event{ID: fmt.Sprint(i), Text: "x"})
	}
	close(hold)
	count := func() (n int) {
		for _, r := range s.heard() {
			if n += int(r.GetMissed()); r.GetEvent() != nil {
				n++
			}
		}
		return n
	}
	eventually(t, "all is told or counted", func() bool { return count() == sent })
	in.events.tap(&spool.Event{ID: "last", Text: "x"})
	eventually(t, "it goes on", func() bool { return s.heard()[len(s.heard())-1].GetId() == "last" })
	if n := len(s.heard()); n > followBuffer+4 || n < followBuffer {
		t.Errorf("%d were kept for him", n)
	}
}

// What was missed is told with the next event, in its place.
func TestMissedInOrder(t *testing.T) {
	var h events
	f := &follower{wake: make(chan struct{}, 1)}
	h.follow(f)
	for range followBuffer + 5 {
		h.tap(&spool.Event{ID: "a", Text: "x"})
	}
	h.next(f)
	h.tap(&spool.Event{ID: "b", Text: "x"})
	for range followBuffer - 1 {
		if _, _, missed := h.next(f); missed != 0 {
			t.Fatal("too early")
		}
	}
	if e, _, missed := h.next(f); e.ID != "b" || missed != 5 {
		t.Errorf("%v, missed %d", e, missed)
	}
}

func TestMostFollowers(t *testing.T) {
	in := &Ingress{}
	for range mostFollowers {
		_, stop := follows(t, in, &adminv1.TailEventsRequest{}, nil)
		defer stop()
	}
	s, stop := follows(t, in, &adminv1.TailEventsRequest{}, nil)
	select {
	case err := <-s.ended:
		wantCode(t, err, codes.ResourceExhausted, "20 follow already")
	case <-time.After(10 * time.Second):
		t.Error("one more may follow")
		stop()
	}
}

// What was not asked for is left out of an event that has something else as well.
func TestKindsOfAnEvent(t *testing.T) {
	e := &spool.Event{ID: "m", Text: "x", Accepted: &spool.Acceptance{}, Hops: make([]spool.Hop, 1), Fates: make([]chain.Fate, 1), Ends: make([]spool.End, 1), Waits: make([]spool.Wait, 1), Kept: []string{"a"}}
	for kind, want := range map[string]string{"accepted": "accepted", "hop": "hop:1", "fate": "fate:1", "end": "end:1", "wait": "wait:1", "text": "text"} {
		f := &follower{kinds: []string{kind}}
		if got := shape(f.response(e, nil, 0)); got != want || !f.wants(e, nil) {
			t.Errorf("%s: %s", kind, got)
		}
		if f.wants(&spool.Event{ID: "m"}, nil) {
			t.Errorf("%s: an event without it", kind)
		}
	}
}

// What is known of messages is bounded, and not what anybody else holds.
func TestKnownMessages(t *testing.T) {
	var h events
	accept := func(id string, recipients int) {
		a := &spool.Acceptance{Received: time.Now(), About: spool.About{Subject: strings.Repeat("ü", 9000), Prepended: make([]byte, 100)}}
		a.Envelope.Recipients = make([]mail.Recipient, recipients)
		h.tap(&spool.Event{ID: id, Accepted: a})
		h.tap(&spool.Event{ID: id, Accepted: a}) // written again after a crash
	}
	for i := range mostKnown + 10 {
		accept(fmt.Sprint(i), 1)
	}
	if len(h.known) != mostKnown || len(h.order) != mostKnown || h.to != mostKnown || h.known["9"] != nil || h.known["10"] == nil {
		t.Errorf("%d messages, %d recipients", len(h.known), h.to)
	}
	if k := h.known["10"]; len(k.Subject) > 2*briefly || k.Prepended != nil {
		t.Errorf("%d bytes of a subject", len(k.Subject))
	}
	for i := range 200 {
		accept(fmt.Sprint("large", i), 1000)
	}
	if h.to > mostKnownRecipients || len(h.known) != mostKnownRecipients/1000 {
		t.Errorf("%d messages, %d recipients", len(h.known), h.to)
	}
}
