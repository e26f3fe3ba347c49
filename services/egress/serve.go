package egress

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
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
	e, err := New(Options{Config: cfg, Logger: log})
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
	// A chain may be of ingress alone, so ingress calls too; egress itself asks for its health.
	server, err := service.Listen(cfg.Egress.Address, pki, append(cfg.StageIdentities(), "ingress", "egress"), log)
	if err != nil {
		return err
	}
	runner := &chain.Runner{Egress: e, Logger: log, Now: time.Now}
	relayv1.RegisterRelayServiceServer(server.Server, &chain.RelayServer{Runner: runner, TempDir: cfg.TempDir})
	watch := reading.Watch(ctx, configFile, cfg, log, func(c *config.Config) error {
		if c.Egress.Address != cfg.Egress.Address {
			return fmt.Errorf("the address of a running service does not change from %s to %s: restart it", cfg.Egress.Address, c.Egress.Address)
		}
		return e.Update(c)
	})
	defer watch.Close()
	log.Info("serving", "address", server.Addr().String(), "revision", cfg.Revision)
	return server.Run(ctx, stopGrace)
}
