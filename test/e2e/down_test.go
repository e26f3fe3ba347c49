package e2e

import (
	"bytes"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// twoChains is body with a second outbound chain, to example.org, that needs neither archive nor signer.
func twoChains(r *rig.Rig, sink *rig.Sink) {
	configure(r, sink, "  - name: outbound\n", "  - name: short\n    match: {direction: outbound, recipients: [\"*@example.org\"]}\n    stages: [antivirus]\n    deliver: provider\n  - name: outbound\n")
}

// parkedAt waits until a message is parked before a hop or route.
func parkedAt(r *rig.Rig, id, about string) {
	r.T.Helper()
	r.Eventually("the message waits for "+about, 20*time.Second, func() bool {
		w := waitingIn(r, "park", id)
		return w != nil && w.GetGroups()[0].GetLast().GetAbout() == about
	})
}

// once waits for messages at the sink and checks that each came once, and that nothing came back.
func once(r *rig.Rig, sink *rig.Sink, ids ...string) {
	r.T.Helper()
	for _, id := range ids {
		sink.Wait(id, 30*time.Second)
	}
	r.Eventually("nothing waits any more", 20*time.Second, func() bool { return len(r.InRoom("")) == 0 })
	for _, id := range ids {
		if n := len(sink.Find(id)); n != 1 {
			r.T.Errorf("%d copies of %s", n, id)
		}
	}
	if got := inbox(r, "inbox"); len(got) > 0 {
		r.T.Errorf("it bounced:\n%s", got[0])
	}
}

func TestServicesDown(t *testing.T) {
	t.Parallel()
	r, sink := install(t, rig.Services)
	twoChains(r, sink)
	r.Start()
	bob, short := []string{"bob@example.net"}, []string{"carol@example.org"}
	stop := func(name string) {
		if err := r.Proc(name).Stop(30 * time.Second); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}

	r.Run("stage", func(t *testing.T) {
		stop("archive")
		a, b := r.MustSend("alice@example.com", bob, threeParts), r.MustSend("alice@example.com", bob, plain("b"))
		parkedAt(r, a, "archive")
		parkedAt(r, b, "archive")
		c := r.MustSend("alice@example.com", short, plain("another chain"))
		sink.Wait(c, 10*time.Second)
		r.StartProc("archive")
		once(r, sink, a, b, c)
		if n := bytes.Count(sink.Find(a)[0].Raw, []byte("Example Ltd")); n != 2 {
			t.Errorf("the footer stands %d times", n)
		}
	})
	r.Run("first stage", func(t *testing.T) {
		stop("antivirus")
		a := r.MustSend("alice@example.com", bob, plain("a"))
		parkedAt(r, a, "antivirus")
		r.StartProc("antivirus")
		once(r, sink, a)
	})
	r.Run("egress", func(t *testing.T) {
		stop("egress")
		a, b := r.MustSend("alice@example.com", bob, plain("a")), r.MustSend("alice@example.com", short, plain("b"))
		parkedAt(r, a, "egress")
		parkedAt(r, b, "egress")
		r.StartProc("egress")
		once(r, sink, a, b)
	})
	r.Run("stage and route", func(t *testing.T) {
		stop("archive")
		a, b := r.MustSend("alice@example.com", bob, plain("a")), r.MustSend("alice@example.com", bob, plain("b"))
		parkedAt(r, a, "archive")
		parkedAt(r, b, "archive")
		r.WriteFile("secrets/smarthost", "wrong\n")
		sink.HangUp() // egress must log in again
		c := r.MustSend("alice@example.com", short, plain("c"))
		parkedAt(r, c, "provider")
		// While the route is down too, the stage cannot be probed: what waits for it must not be stuck for that.
		r.Eventually("the route is tried again", 10*time.Second, func() bool { return logged(r, "egress", "level=WARN", "id="+c, "attempt=3") })
		r.StartProc("archive")
		r.WriteFile("secrets/smarthost", rig.SinkPassword+"\n")
		once(r, sink, a, b, c)
	})
	r.Run("nats", func(t *testing.T) {
		stop("nats")
		r.Eventually("451 at MAIL", 10*time.Second, func() bool { return replyToMail(t, r) == 451 })
		for range 5 {
			start := time.Now()
			if code := replyToMail(t, r); code != 451 {
				t.Errorf("MAIL: %d while NATS is down", code)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("the 451 took %v", took)
			}
		}
		r.StartProc("nats")
		r.Eventually("mail is taken again", 30*time.Second, func() bool { return replyToMail(t, r) == 250 })
		once(r, sink, r.MustSend("alice@example.com", bob, plain("after")))
	})
}

// replyToMail gives the code that MAIL is answered with.
func replyToMail(t *testing.T, r *rig.Rig) int {
	c := dialFrom(t, "127.0.0.1", r.SMTP())
	code, _ := command(t, c, "MAIL FROM:<alice@example.com>")
	_ = c.Close()
	return code
}
