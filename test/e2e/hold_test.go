package e2e

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// stopLimit is what an orderly stop may take.
const stopLimit = 30 * time.Second

func TestHold(t *testing.T) {
	t.Parallel()
	r, sink := install(t, rig.Up)
	r.StartProc("up", "--hold")
	r.WaitSMTP("one")
	a := r.MustSend("alice@example.com", []string{"bob@example.net"}, threeParts)
	b := r.MustSend("alice@example.com", []string{"bob@example.net"}, eicar())
	r.Eventually("both are held", 10*time.Second, func() bool { return waitingIn(r, "park", a) != nil && waitingIn(r, "park", b) != nil })
	if err := r.Proc("up").Stop(stopLimit); err != nil {
		t.Fatal(err)
	}
	r.StartProc("up", "--hold")
	r.WaitSMTP("one")
	c := r.MustSend("alice@example.com", []string{"bob@example.net"}, plain("third"))
	r.Eventually("all are held, after a restart too", 10*time.Second, func() bool { return len(r.InRoom("park")) == 3 })
	if n := len(sink.Deliveries()); n != 0 {
		t.Fatalf("%d messages went out", n)
	}
	if err := r.Proc("up").Stop(stopLimit); err != nil {
		t.Fatal(err)
	}
	r.Start()
	sink.Wait(a, 20*time.Second)
	sink.Wait(c, 20*time.Second)
	r.Eventually("EICAR is in quarantine", 10*time.Second, func() bool { return waitingIn(r, "quarantine", b) != nil })
	if n := len(sink.Deliveries()); n != 2 {
		t.Errorf("%d copies of two messages", n)
	}
}

// loadTo are the recipients of each message of a load.
var loadTo = []string{"bob@example.net", "carol@example.org"}

// load sends messages from several clients at once until stop is called, and keeps the ids that stood in a 250.
type load struct {
	r    *rig.Rig
	end  chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	ids  []string
	errs []error
}

func startLoad(r *rig.Rig, clients int) *load {
	l := &load{r: r, end: make(chan struct{})}
	large := threeParts + crlf(strings.Repeat(strings.Repeat("all work and no play ", 3)+"\n", 10_000)) // goes in chunks
	for n := range clients {
		l.wg.Go(func() {
			for i := n; ; i++ {
				select {
				case <-l.end:
					return
				default:
				}
				raw := threeParts
				if i%16 == 0 {
					raw = large
				}
				id, err := r.Send("alice@example.com", loadTo, raw)
				l.mu.Lock()
				if err == nil {
					l.ids = append(l.ids, id)
				} else {
					l.errs = append(l.errs, err)
				}
				l.mu.Unlock()
				pause := 10 * time.Millisecond // the backlog of a stopped service stays small
				if err != nil {
					pause *= 2
				}
				<-time.After(pause)
			}
		})
	}
	return l
}

// count is how many messages were accepted so far.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ids)
}

func (l *load) more(n int) {
	l.r.T.Helper()
	want := l.count() + n
	l.r.Eventually("mail is accepted", 30*time.Second, func() bool { return l.count() >= want })
}

// stop ends the load and gives the ids.
func (l *load) stop() []string {
	close(l.end)
	l.wg.Wait()
	return l.ids
}

// each waits until every message has come to every recipient, and checks that none came twice.
func each(r *rig.Rig, sink *rig.Sink, ids []string) {
	r.T.Helper()
	copies := map[[2]string]int{}
	r.Eventually("every message has come", 40*time.Second, func() bool {
		clear(copies)
		for _, d := range sink.Deliveries() {
			for _, to := range d.To {
				copies[[2]string{d.ID, to}]++
			}
		}
		for _, id := range ids {
			for _, to := range loadTo {
				if copies[[2]string{id, to}] == 0 {
					return false
				}
			}
		}
		return true
	})
	for k, n := range copies {
		if n != 1 {
			r.T.Errorf("%d copies of %s for %s", n, k[0], k[1])
		}
	}
	if lost := len(copies) - len(ids)*len(loadTo); lost > 0 {
		r.T.Logf("the 250 of %d copies did not reach the client", lost)
	}
}

func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	for _, mode := range []rig.Mode{rig.Up, rig.Services} {
		t.Run(string(mode), func(t *testing.T) {
			r, sink := install(t, mode)
			sink.OnBody(func(string) error { <-time.After(20 * time.Millisecond); return nil }) // deliveries are always under way
			r.Start()
			l := startLoad(r, 6)
			l.more(50)
			for _, name := range r.Names() {
				if name == "nats" {
					continue // what runs on it is cut, not stopped
				}
				before := len(sink.Deliveries())
				r.Eventually("mail flows", 20*time.Second, func() bool { return len(sink.Deliveries()) > before+10 })
				start := time.Now()
				if err := r.Proc(name).Stop(stopLimit); err != nil {
					t.Errorf("%s: %v after %v", name, err, time.Since(start))
				}
				t.Logf("%s stopped within %v", name, time.Since(start).Round(time.Millisecond))
				r.StartProc(name)
				l.more(20)
			}
			ids := l.stop()
			each(r, sink, ids)
			t.Logf("%d messages, %d times the server was not there", len(ids), len(l.errs))
		})
	}
}
