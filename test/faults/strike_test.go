//go:build faults

package faults

import (
	"context"
	"syscall"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

func (l *load) struck(f fault) {
	l.mu.Lock()
	l.faults = append(l.faults, f)
	l.mu.Unlock()
}

// kill ends a process as kill -9 does, lets it be down for a while, and starts it again.
func (in *installation) kill(name string, down time.Duration) {
	in.T.Helper()
	f := fault{what: "kill " + name, from: time.Now(), log: name == "nats"}
	in.Proc(name).Kill()
	<-time.After(down)
	in.StartProc(name)
	f.to = time.Now()
	in.load.struck(f)
}

// stop pauses a process until the function that it returns is called. of: see fault.
func (in *installation) stop(name, of string) (goOn func()) {
	p := in.Proc(name)
	f := fault{what: "stop " + name, from: time.Now(), of: of}
	p.Signal(syscall.SIGSTOP)
	return func() {
		p.Signal(syscall.SIGCONT)
		f.to = time.Now()
		in.load.struck(f)
	}
}

// listed gives the ids of what waits in a room (empty: in all) of an ingress; false: it could not be asked.
func (in *installation) listed(name, room string) ([]string, bool) {
	ctx, cancel := context.WithTimeout(in.T.Context(), 10*time.Second)
	defer cancel()
	resp, err := in.waiting[name].ListMessages(ctx, &adminv1.ListMessagesRequest{Filter: rig.InRooms(room), PageSize: 1000}, grpc.WaitForReady(true))
	if err != nil {
		in.T.Logf("what waits at %s: %v", name, err)
		return nil, false
	}
	var ids []string
	for _, m := range resp.GetMessages() {
		ids = append(ids, m.GetId())
	}
	return ids, true
}

// quiet says that everything accepted has arrived, and that nothing waits.
func (in *installation) quiet() bool {
	if in.missing() > 0 {
		return false
	}
	for name := range in.waiting {
		if ids, ok := in.listed(name, ""); !ok || len(ids) > 0 {
			return false
		}
	}
	return true
}

// hurry wakes what waits for a time; what is parked goes on by itself.
func (in *installation) hurry() {
	for name, w := range in.waiting {
		ids, ok := in.listed(name, "retry")
		if !ok || len(ids) == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(in.T.Context(), 10*time.Second)
		_, _ = w.RetryMessages(ctx, &adminv1.RetryMessagesRequest{Filter: &adminv1.Filter{Ids: ids}}) // what it fails for stays listed, and is asked for again
		cancel()
	}
}

// settle stops the load and waits until nothing is on its way any more. When nothing has arrived for as long as
// stall, what is missing is lost.
func (in *installation) settle(stall time.Duration) {
	in.T.Helper()
	in.load.stop()
	start := time.Now()
	left, since := in.missing(), start
	for !in.quiet() {
		if n := in.missing(); n < left {
			left, since = n, time.Now()
		}
		if time.Since(since) > stall {
			in.T.Logf("for %v nothing has arrived, and %d copies are missing", stall, left)
			break
		}
		in.hurry()
		<-time.After(time.Second)
	}
	in.T.Logf("settled after %v", time.Since(start).Round(100*time.Millisecond))
}
