// Package serve turns a stage.Factory into a program:
//
//	func main() { serve.Main(footer.Factory()) }
//
// The program reads the installation's configuration file, runs every instance of its type that stands there, and
// serves them over gRPC: RelayService, by which messages go from stage to stage, and StageService.
package serve

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/stage"
)

// retain is how long a replaced configuration stays after the last call that named it: a message under way may
// still come by with its old slip.
const retain = time.Hour

// grace is how long running calls may go on after a stop was asked for.
const grace = 30 * time.Second

// Options are what a program gives to Run.
type Options struct {
	// ConfigFile is the path of the configuration file.
	ConfigFile string
	// Listen is the address to serve on; empty: that of the instances in the configuration.
	Listen string
	Logger *slog.Logger
	// Services adds what the type serves beside its stages; nil: nothing.
	Services Services
}

// Services adds gRPC services to the server of a stage's program: those of stagecoach.admin.v1, which only a caller with
// a certificate for admin can call. current gives the configuration in force, never nil; stages are those that run here.
type Services func(s grpc.ServiceRegistrar, current func() *config.Config, stages *chain.Stages, log *slog.Logger)

// Main is the whole main function of a stage's program. It takes -config (default stagecoach.yaml),
// -listen and -health, stops in good
// order at SIGINT or SIGTERM, and exits with 1 on an error.
func Main(f stage.Factory) { MainWith(f, nil) }

// MainWith is Main for a type that serves more than its stages.
func MainWith(f stage.Factory, services Services) {
	file := flag.String("config", "stagecoach.yaml", "configuration `file`")
	listen := flag.String("listen", "", "`address` to serve on, if the stages of this type have several")
	health := flag.Bool("health", false, "ask the running service of this machine whether it serves: exit code 0, or 1")
	flag.Parse()
	if *health {
		os.Exit(service.HealthMain(f.Type, *file, *listen))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("service", f.Type)
	if err := Run(ctx, f, Options{ConfigFile: *file, Listen: *listen, Logger: log, Services: services}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Run serves the instances of f's type until ctx ends. A new revision of the file is taken up live; a bad one
// changes nothing and is logged.
func Run(ctx context.Context, f stage.Factory, o Options) error {
	reading := config.Options{Service: f.Type, Factories: []stage.Factory{f}}
	cfg, err := reading.Load(o.ConfigFile)
	if err != nil {
		return err
	}
	address, err := addressOf(cfg, f.Type, o.Listen)
	if err != nil {
		return err
	}
	var pki *service.PKI
	if cfg.PKI != nil {
		if pki, err = service.OpenPKI(cfg.PKI.Directory, f.Type); err != nil {
			return err
		}
	}
	if err := service.MakeTemp(cfg.TempDir, o.Logger); err != nil {
		return err
	}
	shown, err := service.OpenTelemetry(cfg, f.Type, "", pki, o.Logger)
	if err != nil {
		return err
	}
	defer shown.Close()
	stages := chain.NewStages(retain, o.Logger, time.Now)
	defer stages.Close()
	var current atomic.Pointer[config.Config]
	rules := service.NewRules()
	apply := func(c *config.Config) error {
		stages.SetForeign(c.TraitsByType())
		if err := stages.Replace(Instances(c, f, o.Logger, shown.Registerer())); err != nil {
			return err
		}
		may := c.StageCallers(f.Type)
		rules.Use(may.Relay, may.Process)
		current.Store(c)
		shown.SetRevision(c.Revision)
		return nil
	}
	if err := apply(cfg); err != nil {
		return err
	}
	conns := service.NewConnections(pki, shown.Tracer().DialOptions()...)
	defer conns.Close()
	runner := &chain.Runner{Stages: stages, Network: &chain.GRPC{Conn: conns.Conn, Traits: stages.Foreign, Logger: o.Logger}, Logger: o.Logger, Now: time.Now,
		Observer: chain.NewObserver(shown)}
	server, err := rules.Listen(address, pki, o.Logger, shown.Tracer().ServerOptions()...)
	if err != nil {
		return err
	}
	Register(server.Server, runner, f, cfg.TempDir, rules.Relay)
	if o.Services != nil {
		o.Services(server.Server, current.Load, stages, o.Logger)
	}
	watch := reading.Watch(ctx, o.ConfigFile, cfg, o.Logger, func(c *config.Config) error {
		if a, err := addressOf(c, f.Type, o.Listen); err != nil || a != address {
			return errors.Join(err, fmt.Errorf("the address of a running service does not change from %s to %s: restart it", address, a))
		}
		return apply(c)
	})
	defer watch.Close()
	adminv1.RegisterNodeServiceServer(server.Server, service.NodeService(service.NodeOptions{Service: f.Type, Logger: o.Logger,
		Revision: func() string { return current.Load().Revision }, File: watch, Stages: NodeStages(stages), PKI: pki, Server: server}))
	o.Logger.Info("serving", "address", server.Addr().String(), "revision", cfg.Revision)
	return server.Run(ctx, grace)
}

// Register adds the services of a stage to a gRPC server. callers gives the names of those that may hand messages over;
// nil: everybody that can call.
func Register(s grpc.ServiceRegistrar, r *chain.Runner, f stage.Factory, tempDir string, callers func() []string) {
	relayv1.RegisterRelayServiceServer(s, &chain.RelayServer{Runner: r, TempDir: tempDir})
	stagev1.RegisterStageServiceServer(s, &chain.StageServer{Runner: r, Type: f.Type, Traits: f.Traits, Version: service.Version(), TempDir: tempDir, Callers: callers})
}

// Instances are the configured stages of f's type, ready for a chain.Stages. metrics takes what they count.
func Instances(c *config.Config, f stage.Factory, log *slog.Logger, metrics prometheus.Registerer) []chain.Instance {
	var out []chain.Instance
	for _, s := range c.Stages {
		if s.Type != f.Type {
			continue
		}
		settings := stage.Settings{Instance: s.Name, Hostname: c.Hostname, Logger: log.With("stage", s.Name), ConfigDir: c.Dir, DataDir: c.DataDir, TempDir: c.TempDir, Now: time.Now, Metrics: metrics}
		out = append(out, chain.Instance{Name: s.Name, Hash: s.Hash, Type: s.Type, Traits: f.Traits, New: func() (stage.Stage, error) {
			st, err := f.New(settings, s.Decoded)
			if err != nil {
				return nil, fmt.Errorf("stage %s: %w", s.Name, err)
			}
			return st, nil
		}})
	}
	return out
}

// addressOf finds where the service of a type listens: the address of its instances, or, if they have several, the
// one that was asked for.
func addressOf(c *config.Config, typ, asked string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	address := ""
	for _, s := range c.Stages {
		switch {
		case s.Type != typ || s.Address == address:
		case address != "":
			return "", fmt.Errorf("stages of type %s have several addresses (%s, %s): say with -listen which one is served here", typ, address, s.Address)
		default:
			address = s.Address
		}
	}
	if address == "" {
		return "", fmt.Errorf("no stage of type %s with an address stands in the configuration", typ)
	}
	return address, nil
}
