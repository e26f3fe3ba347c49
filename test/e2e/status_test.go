package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// statusOf asks as somebody does who will not wait long.
func statusOf(t *testing.T, r *rig.Rig) *adminv1.GetStatusResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	s, err := r.Status("one").GetStatus(ctx, &adminv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// told waits until the status has a problem of these words.
func told(t *testing.T, r *rig.Rig, words string, severity adminv1.Severity) {
	t.Helper()
	var last []*adminv1.Problem
	r.Eventually("the status tells of "+words, 20*time.Second, func() bool {
		last = statusOf(t, r).GetProblems()
		for _, p := range last {
			if strings.Contains(p.GetText(), words) && p.GetSeverity() == severity && p.GetRemedy() != "" {
				return true
			}
		}
		return false
	})
}

func TestStatus(t *testing.T) {
	t.Parallel()
	for _, mode := range []rig.Mode{rig.Up, rig.Services} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			r, sink := install(t, mode)
			r.Start()
			s := statusOf(t, r)
			if s.GetHostname() != "relay.example.com" || len(s.GetRevision()) != 64 || s.GetHeld() || len(s.GetShards()) != 1 || len(s.GetProblems()) != 0 ||
				len(s.GetListeners()) != 1 || s.GetListeners()[0].GetAddress() != r.SMTP() || s.GetDurability() == "" || time.Since(s.GetStarted().AsTime()) > time.Minute {
				t.Errorf("%v", s)
			}
			virus := r.MustSend("alice@example.com", []string{"bob@example.net"}, eicar())
			inRoom(r, "quarantine", virus)
			told(t, r, "1 message is in quarantine", adminv1.Severity_SEVERITY_WARNING)

			r.WriteFile("secrets/smarthost", "wrong\n")
			id := r.MustSend("alice@example.com", []string{"bob@example.net"}, plain("parked"))
			parkedAt(r, id, "provider")
			told(t, r, "route provider: the login is refused", adminv1.Severity_SEVERITY_WARNING)
			pauseRoute(t, r, "provider")
			told(t, r, "route provider is paused", adminv1.Severity_SEVERITY_WARNING)
			if b := statusOf(t, r).GetBarriers(); len(b) != 2 || b[0].GetBy() == "" || b[0].GetWaiting() != 1 || b[1].GetBy() != "" || b[1].GetKind() != "route" {
				t.Errorf("%v", b)
			}
			resumeRoute(t, r, "provider")
			r.WriteFile("secrets/smarthost", rig.SinkPassword+"\n")
			sink.Wait(id, 40*time.Second)
			r.Eventually("the route is well", 10*time.Second, func() bool { return len(statusOf(t, r).GetBarriers()) == 0 })

			if mode == rig.Up {
				if err := r.Proc("up").Stop(stopLimit); err != nil {
					t.Fatal(err)
				}
				r.StartProc("up", "--hold")
				r.WaitSMTP("one")
				told(t, r, "--hold", adminv1.Severity_SEVERITY_WARNING)
				return
			}
			if err := r.Proc("archive").Stop(stopLimit); err != nil {
				t.Fatal(err)
			}
			parkedAt(r, r.MustSend("alice@example.com", []string{"bob@example.net"}, plain("no archive")), "archive")
			told(t, r, "hop archive is down", adminv1.Severity_SEVERITY_WARNING)
			if err := r.Proc("nats").Stop(stopLimit); err != nil {
				t.Fatal(err)
			}
			told(t, r, "NATS cannot be reached", adminv1.Severity_SEVERITY_CRITICAL)
			if s := statusOf(t, r); !strings.Contains(s.GetProblems()[0].GetText(), "NATS") || s.GetShards()[0].GetStopped() != "down" {
				t.Errorf("%v", s)
			}
			r.StartProc("nats")
			r.Eventually("mail is taken again", 30*time.Second, func() bool { return replyToMail(t, r) == 250 })
			r.Eventually("the status knows", 10*time.Second, func() bool { return statusOf(t, r).GetShards()[0].GetStopped() == "" })
		})
	}
}
