package egress

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
)

// stopGrace is how long calls under way may go on after a stop was asked for: a final dot waits for its answer.
const stopGrace = 60 * time.Second

// Serve runs egress as a process of its own until ctx ends: RelayService on the address in the configuration file.
// New revisions of the file are taken up live.
func Serve(ctx context.Context, configFile string, log *slog.Logger) error {
	reading := config.Options{Service: "egress"}
	cfg, err := reading.Load(configFile)
	if err != nil {
		return err
	}
	if err := service.MakeTemp(cfg.TempDir, log); err != nil {
		return err
	}
	var pki *service.PKI
	if cfg.PKI != nil {
		if pki, err = service.OpenPKI(cfg.PKI.Directory, "egress"); err != nil {
			return err
		}
	}
	shown, err := service.OpenTelemetry(cfg, "egress", "", pki, log)
	if err != nil {
		return err
	}
	defer shown.Close()
	e, err := New(Options{Config: cfg, Logger: log, Telemetry: shown})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		if err := e.Close(end); err != nil {
			log.Warn("deliveries were aborted", "error", err)
		}
	}()
	rules := service.NewRules()
	rules.Use(cfg.EgressCallers().Relay, nil)
	server, err := rules.Listen(cfg.Egress.Address, pki, log, shown.Tracer().ServerOptions()...)
	if err != nil {
		return err
	}
	runner := &chain.Runner{Egress: e, Logger: log, Now: time.Now, Observer: chain.NewObserver(shown)}
	relayv1.RegisterRelayServiceServer(server.Server, &chain.RelayServer{Runner: runner, TempDir: cfg.TempDir, Callers: rules.Relay})
	var current atomic.Pointer[config.Config]
	current.Store(cfg)
	watch := reading.Watch(ctx, configFile, cfg, log, func(c *config.Config) error {
		if c.Egress.Address != cfg.Egress.Address {
			return fmt.Errorf("the address of a running service does not change from %s to %s: restart it", cfg.Egress.Address, c.Egress.Address)
		}
		if err := e.Update(c); err != nil {
			return err
		}
		rules.Use(c.EgressCallers().Relay, nil)
		current.Store(c)
		shown.SetRevision(c.Revision)
		return nil
	})
	defer watch.Close()
	adminv1.RegisterNodeServiceServer(server.Server, service.NodeService(service.NodeOptions{Service: "egress", Logger: log,
		Revision: func() string { return current.Load().Revision }, File: watch, PKI: pki, Server: server}))
	log.Info("serving", "address", server.Addr().String(), "revision", cfg.Revision)
	return server.Run(ctx, stopGrace)
}
