package spool_test

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// Three replicas, and the log's leader goes away under load: what was acknowledged is there, once.
func TestALeaderGoesAway(t *testing.T) {
	if testing.Short() {
		t.Skip("needs three servers")
	}
	t.Parallel()
	ports := make([]string, 3)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		ports[i] = l.Addr().String()
		l.Close()
	}
	routes := server.RoutesFromStr("nats://" + strings.Join(ports, ",nats://"))
	servers := map[string]*server.Server{}
	var urls []string
	for i, addr := range ports {
		u, err := url.Parse("nats://" + addr)
		must(t, err)
		o := serverOptions(t.TempDir())
		o.ServerName, o.DontListen, o.Host, o.Port = fmt.Sprintf("n%d", i), false, "127.0.0.1", -1
		o.Cluster = server.ClusterOpts{Name: "c", Host: u.Hostname()}
		_, err = fmt.Sscan(u.Port(), &o.Cluster.Port)
		must(t, err)
		o.Routes = routes
		srv, err := server.NewServer(o)
		must(t, err)
		srv.Start()
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
		servers[o.ServerName] = srv
	}
	for _, srv := range servers {
		if !srv.ReadyForConnections(10 * time.Second) {
			t.Fatal("a server does not start")
		}
		urls = append(urls, srv.ClientURL())
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	must(t, err)
	t.Cleanup(nc.Close)
	ctx := background(t)
	o := options(nc, "mx")
	o.Replicas = 3
	o.Times.Append, o.Times.Lease = 15*time.Second, 20*time.Second
	s, _ := open(t, o)
	var mu sync.Mutex
	var wg sync.WaitGroup
	run, done := map[string]bool{}, 0
	stop := make(chan struct{})
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("m-%d-%d", w, i)
				err := s.Accept(ctx, accepted(id, spool.Body{}, "r"))
				if errors.Is(err, spool.ErrDown) { // no leader for longer than half a lease: nothing is started
					<-time.After(5 * time.Millisecond)
					continue
				}
				if err == nil && i%2 == 0 {
					err = s.Settle(ctx, delivered(id, "r"))
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				done++
				if i%2 == 1 {
					run[id] = true
				}
				mu.Unlock()
			}
		})
	}
	progress := func(n int) {
		t.Helper()
		mu.Lock()
		from := done
		mu.Unlock()
		eventually(t, "mail is accepted", func() bool { mu.Lock(); defer mu.Unlock(); return done > from+n || t.Failed() })
	}
	progress(200)
	js, err := jetstream.New(nc)
	must(t, err)
	stream, err := js.Stream(ctx, "SPOOL_mx")
	must(t, err)
	servers[stream.CachedInfo().Cluster.Leader].Shutdown()
	progress(200)
	close(stop)
	wg.Wait()
	must(t, s.Close(ctx))
	_, rec := open(t, o)
	if len(rec.Run) != len(run) {
		t.Fatalf("%d run, want %d", len(rec.Run), len(run))
	}
	for _, a := range rec.Run {
		if !run[a.ID] {
			t.Errorf("%s runs", a.ID)
		}
	}
	t.Logf("%d accepted", done)
}
