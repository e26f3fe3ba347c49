package spool_test

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// restartable is a server that can be down for a while, with one store.
type restartable struct {
	mu  sync.Mutex
	dir string
	srv *server.Server
}

func (r *restartable) InProcessConn() (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.srv == nil {
		return nil, errors.New("the server is down")
	}
	return r.srv.InProcessConn()
}

func (r *restartable) stop() {
	r.mu.Lock()
	srv := r.srv
	r.srv = nil
	r.mu.Unlock()
	if srv != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
}

func (r *restartable) start(t *testing.T) {
	t.Helper()
	srv, err := startServer(r.dir)
	must(t, err)
	r.mu.Lock()
	r.srv = srv
	r.mu.Unlock()
}

func TestAnOutageOfNATS(t *testing.T) {
	t.Parallel()
	r := &restartable{dir: t.TempDir()}
	r.start(t)
	t.Cleanup(r.stop)
	nc, err := nats.Connect("", nats.InProcessServer(r), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	must(t, err)
	t.Cleanup(nc.Close)
	ctx := background(t)
	o := options(nc, "mx")
	o.Times.Append = 15 * time.Second
	s, _ := open(t, o)

	// Writers work through three outages; each acceptance, settled or waiting, must be found afterwards, once.
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var mu sync.Mutex
	running, waiting, done := map[string]bool{}, map[string]bool{}, 0
	for w := range 6 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("m-%d-%d", w, i)
				err := s.Accept(ctx, accepted(id, spool.Body{}, "r"))
				if errors.Is(err, spool.ErrDown) { // the outage is longer than half a lease: nothing is started
					<-time.After(5 * time.Millisecond)
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				switch i % 3 {
				case 0:
					err = s.Settle(ctx, delivered(id, "r"))
				case 1:
					err = s.Settle(ctx, retry(id, time.Now().Add(time.Hour), "r"))
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				done++
				switch i % 3 {
				case 1:
					waiting[id] = true
				case 2:
					running[id] = true
				}
				mu.Unlock()
			}
		})
	}
	progress := func() {
		t.Helper()
		mu.Lock()
		from := done
		mu.Unlock()
		eventually(t, "mail is accepted", func() bool { mu.Lock(); defer mu.Unlock(); return done > from+50 })
	}
	for range 3 {
		progress()
		r.stop()
		eventually(t, "known to be down", func() bool { return errors.Is(s.Ready(), spool.ErrDown) })
		r.start(t)
		eventually(t, "ready again", func() bool { return s.Ready() == nil })
	}
	progress()
	close(stop)
	wg.Wait()
	must(t, s.Close(ctx))
	_, rec := open(t, options(nc, "mx"))
	if len(rec.Run) != len(running) || len(rec.Waiting) != len(waiting) {
		t.Fatalf("run %d, want %d; waiting %d, want %d", len(rec.Run), len(running), len(rec.Waiting), len(waiting))
	}
	for _, a := range rec.Run {
		if !running[a.ID] {
			t.Errorf("%s runs", a.ID)
		}
	}
	for _, m := range rec.Waiting {
		if !waiting[m.ID] {
			t.Errorf("%s waits", m.ID)
		}
	}
}
