//go:build faults

package faults

import (
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// down is how long something is away.
const down = 8 * time.Second

func TestNATSOutage(t *testing.T) {
	t.Parallel()
	in := install(t, rig.Services, "")
	in.load.clients("c", clientCount, in.SMTP(), clientRest, one, two, both, short)
	for range 2 {
		<-time.After(1500 * time.Millisecond)
		gone := time.Now()
		in.kill("nats", down)
		back := time.Now()
		in.Eventually("mail is accepted again", 60*time.Second, func() bool {
			sent, _, _ := in.load.seen()
			for _, s := range sent {
				if s.outcome == acked && s.dot.After(back) {
					t.Logf("accepted again %v after NATS was started", s.answered.Sub(back).Round(time.Millisecond))
					return true
				}
			}
			return false
		})
		_, _, deferrals := in.load.seen()
		n := 0
		for _, d := range deferrals {
			if d.at.Before(gone.Add(time.Second)) || d.at.After(back) {
				continue
			}
			n++
			if d.verb != "MAIL" || d.code != 451 || d.took > 2*time.Second {
				t.Errorf("while NATS was down %s was answered %d after %v, not MAIL with 451 at once", d.verb, d.code, d.took)
			}
		}
		t.Logf("%d times 451 at MAIL within %v", n, down)
		if n == 0 {
			t.Error("no client heard 451 at MAIL while NATS was down")
		}
		sent, _, _ := in.load.seen()
		for _, s := range sent {
			if s.outcome == acked && s.dot.After(gone.Add(time.Second)) && s.answered.Before(back) {
				t.Errorf("%s was acknowledged while NATS was down", s.token)
			}
		}
	}
	in.settle(settling)
	in.clean()
}

// While a stage is down the mail that needs it waits, the other mail flows; then what waits goes on by itself.
func TestStageOutage(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"disclaimer", "archive"} {
		in := install(t, rig.Services, "")
		in.load.clients("long", clientCount/2, in.SMTP(), clientRest, one, two)
		in.load.clients("short", clientCount/2, in.SMTP(), clientRest, short)
		<-time.After(1500 * time.Millisecond)
		gone := time.Now()
		in.kill(stage, down)
		back := time.Now()
		<-time.After(time.Second)
		in.load.stop()
		in.Eventually("everything goes on by itself", 75*time.Second, in.quiet)
		t.Logf("%s: all had arrived %v after it was started", stage, time.Since(back).Round(100*time.Millisecond))
		flowed, accepted := 0, 0
		sent, _, _ := in.load.seen()
		during := map[string]bool{}
		for _, s := range sent {
			if s.outcome == acked && s.dot.After(gone.Add(time.Second)) && s.answered.Before(back) {
				accepted++
				during[s.token] = true
			}
		}
		for _, a := range in.arrivals() {
			if !during[a.token] || a.dot.After(back) { // what had the stage behind it before may go on
				continue
			}
			if strings.HasPrefix(a.token, "short") {
				flowed++
			} else {
				t.Errorf("%s went past the stage %s while that was down", a.token, stage)
			}
		}
		t.Logf("%s: %d accepted while it was down, %d of the short chain arrived", stage, accepted, flowed)
		if flowed < 20 {
			t.Errorf("%s: only %d messages of the chain without it flowed", stage, flowed)
		}
		in.clean()
		in.StopAll()
	}
}
