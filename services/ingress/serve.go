package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// connectRetry is the wait between attempts to reach NATS at the start.
	connectRetry = 2 * time.Second
	// callGrace is how long calls to the waiting mail may go on after a stop was asked for.
	callGrace = 5 * time.Second
	// settleIn is how long a new revision waits for the services that it concerns to say that they can run it.
	settleIn = 10 * time.Second
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
	nc, err := connect(ctx, cfg, pki, o.Logger)
	if err != nil {
		return err
	}
	defer nc.Close()
	conns := service.NewConnections(pki)
	defer conns.Close()
	stages := chain.NewStages(time.Hour, o.Logger, time.Now)
	stages.SetForeign(cfg.TraitsByType())
	network := &chain.GRPC{Conn: conns.Conn, Traits: stages.Foreign, Logger: o.Logger}
	runner := &chain.Runner{Stages: stages, Network: network, Logger: o.Logger, Now: time.Now}
	in, err := New(ctx, Options{Config: cfg, Conn: nc, Instance: o.Instance, Runner: runner, Logger: o.Logger, Times: o.Times})
	if err != nil {
		return err
	}
	server, err := service.Listen(cfg.Ingress.Address, pki, []string{"admin", "ingress"}, o.Logger, service.Only(pki, service.AdminServices, "admin")...)
	if err != nil {
		return err
	}
	adminv1.RegisterQueueServiceServer(server.Server, in.Queue())
	adminv1.RegisterTraceServiceServer(server.Server, in.Trace())
	adminv1.RegisterRouteServiceServer(server.Server, in.Routes())
	adminv1.RegisterStatusServiceServer(server.Server, in.Status())
	adminv1.RegisterPreviewServiceServer(server.Server, in.Preview())
	adminv1.RegisterUserServiceServer(server.Server, in.Users())
	watch := reading.Watch(ctx, o.ConfigFile, cfg, o.Logger, func(c *config.Config) error {
		if err := runnable(ctx, network, c); err != nil {
			return err
		}
		if err := in.Update(c); err != nil {
			return err
		}
		stages.SetForeign(c.TraitsByType())
		return nil
	})
	defer watch.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return in.Run(ctx) })
	group.Go(func() error { return server.Run(ctx, callGrace) })
	return group.Wait()
}

// connect reaches NATS, however long that takes.
func connect(ctx context.Context, cfg *config.Config, pki *service.PKI, log *slog.Logger) (*nats.Conn, error) {
	opts := []nats.Option{nats.Name("stagecoach ingress"), nats.MaxReconnects(-1), nats.ReconnectWait(500 * time.Millisecond), nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { log.Error("NATS is gone", "error", err) }),
		nats.ReconnectHandler(func(c *nats.Conn) { log.Info("NATS is back", "server", c.ConnectedUrlRedacted()) })}
	if cfg.NATS.CredentialsFile != "" {
		opts = append(opts, nats.UserCredentials(cfg.NATS.CredentialsFile))
	}
	if pki != nil {
		opts = append(opts, tlsIfAsked(cfg.NATS.Servers, pki)...)
	}
	for {
		nc, err := nats.Connect(joined(cfg.NATS.Servers), opts...)
		if err == nil {
			return nc, nil
		}
		log.Error("NATS cannot be reached", "servers", cfg.NATS.Servers, "error", err)
		t := time.NewTimer(connectRetry)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("nats: %w", err)
		case <-t.C:
		}
	}
}

// runnable waits until every stage of c that lives elsewhere says that it can run it.
func runnable(ctx context.Context, network *chain.GRPC, c *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, settleIn)
	defer cancel()
	for {
		err := everyStage(ctx, network, c)
		if err == nil {
			return nil
		}
		t := time.NewTimer(500 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
	}
}

func everyStage(ctx context.Context, network *chain.GRPC, c *config.Config) error {
	for _, ch := range c.Chains {
		for _, h := range c.Slip(ch).Hops {
			if h.Address == "" {
				continue
			}
			if err := network.Runs(ctx, h); err != nil {
				return fmt.Errorf("stage %s: %w", h.Instance, err)
			}
		}
	}
	return nil
}
