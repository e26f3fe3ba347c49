package spool_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

func TestCheckDurable(t *testing.T) {
	t.Parallel()
	run := func(change func(*server.Options)) (*nats.Conn, *nats.Conn, string) {
		t.Helper()
		o := serverOptions(t.TempDir())
		o.HTTPHost, o.HTTPPort = "127.0.0.1", -1
		sys, app := server.NewAccount("SYS"), server.NewAccount("APP")
		o.Accounts, o.SystemAccount = []*server.Account{sys, app}, "SYS"
		o.Users = []*server.User{{Username: "sys", Password: "s", Account: sys}, {Username: "app", Password: "a", Account: app}}
		change(o)
		srv, err := server.NewServer(o)
		must(t, err)
		srv.Start()
		if !srv.ReadyForConnections(10 * time.Second) {
			t.Fatal("the server does not start")
		}
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
		as := func(user, pass string) *nats.Conn {
			nc, err := nats.Connect("", nats.InProcessServer(srv), nats.UserInfo(user, pass))
			must(t, err)
			t.Cleanup(nc.Close)
			return nc
		}
		return as("sys", "s"), as("app", "a"), "http://" + srv.MonitorAddr().String()
	}
	for _, c := range []struct {
		name   string
		change func(*server.Options)
		ok     bool // by monitor and by $SYS
		size   bool // refused even when assumed
	}{
		{"durable", func(*server.Options) {}, true, false},
		{"written behind", func(o *server.Options) { o.SyncAlways = false }, false, false},
		{"no JetStream", func(o *server.Options) { o.JetStream = false }, false, false},
		{"small payload", func(o *server.Options) { o.MaxPayload = 1 << 20 }, false, true},
	} {
		sys, app, monitor := run(c.change)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		check := func(how string, err error, ok bool) {
			if ok && err != nil || !ok && !errors.Is(err, spool.ErrNotDurable) {
				t.Errorf("%s, %s: %v", c.name, how, err)
			}
		}
		check("monitor", spool.CheckDurable(ctx, app, monitor, false), c.ok)
		check("$SYS", spool.CheckDurable(ctx, sys, "", false), c.ok)
		check("assumed", spool.CheckDurable(ctx, app, "", true), !c.size)
		if c.ok {
			check("nobody says so", spool.CheckDurable(ctx, app, "", false), false)
		}
		cancel()
	}
}
