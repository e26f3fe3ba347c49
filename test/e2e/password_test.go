package e2e

import (
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	r, sink := install(t, rig.Up)
	r.WriteFile("secrets/smarthost", "wrong horse\n")
	r.Start()
	var ids []string
	for _, subject := range []string{"first", "second", "third"} {
		ids = append(ids, r.MustSend("alice@example.com", []string{"bob@example.net"}, plain(subject)))
	}
	r.Eventually("all wait for the route", 10*time.Second, func() bool {
		waiting := r.InRoom("park")
		for _, w := range waiting {
			if last := w.GetGroups()[0].GetLast(); last.GetAbout() != "provider" || last.GetConcern().String() != "CONCERN_ROUTE" {
				t.Fatalf("it waits for %v", last)
			}
		}
		return len(waiting) == len(ids)
	})
	if !logged(r, "up", "level=ERROR", "name=provider", "535") {
		t.Error("no error in the log names the route and the reply")
	}
	if logged(r, "up", "wrong horse") || logged(r, "up", rig.SinkPassword) {
		t.Error("a password stands in the log")
	}
	if got := inbox(r, "inbox"); len(got) != 0 {
		t.Fatalf("it bounced:\n%s", got[0])
	}
	r.WriteFile("secrets/smarthost", rig.SinkPassword+"\n")
	for _, id := range ids {
		sink.Wait(id, 15*time.Second)
	}
	r.Eventually("nothing waits any more", 10*time.Second, func() bool { return len(r.InRoom("")) == 0 })
	for _, id := range ids {
		if n := len(sink.Find(id)); n != 1 {
			t.Errorf("%d copies of %s", n, id)
		}
	}
	if !logged(r, "up", "level=INFO", "up again", "name=provider") {
		t.Error("the log does not say that the route is well again")
	}
}
