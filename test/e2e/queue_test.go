package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// content reads the bytes of a waiting message.
func content(t *testing.T, r *rig.Rig, id string) []byte {
	t.Helper()
	stream, err := r.Queue("one").GetContent(t.Context(), &adminv1.GetContentRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, resp.GetChunk()...)
	}
}

// listed gives the ids that a filter picks.
func listed(t *testing.T, r *rig.Rig, f *adminv1.Filter) []string {
	t.Helper()
	resp, err := r.Queue("one").ListMessages(t.Context(), &adminv1.ListMessagesRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range resp.GetMessages() {
		ids = append(ids, m.GetId())
	}
	return ids
}

func TestQueue(t *testing.T) {
	t.Parallel()
	for _, mode := range []rig.Mode{rig.Up, rig.Services} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			r, sink := install(t, mode)
			r.Start()
			q := r.Queue("one")
			as := rig.As(t.Context(), "tester")
			bob, two := []string{"bob@example.net"}, []string{"bob@example.net", "carol@example.org"}

			virus := r.MustSend("alice@example.com", two, eicar())
			inRoom(r, "quarantine", virus)
			sink.Refuse(bob[0], 450, "not now")
			later := r.MustSend("alice@example.com", two, plain("later"))
			inRoom(r, "retry", later)
			sink.Wait(later, 10*time.Second) // to carol

			if got := listed(t, r, &adminv1.Filter{Rooms: []string{"quarantine"}, About: "antivirus"}); !slices.Equal(got, []string{virus}) {
				t.Errorf("in quarantine: %v", got)
			}
			if got := listed(t, r, &adminv1.Filter{Recipient: "*@example.org"}); !slices.Equal(got, []string{virus}) { // what went to carol does not wait
				t.Errorf("for example.org: %v", got)
			}
			m, err := q.GetMessage(t.Context(), &adminv1.GetMessageRequest{Id: virus})
			if g := m.GetMessage().GetGroups(); err != nil || m.GetMessage().GetShard() == "" || len(g) != 1 || g[0].GetRoute() != "provider" || time.Since(g[0].GetSince().AsTime()) > time.Minute {
				t.Errorf("%v, %v", m, err)
			}
			if got := content(t, r, virus); !bytes.HasSuffix(got, []byte(eicar())) || !bytes.HasPrefix(got, []byte("Received: ")) {
				t.Errorf("its content is\n%s", got)
			}

			// Nobody changes everything by mistake, and who asks for nothing hears why.
			_, err = q.DeleteMessages(as, &adminv1.DeleteMessagesRequest{Filter: &adminv1.Filter{}})
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("to delete everything: %v", err)
			}
			rel, err := q.ReleaseMessages(as, &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Ids: []string{later, "nobody"}}})
			if err != nil || len(rel.GetChanges()) != 2 || rig.Changed(rel.GetChanges()) != 0 || !strings.Contains(rel.GetChanges()[0].GetReason(), "waits in retry") || rel.GetChanges()[1].GetReason() == "" {
				t.Errorf("%v, %v", rel, err)
			}

			// One recipient is deleted, the other held; then what is in quarantine is released, and nothing else.
			del, err := q.DeleteMessages(as, &adminv1.DeleteMessagesRequest{Filter: &adminv1.Filter{Ids: []string{virus}, Recipient: "carol@example.org"}, Reason: "not wanted"})
			if err != nil || rig.Changed(del.GetChanges()) != 1 {
				t.Errorf("%v, %v", del, err)
			}
			hold, err := q.HoldMessages(as, &adminv1.HoldMessagesRequest{Filter: &adminv1.Filter{Sender: "*@example.com", Rooms: []string{"retry"}}, Reason: "look at it"})
			if err != nil || rig.Changed(hold.GetChanges()) != 1 {
				t.Errorf("%v, %v", hold, err)
			}
			if w := inRoom(r, "quarantine", later); !strings.HasSuffix(w.GetGroups()[0].GetLast().GetReason(), ": look at it") || strings.Contains(w.GetGroups()[0].GetLast().GetReason(), "unknown") {
				t.Errorf("held: %v", w.GetGroups()[0].GetLast())
			}
			third := r.MustSend("alice@example.com", bob, plain("third"))
			before := inRoom(r, "retry", third)
			rel, err = q.ReleaseMessages(as, &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Rooms: []string{"quarantine"}}})
			if err != nil || rig.Changed(rel.GetChanges()) != 2 {
				t.Errorf("%v, %v", rel, err)
			}
			for _, id := range []string{virus, later} {
				r.Eventually("what was released has been tried", 20*time.Second, func() bool {
					w := waitingIn(r, "retry", id)
					return w != nil && w.GetGroups()[0].GetLast().GetReply().GetCode() == 450
				})
			}
			if after := inRoom(r, "retry", third); !after.GetGroups()[0].GetNext().AsTime().Equal(before.GetGroups()[0].GetNext().AsTime()) {
				t.Error("what was not meant was changed")
			}

			sink.Refuse(bob[0], 0, "")
			ret, err := q.RetryMessages(as, &adminv1.RetryMessagesRequest{Filter: &adminv1.Filter{Route: "provider"}, FromStage: "footer"})
			if err != nil || rig.Changed(ret.GetChanges()) != 3 {
				t.Errorf("%v, %v", ret, err)
			}
			r.Eventually("nothing waits any more", 20*time.Second, func() bool { return len(r.InRoom("")) == 0 })
			for id, copies := range map[string]int{virus: 1, later: 2, third: 1} {
				if n := len(sink.Find(id)); n != copies {
					t.Errorf("%d copies of %s, want %d", n, id, copies)
				}
			}
			for _, d := range append(sink.Find(virus), sink.Find(third)...) {
				if d.To[0] != bob[0] || bytes.Count(d.Raw, []byte("Example Ltd")) != 1 {
					t.Errorf("to %v:\n%s", d.To, d.Raw)
				}
			}
		})
	}
}

// Many messages, released in one call, over a time that is too short for all of them.
func TestQueueBulk(t *testing.T) {
	t.Parallel()
	r, sink := install(t, rig.Up)
	r.Start()
	const many = 300
	for range many {
		r.MustSend("alice@example.com", []string{"bob@example.net"}, eicar())
	}
	r.Eventually("all are in quarantine", 20*time.Second, func() bool { return len(r.InRoom("quarantine")) == many })
	f, token, calls, n := &adminv1.Filter{Rooms: []string{"quarantine"}}, "", 0, 0
	for ; calls == 0 || token != ""; calls++ {
		limit := time.Minute
		if calls == 0 {
			limit = 30 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		resp, err := r.Queue("one").ReleaseMessages(ctx, &adminv1.ReleaseMessagesRequest{Filter: f, PageToken: token})
		cancel()
		if calls == 0 && status.Code(err) == codes.DeadlineExceeded { // nothing came back: what was done is not known, so begin anew
			token = "0"
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		n += rig.Changed(resp.GetChanges())
		token = resp.GetNextPageToken()
	}
	t.Logf("%d calls, %d changes told", calls, n)
	r.Eventually("all have come", 30*time.Second, func() bool { return len(sink.Deliveries()) == many })
	r.Eventually("nothing waits any more", 20*time.Second, func() bool { return len(r.InRoom("")) == 0 })
}
