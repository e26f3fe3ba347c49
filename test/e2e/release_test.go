package e2e

import (
	"bytes"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// person does something to one message, and fails unless it changed.
func person(r *rig.Rig, do, id string) {
	r.T.Helper()
	c, ids := r.Queue("one"), []string{id}
	var n int
	var err error
	switch do {
	case "retry":
		var resp *adminv1.RetryMessagesResponse
		resp, err = c.RetryMessages(r.T.Context(), &adminv1.RetryMessagesRequest{Filter: &adminv1.Filter{Ids: ids}})
		n = rig.Changed(resp.GetChanges())
	case "hold":
		var resp *adminv1.HoldMessagesResponse
		resp, err = c.HoldMessages(rig.As(r.T.Context(), "tester"), &adminv1.HoldMessagesRequest{Filter: &adminv1.Filter{Ids: ids}})
		n = rig.Changed(resp.GetChanges())
	case "release":
		var resp *adminv1.ReleaseMessagesResponse
		resp, err = c.ReleaseMessages(rig.As(r.T.Context(), "tester"), &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Ids: ids}})
		n = rig.Changed(resp.GetChanges())
	case "delete":
		var resp *adminv1.DeleteMessagesResponse
		resp, err = c.DeleteMessages(rig.As(r.T.Context(), "tester"), &adminv1.DeleteMessagesRequest{Filter: &adminv1.Filter{Ids: ids}})
		n = rig.Changed(resp.GetChanges())
	}
	if err != nil || n != 1 {
		r.T.Fatalf("%s %s: %d changed, %v", do, id, n, err)
	}
}

// inRoom waits until a message is in a room.
func inRoom(r *rig.Rig, room, id string) *adminv1.WaitingMessage {
	r.T.Helper()
	var w *adminv1.WaitingMessage
	r.Eventually(id+" is in the room "+room, 20*time.Second, func() bool { w = waitingIn(r, room, id); return w != nil })
	return w
}

func TestPerson(t *testing.T) {
	t.Parallel()
	r, sink := install(t, rig.Up)
	r.Start()
	bob, two := []string{"bob@example.net"}, []string{"bob@example.net", "carol@example.org"}

	r.Run("release", func(t *testing.T) {
		id := r.MustSend("alice@example.com", bob, eicar())
		inRoom(r, "quarantine", id)
		person(r, "release", id)
		once(r, sink, id)
		if d := sink.Find(id)[0]; !bytes.Contains(d.Raw, []byte("EICAR-STANDARD")) || bytes.Count(d.Raw, []byte("Example Ltd")) != 1 {
			t.Errorf("what was released has not gone through the rest of its chain:\n%s", d.Raw)
		}
	})
	r.Run("release over a restart", func(t *testing.T) {
		id := r.MustSend("alice@example.com", bob, eicar())
		inRoom(r, "quarantine", id)
		r.WriteFile("secrets/smarthost", "wrong\n")
		sink.HangUp()
		person(r, "release", id)
		inRoom(r, "park", id)
		if err := r.Proc("up").Stop(stopLimit); err != nil {
			t.Fatal(err)
		}
		r.WriteFile("secrets/smarthost", rig.SinkPassword+"\n")
		r.Start()
		once(r, sink, id)
	})
	r.Run("delete", func(t *testing.T) {
		id := r.MustSend("alice@example.com", bob, eicar())
		inRoom(r, "quarantine", id)
		person(r, "delete", id)
		r.Eventually("it is gone", 10*time.Second, func() bool { return len(r.InRoom("")) == 0 })
		once(r, sink, r.MustSend("alice@example.com", bob, plain("after it")))
		if n := len(sink.Find(id)); n != 0 {
			t.Errorf("%d copies of what was deleted", n)
		}
	})
	r.Run("hold and release", func(t *testing.T) {
		sink.Refuse(bob[0], 450, "not now")
		id := r.MustSend("alice@example.com", bob, plain("held"))
		inRoom(r, "retry", id)
		person(r, "hold", id)
		inRoom(r, "quarantine", id)
		sink.Refuse(bob[0], 0, "")
		once2 := r.MustSend("alice@example.com", bob, plain("not held"))
		sink.Wait(once2, 10*time.Second)
		if len(sink.Find(id)) != 0 {
			t.Error("it went out while a person held it")
		}
		person(r, "release", id)
		once(r, sink, id, once2)
	})
	r.Run("retry", func(t *testing.T) {
		for _, to := range two {
			sink.Refuse(to, 450, "not now")
		}
		id := r.MustSend("alice@example.com", two, plain("again"))
		if w := inRoom(r, "retry", id); len(w.GetGroups()) != 1 || len(w.GetGroups()[0].GetRecipients()) != 2 {
			t.Errorf("those who wait alike do not wait together: %v", w.GetGroups())
		}
		for _, to := range two {
			sink.Refuse(to, 0, "")
		}
		person(r, "retry", id)
		once(r, sink, id)
		if got := strings.Join(sink.Find(id)[0].To, " "); got != strings.Join(two, " ") {
			t.Errorf("in one transaction to %s", got)
		}
	})
}
