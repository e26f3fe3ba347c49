package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/natsconn"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// callGrace is how long calls to the waiting mail may go on after a stop was asked for.
	callGrace = 5 * time.Second
)

// ServeOptions say how to run ingress as a process of its own.
type ServeOptions struct {
	ConfigFile string
	// Instance names the shard; the machine's name if empty.
	Instance string
	Logger   *slog.Logger
	// Times of the shard, for tests; zero fields have their defaults.
	Times Times
}

// Serve runs ingress as a process of its own until ctx ends: SMTP on its listeners, and its waiting mail over gRPC.
func Serve(ctx context.Context, o ServeOptions) error {
	reading := config.Options{Service: "ingress"}
	cfg, err := reading.Load(o.ConfigFile)
	if err != nil {
		return err
	}
	if o.Instance == "" {
		if o.Instance, err = os.Hostname(); err != nil {
			return fmt.Errorf("the instance has no name: set -instance: %w", err)
		}
	}
	var pki *service.PKI
	if cfg.PKI != nil {
		if pki, err = service.OpenPKI(cfg.PKI.Directory, "ingress"); err != nil {
			return err
		}
	}
	shown, err := service.OpenTelemetry(cfg, "ingress", o.Instance, pki, o.Logger)
	if err != nil {
		return err
	}
	defer shown.Close()
	nc, err := natsconn.Connect(ctx, cfg, pki, "ingress", o.Logger)
	if err != nil {
		return err
	}
	defer nc.Close()
	conns := service.NewConnections(pki, shown.Tracer().DialOptions()...)
	defer conns.Close()
	stages := chain.NewStages(time.Hour, o.Logger, time.Now)
	stages.SetForeign(cfg.TraitsByType())
	network := &chain.GRPC{Conn: conns.Conn, Traits: stages.Foreign, Logger: o.Logger}
	runner := &chain.Runner{Stages: stages, Network: network, Logger: o.Logger, Now: time.Now, Observer: chain.NewObserver(shown)}
	in, err := New(ctx, Options{Config: cfg, Conn: nc, Instance: o.Instance, Runner: runner, Logger: o.Logger, Times: o.Times, Telemetry: shown})
	if err != nil {
		return err
	}
	server, err := service.NewRules().Listen(cfg.Ingress.Address, pki, o.Logger, shown.Tracer().ServerOptions()...) // admin alone calls it
	if err != nil {
		return err
	}
	adminv1.RegisterQueueServiceServer(server.Server, in.Queue())
	adminv1.RegisterTraceServiceServer(server.Server, in.Trace())
	adminv1.RegisterGrantServiceServer(server.Server, in.Grants())
	adminv1.RegisterEventServiceServer(server.Server, in.Events())
	adminv1.RegisterRouteServiceServer(server.Server, in.Routes())
	adminv1.RegisterStatusServiceServer(server.Server, in.Status())
	adminv1.RegisterStatisticsServiceServer(server.Server, in.Statistics())
	adminv1.RegisterPreviewServiceServer(server.Server, in.Preview())
	adminv1.RegisterUserServiceServer(server.Server, in.Users())
	settling := newSettling(pki, o.Logger)
	watch := reading.Watch(ctx, o.ConfigFile, cfg, o.Logger, func(c *config.Config) error {
		if err := settling.settle(ctx, in.policy.View().Config(), c); err != nil {
			return err
		}
		if err := in.Update(c); err != nil {
			return err
		}
		stages.SetForeign(c.TraitsByType())
		return nil
	})
	defer watch.Close()
	adminv1.RegisterNodeServiceServer(server.Server, service.NodeService(service.NodeOptions{Service: "ingress", Instance: o.Instance, Logger: o.Logger,
		Revision: in.Revision, File: watch, PKI: pki, Server: server, Drain: in.Drain, Sessions: in.Sessions}))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return in.Run(ctx) })
	group.Go(func() error { return server.Run(ctx, callGrace) })
	return group.Wait()
}
