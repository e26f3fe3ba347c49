package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

func pauseRoute(t *testing.T, r *rig.Rig, name string) {
	t.Helper()
	resp, err := r.Routes("one").PauseRoute(rig.As(t.Context(), "tester"), &adminv1.PauseRouteRequest{Name: name, Reason: "invoice"})
	if err != nil || resp.GetRoute().GetPause().GetReason() != "invoice" || resp.GetRoute().GetPause().GetBy() == "" {
		t.Fatalf("%v, %v", resp, err)
	}
}

func resumeRoute(t *testing.T, r *rig.Rig, name string) {
	t.Helper()
	if resp, err := r.Routes("one").ResumeRoute(rig.As(t.Context(), "tester"), &adminv1.ResumeRouteRequest{Name: name}); err != nil || resp.GetRoute().GetPause() != nil {
		t.Fatalf("%v, %v", resp, err)
	}
}

// route gives a route as an ingress shows it.
func route(t *testing.T, r *rig.Rig, instance, name string) *adminv1.RouteState {
	t.Helper()
	resp, err := r.Routes(instance).ListRoutes(t.Context(), &adminv1.ListRoutesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range resp.GetRoutes() {
		if s.GetName() == name {
			return s
		}
	}
	return nil
}

func TestPauseRoute(t *testing.T) {
	t.Parallel()
	for _, mode := range []rig.Mode{rig.Up, rig.Services} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			r := rig.New(t, mode)
			last := "one"
			if mode == rig.Services { // the pause is made at one ingress, and holds at the other
				r.Instances, last = []string{"one", "two"}, "two"
			}
			sink := prepare(t, r)
			r.Start()
			ingress := "up"
			if mode == rig.Services {
				ingress = "ingress-two"
			}
			bob := []string{"bob@example.net"}

			_, err := r.Routes("one").PauseRoute(t.Context(), &adminv1.PauseRouteRequest{Name: "provdier"})
			if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "did you mean provider?") {
				t.Errorf("%v", err)
			}
			if s := route(t, r, last, "provider"); s.GetKind() != "smarthost" || s.GetTo() != sink.Addr || s.GetPause() != nil || len(s.GetChains()) != 1 {
				t.Errorf("%v", s)
			}
			pauseRoute(t, r, "provider")
			paused := time.Now()
			r.Eventually("every ingress follows", 10*time.Second, func() bool { return route(t, r, last, "provider").GetPause() != nil })
			if took := time.Since(paused); took > time.Second {
				t.Errorf("the other ingress followed after %v", took)
			}
			send := func(to []string, raw string) string {
				id, err := rig.Send(r.Addr("smtp-"+last), "alice@example.com", to, raw)
				if err != nil {
					t.Fatal(err)
				}
				return id
			}
			var ids []string
			for range 20 {
				ids = append(ids, send(bob, plain("paused")))
			}
			r.Eventually("they wait", 10*time.Second, func() bool { return route(t, r, last, "provider").GetWaiting() == 20 })
			send([]string{"carol@example.com"}, plain("to us"))
			r.Eventually("another route's mail flows", 10*time.Second, func() bool { return len(inbox(r, "inbox")) == 1 })
			if s := route(t, r, last, "provider"); s.GetDown() != "" {
				t.Errorf("it counts as down: %s", s.GetDown())
			}

			// Over a restart.
			if err := r.Proc(ingress).Stop(stopLimit); err != nil {
				t.Fatal(err)
			}
			r.StartProc(ingress)
			r.WaitSMTP(last)
			ids = append(ids, send(bob, plain("after the restart")))
			r.Eventually("all of it waits", 10*time.Second, func() bool { return route(t, r, last, "provider").GetWaiting() == 21 })
			if s := route(t, r, last, "provider"); s.GetDown() != "" || s.GetPause().GetReason() != "invoice" {
				t.Errorf("%v", s)
			}
			if n := len(sink.Deliveries()); n != 0 {
				t.Fatalf("%d messages went out", n)
			}
			resumeRoute(t, r, "provider")
			resumed := time.Now()
			r.Eventually("everything has come", 20*time.Second, func() bool { return len(sink.Deliveries()) >= len(ids) })
			t.Logf("%d messages came within %v", len(ids), time.Since(resumed))
			if took := time.Since(resumed); took > 5*time.Second {
				t.Errorf("they came after %v", took)
			}
			for _, id := range ids {
				if n := len(sink.Find(id)); n != 1 {
					t.Errorf("%d copies of %s", n, id)
				}
			}
		})
	}
}

// What is at its final dot when its route is paused gets there; what is not waits.
func TestPauseRouteUnderWay(t *testing.T) {
	t.Parallel()
	r, sink := install(t, rig.Up)
	r.Start()
	at, goOn := make(chan struct{}, 10), make(chan struct{})
	sink.OnBody(func(string) error { at <- struct{}{}; <-goOn; return nil })
	dot := r.MustSend("alice@example.com", []string{"bob@example.net"}, plain("at its dot"))
	<-at
	pauseRoute(t, r, "provider")
	late := r.MustSend("alice@example.com", []string{"bob@example.net"}, plain("late"))
	inRoom(r, "park", late)
	close(goOn)
	sink.Wait(dot, 10*time.Second)
	r.Eventually("it does not wait", 10*time.Second, func() bool { return waitingIn(r, "", dot) == nil })
	if n := len(sink.Find(late)); n != 0 {
		t.Error("it went out by a paused route")
	}
	resumeRoute(t, r, "provider")
	once(r, sink, dot, late)
}

func TestPauseRouteWithoutNATS(t *testing.T) {
	t.Parallel()
	r, sink := install(t, rig.Services)
	r.Start()
	if err := r.Proc("nats").Stop(stopLimit); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := r.Routes("one").PauseRoute(ctx, &adminv1.PauseRouteRequest{Name: "provider"}); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("%v", err)
	}
	if s := route(t, r, "one", "provider"); s.GetPause() != nil {
		t.Errorf("%v", s)
	}
	r.StartProc("nats")
	r.Eventually("mail is taken again", 30*time.Second, func() bool { return replyToMail(t, r) == 250 })
	once(r, sink, r.MustSend("alice@example.com", []string{"bob@example.net"}, plain("after")))
}
