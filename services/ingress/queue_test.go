package ingress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/dispatch"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

// The fates by which mail comes into the rooms.
var (
	toPark       = chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRoute, About: "out", Reason: "no route to host"}
	toRetry      = chain.Fate{Kind: chain.Deferred, Concern: chain.AboutDestination, About: "example.net"}
	toQuarantine = chain.Fate{Kind: chain.Quarantined, Concern: chain.AboutRecipient, About: "check", Reason: "odd"}
)

func address(s string) mail.Address {
	local, domain, _ := strings.Cut(s, "@")
	return mail.Address{Local: local, Domain: domain}
}

// post has a message accepted in a shard, and waits until none of it runs any more.
func (o *office) post(t *testing.T, s *shard, fate chain.Fate, from string, to ...string) string {
	t.Helper()
	return o.postRaw(t, s, fate, []byte("Subject: hello\r\n\r\nHello\r\n"), from, to...)
}

func (o *office) postRaw(t *testing.T, s *shard, fate chain.Fate, raw []byte, from string, to ...string) string {
	t.Helper()
	o.egress.says(fate)
	id := mail.NewID(time.Now())
	w := s.log.NewBody(t.Context(), id)
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	body, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	a := &spool.Accepted{ID: id, Received: time.Now(), Body: body, Envelope: mail.Envelope{Origin: mail.Origin{Relay: "staff"}}, Starts: []spool.Start{{Chain: "all"}}}
	if from != "" {
		a.Envelope.ReversePath = address(from)
	}
	for i, to := range to {
		r := mail.Recipient{ID: mail.RecipientID(fmt.Sprint(i + 1)), Address: address(to)}
		a.Envelope.Recipients = append(a.Envelope.Recipients, r)
		a.Starts[0].Recipients = append(a.Starts[0].Recipients, r.ID)
	}
	over := make(chan struct{})
	if err := s.dispatcher.Accept(t.Context(), a, mail.FromBytes(raw), nil, func() { close(over) }); err != nil {
		t.Fatal(err)
	}
	<-over
	return id
}

// second gives the office an adopted shard.
func (o *office) second(t *testing.T) *shard {
	t.Helper()
	log, found, err := spool.Open(t.Context(), o.options("two"))
	if err != nil {
		t.Fatal(err)
	}
	s := o.work(log, found)
	o.mu.Lock()
	o.adopted[s] = struct{}{}
	o.mu.Unlock()
	t.Cleanup(func() { o.finish(s) })
	return s
}

// by is the context of a call in a person's name.
func by(t *testing.T, name string) context.Context {
	return metadata.NewIncomingContext(t.Context(), metadata.Pairs("stagecoach-actor", name))
}

func wantCode(t *testing.T, err error, code codes.Code, words ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%v, want %s", err, code)
	}
	for _, w := range words {
		if err != nil && !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func (o *office) list(t *testing.T, f *adminv1.Filter) []string {
	t.Helper()
	resp, err := o.Queue().ListMessages(t.Context(), &adminv1.ListMessagesRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range resp.GetMessages() {
		ids = append(ids, m.GetId())
	}
	return ids
}

func TestFilters(t *testing.T) {
	o := newOffice(t, false)
	one, two := o.shard(), o.second(t)
	c := o.post(t, one, toQuarantine, "", "carol@example.org")
	b := o.post(t, two, toRetry, "anna@sub.example.com", "bob@example.net")
	a := o.post(t, one, toPark, "anna@example.com", "bob@example.net", "carol@example.org")
	d := o.post(t, two, toPark, "bert@example.com", "carol@mail.example.net")
	for name, f := range map[string]struct {
		f    *adminv1.Filter
		want []string
	}{
		"all":               {nil, []string{a, b, c, d}},
		"ids":               {&adminv1.Filter{Ids: []string{d, a, a, "nobody"}}, []string{a, d}},
		"ids and room":      {&adminv1.Filter{Ids: []string{d, b}, Rooms: []string{"park"}}, []string{d}},
		"room":              {&adminv1.Filter{Rooms: []string{"park"}}, []string{a, d}},
		"rooms":             {&adminv1.Filter{Rooms: []string{"retry", "quarantine"}}, []string{b, c}},
		"chain":             {&adminv1.Filter{Chain: "all"}, []string{a, b, c, d}},
		"other chain":       {&adminv1.Filter{Chain: "gone"}, nil},
		"route":             {&adminv1.Filter{Route: "out"}, []string{a, b, c, d}},
		"about a route":     {&adminv1.Filter{About: "out"}, []string{a, d}},
		"about a stage":     {&adminv1.Filter{About: "check"}, []string{c}},
		"null sender":       {&adminv1.Filter{Sender: "<>"}, []string{c}},
		"sender":            {&adminv1.Filter{Sender: "Anna@EXAMPLE.com"}, []string{a}},
		"sender's domain":   {&adminv1.Filter{Sender: "*@example.com"}, []string{a, d}},
		"below a domain":    {&adminv1.Filter{Sender: "*@*.example.com"}, []string{b}},
		"recipient":         {&adminv1.Filter{Recipient: "carol@example.org"}, []string{a, c}},
		"recipients below":  {&adminv1.Filter{Recipient: "*@*.example.net"}, []string{d}},
		"all must hold":     {&adminv1.Filter{Rooms: []string{"park"}, Sender: "*@example.com", Recipient: "bob@example.net"}, []string{a}},
		"no group has both": {&adminv1.Filter{Rooms: []string{"retry"}, About: "out"}, nil},
	} {
		slices.Sort(f.want) // that is the order in which they came
		if got := o.list(t, f.f); !slices.Equal(got, f.want) {
			t.Errorf("%s: %v, want %v", name, got, f.want)
		}
	}
	for _, f := range []struct {
		f    *adminv1.Filter
		says string
	}{
		{&adminv1.Filter{Rooms: []string{"quarentine"}}, "did you mean quarantine?"},
		{&adminv1.Filter{Route: "otu"}, "did you mean out?"},
		{&adminv1.Filter{Sender: "no address"}, "sender"},
		{&adminv1.Filter{Recipient: "*@"}, "recipient"},
		{&adminv1.Filter{Ids: make([]string, mostIDs+1)}, "at most 10000"},
	} {
		_, err := o.Queue().ListMessages(t.Context(), &adminv1.ListMessagesRequest{Filter: f.f})
		wantCode(t, err, codes.InvalidArgument, f.says)
		_, err = o.Queue().DeleteMessages(t.Context(), &adminv1.DeleteMessagesRequest{Filter: f.f})
		wantCode(t, err, codes.InvalidArgument, f.says)
	}
	_, err := o.Queue().ListMessages(t.Context(), &adminv1.ListMessagesRequest{PageSize: 1001})
	wantCode(t, err, codes.InvalidArgument, "1000")
}

func TestPages(t *testing.T) {
	o := newOffice(t, false)
	one, two := o.shard(), o.second(t)
	var want []string
	long := strings.Repeat("x", 60)
	for i := range 40 {
		s := one
		if i%3 == 0 {
			s = two
		}
		want = append(want, o.post(t, s, toPark, "anna@example.com", long+"@example.net"))
	}
	for _, size := range []uint32{1, 7, 39, 40, 41, 1000} {
		var got []string
		token := ""
		for pages := 0; pages < 100; pages++ {
			resp, err := o.Queue().ListMessages(t.Context(), &adminv1.ListMessagesRequest{PageSize: size, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			if len(resp.GetMessages()) > int(size) {
				t.Fatalf("%d in a page of %d", len(resp.GetMessages()), size)
			}
			for _, m := range resp.GetMessages() {
				got = append(got, m.GetId())
			}
			if token = resp.GetNextPageToken(); token == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d give %d messages, want %d in order", size, len(got), len(want))
		}
	}
}

// A page of messages with very many recipients stays within what a client takes.
func TestPageBytes(t *testing.T) {
	o := newOffice(t, false)
	var to []string
	for i := range 5000 {
		to = append(to, fmt.Sprintf("%s%d@example.net", strings.Repeat("x", 55), i))
	}
	var want []string
	for range 6 {
		want = append(want, o.post(t, o.shard(), toPark, "anna@example.com", to...))
	}
	var got []string
	pages, token := 0, ""
	for ; pages == 0 || token != ""; pages++ {
		resp, err := o.Queue().ListMessages(t.Context(), &adminv1.ListMessagesRequest{PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range resp.GetMessages() {
			got = append(got, m.GetId())
		}
		token = resp.GetNextPageToken()
	}
	if pages < 2 || !slices.Equal(got, want) {
		t.Errorf("%d pages: %v, want %v", pages, got, want)
	}
}

func TestGetMessage(t *testing.T) {
	o := newOffice(t, false)
	o.judge = func(context.Context, *mail.Message) (stage.Result, error) {
		return stage.Result{Branch: stage.Branch{Edits: mail.Edits{Splices: []mail.Splice{{Insert: []byte("X: 1\r\n")}}}}}, nil
	}
	id := o.post(t, o.second(t), toPark, "anna@example.com", "bob@example.net")
	resp, err := o.Queue().GetMessage(t.Context(), &adminv1.GetMessageRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	m := resp.GetMessage()
	if m.GetShard() != "two" || m.GetSize() == 0 || m.GetEnvelope().GetReversePath() != "anna@example.com" || len(m.GetGroups()) != 1 {
		t.Fatalf("%v", m)
	}
	g := m.GetGroups()[0]
	if g.GetRoute() != "out" || g.GetRoom() != "park" || g.GetSince().AsTime().IsZero() || time.Since(g.GetSince().AsTime()) > time.Minute || g.GetLast().GetAbout() != "out" {
		t.Errorf("%v", g)
	}
	if len(g.GetDone()) != 1 || len(g.GetDone()[0].GetEdits().GetSplices()) != 1 {
		t.Errorf("hops done: %v", g.GetDone())
	}
	listed, err := o.Queue().ListMessages(t.Context(), &adminv1.ListMessagesRequest{})
	if err != nil || len(listed.GetMessages()) != 1 {
		t.Fatalf("%v, %v", listed, err)
	}
	if d := listed.GetMessages()[0].GetGroups()[0].GetDone(); len(d) != 1 || len(d[0].GetEdits().GetSplices()) != 0 || !d[0].GetEditsOmitted() {
		t.Errorf("in a list the hops done are %v", d)
	}
	_, err = o.Queue().GetMessage(t.Context(), &adminv1.GetMessageRequest{Id: "nobody"})
	wantCode(t, err, codes.NotFound, "nobody")
}

// contents is the stream of GetContent.
type contents struct {
	grpc.ServerStream
	ctx     context.Context
	data    bytes.Buffer
	largest int
	fail    error
}

func (c *contents) Context() context.Context { return c.ctx }
func (c *contents) Send(r *adminv1.GetContentResponse) error {
	c.largest = max(c.largest, len(r.GetChunk()))
	c.data.Write(r.GetChunk())
	return c.fail
}

func TestGetContent(t *testing.T) {
	o := newOffice(t, false)
	for _, size := range []int{10, 200_000, 3_500_000} {
		raw := []byte("Subject: a\r\n\r\n" + strings.Repeat("0123456789abcd\r\n", size/16))
		id := o.postRaw(t, o.shard(), toPark, raw, "anna@example.com", "bob@example.net")
		c := &contents{ctx: t.Context()}
		if err := o.Queue().GetContent(&adminv1.GetContentRequest{Id: id}, c); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.data.Bytes(), raw) || c.largest > 256<<10 {
			t.Errorf("%d bytes of %d, in frames of %d", c.data.Len(), len(raw), c.largest)
		}
		c = &contents{ctx: t.Context(), fail: io.ErrClosedPipe}
		if err := o.Queue().GetContent(&adminv1.GetContentRequest{Id: id}, c); err == nil {
			t.Error("no error for a client that is gone")
		}
	}
	wantCode(t, o.Queue().GetContent(&adminv1.GetContentRequest{Id: "nobody"}, &contents{ctx: t.Context()}), codes.NotFound)
}

// changes maps ids to what changed, or why nothing did.
func changes(list []*adminv1.Change) map[string]string {
	out := map[string]string{}
	for _, c := range list {
		out[c.GetId()] = fmt.Sprint(c.GetRecipients(), c.GetReason())
	}
	return out
}

func TestChanges(t *testing.T) {
	o := newOffice(t, false)
	one, two := o.shard(), o.second(t)
	q := o.Queue()
	c := o.post(t, one, toQuarantine, "anna@example.com", "carol@example.org")
	b := o.post(t, two, toRetry, "anna@example.com", "bob@example.net")
	a := o.post(t, one, toPark, "anna@example.com", "bob@example.net", "carol@example.org")

	_, err := q.DeleteMessages(t.Context(), &adminv1.DeleteMessagesRequest{Filter: &adminv1.Filter{}})
	wantCode(t, err, codes.InvalidArgument, "name ids")
	_, err = q.ReleaseMessages(t.Context(), &adminv1.ReleaseMessagesRequest{})
	wantCode(t, err, codes.InvalidArgument, "name ids")
	_, err = q.HoldMessages(t.Context(), &adminv1.HoldMessagesRequest{Filter: &adminv1.Filter{Ids: []string{a}}, Reason: "two\nlines"})
	wantCode(t, err, codes.InvalidArgument, "one line")
	_, err = q.HoldMessages(t.Context(), &adminv1.HoldMessagesRequest{Filter: &adminv1.Filter{Ids: []string{a}}, Reason: strings.Repeat("x", 501)})
	wantCode(t, err, codes.InvalidArgument, "at most 500")
	_, err = q.RetryMessages(t.Context(), &adminv1.RetryMessagesRequest{Filter: &adminv1.Filter{Ids: []string{a}}, FromStage: "chekc"})
	wantCode(t, err, codes.InvalidArgument, "did you mean check?")
	if got := o.list(t, &adminv1.Filter{Rooms: []string{"park", "retry", "quarantine"}}); len(got) != 3 {
		t.Fatalf("something changed: %v", got)
	}

	rel, err := q.ReleaseMessages(t.Context(), &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Ids: []string{a, b, "nobody"}}})
	if err != nil {
		t.Fatal(err)
	}
	got := changes(rel.GetChanges())
	if got[a] != "0it waits in park; this works on quarantine, dead" || got[b] != "0it waits in retry; this works on quarantine, dead" || got["nobody"] != "0"+dispatch.NotHere {
		t.Errorf("%v", got)
	}

	// Only the recipient that is meant.
	del, err := q.DeleteMessages(by(t, "anna"), &adminv1.DeleteMessagesRequest{Filter: &adminv1.Filter{Recipient: "bob@example.net"}, Reason: "spam"})
	if got := changes(del.GetChanges()); err != nil || len(got) != 2 || got[a] != "1" || got[b] != "1" {
		t.Errorf("%v, %v", got, err)
	}
	eventually(t, "b is gone", func() bool { return len(o.list(t, nil)) == 2 })
	if m, ok := one.log.Waiting().Get(a); !ok || len(m.Groups) != 1 || len(m.Groups[0].Recipients) != 1 || m.Groups[0].Recipients[0] != "2" {
		t.Errorf("of a there is left: %+v", m)
	}

	hold, err := q.HoldMessages(by(t, "anna"), &adminv1.HoldMessagesRequest{Filter: &adminv1.Filter{Rooms: []string{"park"}}, Reason: "wait for legal"})
	if got := changes(hold.GetChanges()); err != nil || len(got) != 1 || got[a] != "1" {
		t.Errorf("%v, %v", got, err)
	}
	m, err := q.GetMessage(t.Context(), &adminv1.GetMessageRequest{Id: a})
	if g := m.GetMessage().GetGroups()[0]; err != nil || g.GetRoom() != "quarantine" || g.GetLast().GetReason() != "held by anna: wait for legal" {
		t.Errorf("%v, %v", g, err)
	}

	rel, err = q.ReleaseMessages(by(t, "anna"), &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{About: "check"}})
	if got := changes(rel.GetChanges()); err != nil || len(got) != 1 || got[c] != "1" {
		t.Errorf("%v, %v", got, err)
	}
	eventually(t, "c waits for the route", func() bool {
		m, ok := one.log.Waiting().Get(c)
		return ok && m.Groups[0].Room == depot.Park && m.Groups[0].Last.Kind == chain.Deferred
	})
	m, err = q.GetMessage(t.Context(), &adminv1.GetMessageRequest{Id: c})
	if g := m.GetMessage().GetGroups()[0]; err != nil || !slices.Equal(g.GetReleased(), []string{"check"}) {
		t.Errorf("released: %v, %v", g.GetReleased(), err)
	}
	if got := o.list(t, &adminv1.Filter{Rooms: []string{"quarantine"}}); !slices.Equal(got, []string{a}) {
		t.Errorf("in quarantine: %v", got)
	}
	ret, err := q.RetryMessages(by(t, "anna"), &adminv1.RetryMessagesRequest{Filter: &adminv1.Filter{Rooms: []string{"quarantine", "park"}}, FromStage: "check"})
	if got := changes(ret.GetChanges()); err != nil || got[a] != "0it waits in quarantine; this works on retry, park" || got[c] != "1" {
		t.Errorf("%v, %v", got, err)
	}
}

// A thousand messages in two shards, released in one call.
func TestBulk(t *testing.T) {
	o := newOffice(t, false)
	shards := []*shard{o.shard(), o.second(t)}
	var want []string
	for i := range 1000 {
		want = append(want, o.post(t, shards[i%2], toQuarantine, "anna@example.com", "bob@example.net"))
	}
	o.egress.says(chain.Fate{Kind: chain.Delivered})
	began := time.Now()
	resp, err := o.Queue().ReleaseMessages(t.Context(), &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Rooms: []string{"quarantine"}}})
	if err != nil || resp.GetNextPageToken() != "" {
		t.Fatalf("%q, %v", resp.GetNextPageToken(), err)
	}
	t.Logf("%d messages in %v", len(resp.GetChanges()), time.Since(began))
	var got []string
	for _, c := range resp.GetChanges() {
		if got = append(got, c.GetId()); c.GetRecipients() != 1 {
			t.Fatalf("%v", c)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d changes, want %d in order", len(got), len(want))
	}
	eventually(t, "all are delivered", func() bool { return shards[0].log.Waiting().Len()+shards[1].log.Waiting().Len() == 0 })
}

// When the time is up the answer tells how far it came, and the token leads on.
func TestBulkOutOfTime(t *testing.T) {
	o := newOffice(t, false)
	for range 100 {
		o.post(t, o.shard(), toPark, "anna@example.com", "bob@example.net")
	}
	q := &queue{in: o.Ingress}
	f := &adminv1.Filter{Rooms: []string{"park"}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	slow := func(d *dispatch.Dispatcher, ctx context.Context, id string, order dispatch.Order) (dispatch.Changed, error) {
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return dispatch.Changed{Reason: "late"}, nil
		}
		return d.Hold(ctx, id, order)
	}
	c, next, err := q.each(ctx, f, "", dispatch.Order{}, slow)
	if err != nil || next == "" || len(c) < 32 || len(c) == 100 || next != c[len(c)-1].GetId() {
		t.Fatalf("%d changes, next %q, %v", len(c), next, err)
	}
	if ctx.Err() != nil {
		t.Error("the answer comes too late")
	}
	held := len(o.list(t, &adminv1.Filter{Rooms: []string{"quarantine"}}))
	if n := len(slices.DeleteFunc(slices.Clone(c), func(c *adminv1.Change) bool { return c.GetRecipients() == 0 })); n != held {
		t.Errorf("%d are held, told of %d", held, n)
	}
	more, err := o.Queue().HoldMessages(t.Context(), &adminv1.HoldMessagesRequest{Filter: f, PageToken: next})
	if err != nil || len(more.GetChanges())+len(c) != 100 || more.GetNextPageToken() != "" {
		t.Errorf("%d more, %v", len(more.GetChanges()), err)
	}
	// The log breaks: what was changed is told, and if nothing was, that.
	broken := func(d *dispatch.Dispatcher, ctx context.Context, id string, order dispatch.Order) (dispatch.Changed, error) {
		return dispatch.Changed{}, errors.New("broken")
	}
	c, _, err = q.each(t.Context(), &adminv1.Filter{Rooms: []string{"quarantine"}}, "", dispatch.Order{}, broken)
	wantCode(t, err, codes.Unavailable, "nothing was changed", "broken")
	if len(c) != 0 {
		t.Errorf("%d changes with an error", len(c))
	}
}

func TestQueueWithoutNATS(t *testing.T) {
	t.Parallel() // it waits most of its time
	o := newOffice(t, false)
	id := o.post(t, o.shard(), toPark, "anna@example.com", "bob@example.net")
	eventually(t, "it is stored", func() bool { m, ok := o.shard().log.Waiting().Get(id); return ok && m.Groups[0].Room == depot.Park })
	o.nats.Shutdown()
	o.nats.WaitForShutdown()
	eventually(t, "that is noticed", func() bool { return o.shard().log.Ready() != nil })
	if got := o.list(t, nil); !slices.Equal(got, []string{id}) {
		t.Errorf("listed %v", got)
	}
	_, err := o.Queue().DeleteMessages(t.Context(), &adminv1.DeleteMessagesRequest{Filter: &adminv1.Filter{Ids: []string{id}}})
	wantCode(t, err, codes.Unavailable, "nothing was changed", "NATS")
	s := o.own.Swap(nil)
	_, err = o.Queue().ListMessages(t.Context(), &adminv1.ListMessagesRequest{})
	wantCode(t, err, codes.Unavailable, "has not got its shard")
	o.own.Store(s)
}
