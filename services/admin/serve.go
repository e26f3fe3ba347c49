package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/natsconn"
	"github.com/stagecoachmail/stagecoach/internal/service"
	"github.com/stagecoachmail/stagecoach/services/admin/internal/fleet"
	"github.com/stagecoachmail/stagecoach/stage"
)

const (
	// serveGrace is how long calls may go on after a stop was asked for.
	serveGrace = 10 * time.Second
	// takeUp is how long a change may take to be in force at every process.
	takeUp = 15 * time.Second
	// askEvery is how often it is asked whether a change that was made in the file is in force, and handUp for how long.
	askEvery = time.Second
	handUp   = 2 * time.Minute
)

// ServeOptions say how to run admin as a process of its own.
type ServeOptions struct {
	ConfigFile string
	// Factories are of all types of stages, so that what is wrong with a stage's config is said before it is written.
	Factories []stage.Factory
	Logger    *slog.Logger
	// Lookup finds the addresses behind a name, for tests; nil: the system's.
	Lookup service.Lookup
}

// Serve runs admin as a process of its own until ctx ends: the operator's API of all processes that are found behind the
// addresses of the configuration, on the socket in the data folder and at admin.address.
func Serve(ctx context.Context, o ServeOptions) error {
	reading := config.Options{Service: "admin", Factories: o.Factories}
	cfg, err := reading.Load(o.ConfigFile)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	var pki *service.PKI
	if cfg.PKI != nil {
		if pki, err = service.OpenPKI(cfg.PKI.Directory, "admin"); err != nil {
			return err
		}
	}
	shown, err := service.OpenTelemetry(cfg, "admin", "", pki, o.Logger)
	if err != nil {
		return err
	}
	defer shown.Close()
	// What is wrong has to be seen while NATS is away, too.
	nc, err := natsconn.Connect(ctx, cfg, pki, "admin", o.Logger, nats.RetryOnFailedConnect(true))
	if err != nil {
		return err
	}
	defer nc.Close()
	conns := service.NewConnections(pki, shown.Tracer().DialOptions()...)
	defer conns.Close()

	r := &fleetRunning{reading: reading, file: o.ConfigFile}
	r.current.Store(cfg)
	self := service.NodeService(service.NodeOptions{Service: "admin", Revision: func() string { return r.current.Load().Revision }, File: r, PKI: pki, Alone: true, Logger: o.Logger})
	r.fleet = fleet.New(fleet.Options{Config: r.current.Load, Conns: conns, Lookup: o.Lookup, Self: self, Logger: o.Logger})
	file := ConfigService(ConfigOptions{File: o.ConfigFile, History: filepath.Join(cfg.DataDir, "history"), Running: r, Logger: o.Logger})
	server, err := Listen(Options{Socket: filepath.Join(cfg.DataDir, SocketName), Config: r.current.Load, Conn: nc, Logger: o.Logger, Services: Services{
		Queue: r.fleet.Queue(), Trace: r.fleet.Trace(), Preview: r.fleet.Preview(), Routes: r.fleet.Routes(), Status: r.fleet.Status(),
		Archive: r.fleet.Archive(), Dkim: r.fleet.Dkim(), Users: r.fleet.Users(), Config: file, Nodes: r.fleet.Nodes(),
		Events: r.fleet.Events(), Counted: r.fleet.Counted(), Grants: r.fleet.Grants()}})
	if err != nil {
		return err
	}
	var telling sync.WaitGroup
	defer telling.Wait()
	group, ctx := errgroup.WithContext(ctx)
	watch := reading.Watch(ctx, o.ConfigFile, cfg, o.Logger, func(c *config.Config) error {
		if c.DataDir != cfg.DataDir {
			return errors.New("data_dir does not change while running: restart")
		}
		if err := server.Update(c); err != nil {
			return err
		}
		r.current.Store(c)
		shown.SetRevision(c.Revision)
		telling.Go(func() { r.whenInForce(ctx, c.Revision, file.InForce) })
		return nil
	})
	r.watch.Store(watch)
	defer watch.Close()
	o.Logger.Info("serving", "address", filepath.Join(cfg.DataDir, SocketName), "revision", cfg.Revision)
	group.Go(func() error { return server.Run(ctx, serveGrace) })
	return group.Wait()
}

// fleetRunning is the installation as the configuration's editor sees it: what runs by the file is every process.
type fleetRunning struct {
	reading config.Options
	file    string
	current atomic.Pointer[config.Config] // as this process has it
	watch   atomic.Pointer[config.Watcher]
	fleet   *fleet.Fleet
}

// Parse implements Running.
func (r *fleetRunning) Parse(text []byte) (*config.Config, error) {
	return r.reading.Parse(r.file, filepath.Dir(r.file), text)
}

// Reload implements Running: this process takes the file up, then the stages and egress, then every ingress, which asks
// those before. The error names who refuses, or has not done so within 15 seconds.
func (r *fleetRunning) Reload() error {
	w := r.watch.Load()
	if w == nil {
		return errors.New("admin is just being started: try again")
	}
	if err := w.Reload(); err != nil {
		return err
	}
	// Who changed the file stands in its history.
	ctx, cancel := context.WithTimeout(service.AsActor(context.Background(), "admin"), takeUp)
	defer cancel()
	return r.fleet.TakeUp(ctx, r.current.Load().Revision)
}

// Revision implements Running: mail runs by what the ingresses have in force. While they do not agree it is that of one
// that does not have what this process has.
func (r *fleetRunning) Revision() string {
	return r.fleet.InForce(context.Background(), r.current.Load().Revision)
}

// Refused implements Running.
func (r *fleetRunning) Refused() error {
	if err := r.Err(); err != nil {
		return err
	}
	return r.fleet.Refused(context.Background())
}

// Err implements service.NodeFile.
func (r *fleetRunning) Err() error {
	if w := r.watch.Load(); w != nil {
		return w.Err()
	}
	return nil
}

// FileRevision implements service.NodeFile.
func (r *fleetRunning) FileRevision() string {
	if w := r.watch.Load(); w != nil {
		return w.FileRevision()
	}
	return ""
}

// whenInForce tells of a revision once mail runs by it. One that the ingresses do not take up is not told of.
func (r *fleetRunning) whenInForce(ctx context.Context, revision string, tell func(string)) {
	ctx, cancel := context.WithTimeout(ctx, handUp)
	defer cancel()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for r.current.Load().Revision == revision {
		if r.fleet.Has(ctx, revision) {
			tell(revision)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
