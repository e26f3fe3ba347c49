// Package embedded is a whole installation in one process: NATS, ingress, the stages, egress, and the operator's API on
// a socket.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/bus"
	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/services/admin"
	"github.com/stagecoachmail/stagecoach/services/archive"
	"github.com/stagecoachmail/stagecoach/services/egress"
	"github.com/stagecoachmail/stagecoach/services/ingress"
	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/stage/serve"
)

const (
	// retainStages is how long a replaced configuration of a stage stays after the last message that named it.
	retainStages = time.Hour
	// closeGrace is how long deliveries may take to get the answer to a final dot.
	closeGrace = 30 * time.Second
	// instance is the name of the one shard.
	instance = "up"
)

// Options of an Installation.
type Options struct {
	Config *config.Config
	// Reading is how Config was read, with the types of stages that there are.
	Reading config.Options
	// File is the configuration file, which is watched; empty: none.
	File string
	// Hold: accept mail, but send nothing.
	Hold   bool
	Logger *slog.Logger
	// NoticeTimes are when the postmaster is told; zero fields have their defaults.
	NoticeTimes ingress.NoticeTimes
}

// Installation is everything, running in this process. Nobody else may use its data folder: see Lock.
type Installation struct {
	o       Options
	config  *config.Config // that it was started with
	current atomic.Pointer[config.Config]
	watch   atomic.Pointer[config.Watcher]
	nats    *bus.Server
	stages  *chain.Stages
	egress  *egress.Egress
	ingress *ingress.Ingress
	shown   *telemetry.Telemetry
	admin   *admin.Server
	file    *admin.Configuration
	settled func(ctx context.Context, current, next *config.Config) error
	closers []func() error
}

// New prepares an installation: NATS runs, keys and users are read, the socket is open. Close it, also if Run is never
// called.
func New(ctx context.Context, o Options) (_ *Installation, err error) {
	in := &Installation{o: o, config: o.Config}
	in.current.Store(o.Config)
	defer func() {
		if err != nil {
			err = errors.Join(err, in.Close())
		}
	}()
	unlock, err := lock(o.Config.DataDir)
	if err != nil {
		return nil, err
	}
	in.atEnd(func() error { unlock(); return nil })
	if in.nats, err = bus.Start(bus.Options{Dir: filepath.Join(o.Config.DataDir, "nats"), Logger: o.Logger}); err != nil {
		return nil, err
	}
	in.atEnd(func() error { in.nats.Stop(); return nil })
	conn, err := in.nats.Connect("stagecoach up")
	if err != nil {
		return nil, err
	}
	in.atEnd(func() error { conn.Close(); return nil })

	pki, err := identity(o.Config)
	if err != nil {
		return nil, err
	}
	if in.shown, err = service.OpenTelemetry(o.Config, "up", instance, pki, o.Logger); err != nil {
		return nil, err
	}
	in.atEnd(in.shown.Close)
	in.stages = chain.NewStages(retainStages, o.Logger, time.Now)
	in.atEnd(func() error { in.stages.Close(); return nil })
	if err := in.useStages(o.Config); err != nil {
		return nil, err
	}
	if in.egress, err = egress.New(egress.Options{Config: o.Config, Logger: o.Logger, Telemetry: in.shown}); err != nil {
		return nil, err
	}
	in.atEnd(func() error {
		end, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		return in.egress.Close(end)
	})
	conns := service.NewConnections(pki, in.shown.Tracer().DialOptions()...)
	in.atEnd(func() error { conns.Close(); return nil })
	runner := &chain.Runner{Stages: in.stages, Egress: in.egress,
		Network: &chain.GRPC{Conn: conns.Conn, Traits: in.stages.Foreign, Logger: o.Logger}, Logger: o.Logger, Now: time.Now, Observer: chain.NewObserver(in.shown)}
	in.ingress, err = ingress.New(ctx, ingress.Options{Config: o.Config, Conn: conn, Instance: instance, Exclusive: true, Durable: true,
		FreeSpace: in.nats.FreeSpace, Runner: runner, Logger: o.Logger, Paused: o.Hold, Telemetry: in.shown, NoticeTimes: o.NoticeTimes})
	if err != nil {
		return nil, err
	}
	in.file, in.settled = in.configuration(), ingress.Settled(pki, o.Logger)
	in.admin, err = admin.Listen(admin.Options{Socket: filepath.Join(o.Config.DataDir, admin.SocketName), Services: in.services(),
		Config: in.current.Load, Conn: conn, Logger: o.Logger})
	return in, err
}

// services are the parts of the operator's API, each of who owns it.
func (in *Installation) services() admin.Services {
	return admin.Services{
		Queue:   in.ingress.Queue(),
		Trace:   in.ingress.Trace(),
		Events:  in.ingress.Events(),
		Grants:  in.ingress.Grants(),
		Preview: in.ingress.Preview(),
		Routes:  in.ingress.Routes(),
		Status:  in.ingress.Status(),
		Counted: in.ingress.Statistics(),
		Users:   in.ingress.Users(),
		Config:  in.file,
		Nodes:   in.node(),
		Archive: archive.Service(in.current.Load, in.o.Logger),
		Dkim:    signer.Service(in.current.Load, in.stages, in.o.Logger),
	}
}

func (in *Installation) atEnd(f func() error) { in.closers = append(in.closers, f) }

// Run runs until ctx ends, then stops in good order.
func (in *Installation) Run(ctx context.Context) error {
	if in.o.File != "" {
		watch := in.o.Reading.Watch(ctx, in.o.File, in.config, in.o.Logger, func(c *config.Config) error { return in.update(ctx, c) })
		in.watch.Store(watch)
		defer watch.Close()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return in.ingress.Run(ctx) })
	group.Go(func() error { return in.admin.Run(ctx, closeGrace) })
	group.Go(func() error { return in.nats.Done(ctx) })
	return group.Wait()
}

// update puts a new revision in force, or leaves everything as it is.
func (in *Installation) update(ctx context.Context, c *config.Config) error {
	if c.DataDir != in.config.DataDir {
		return fmt.Errorf("data_dir does not change while running: restart")
	}
	if err := in.settled(ctx, in.current.Load(), c); err != nil {
		return err
	}
	if err := in.useStages(c); err != nil {
		return err
	}
	if err := in.egress.Update(c); err != nil {
		return err
	}
	if err := in.admin.Update(c); err != nil {
		return err
	}
	if err := in.ingress.Update(c); err != nil {
		return errors.Join(err, in.admin.Update(in.current.Load()))
	}
	in.current.Store(c)
	in.file.InForce(c.Revision)
	return nil
}

// Ready is closed when mail is accepted.
func (in *Installation) Ready() <-chan struct{} { return in.ingress.Ready() }

// Addr is the address of an open listener; nil if there is none of that name.
func (in *Installation) Addr(listener string) net.Addr { return in.ingress.Addr(listener) }

// AdminAddr is the address of the operator's API on the network; nil without one.
func (in *Installation) AdminAddr() net.Addr { return in.admin.Addr() }

// Close gives everything back, what came last first.
func (in *Installation) Close() error {
	var errs []error
	for i := len(in.closers) - 1; i >= 0; i-- {
		errs = append(errs, in.closers[i]())
	}
	in.closers = nil
	return errors.Join(errs...)
}

func (in *Installation) useStages(c *config.Config) error {
	var all []chain.Instance
	for _, f := range in.o.Reading.Factories {
		all = append(all, serve.Instances(c, f, in.o.Logger, in.shown.Registerer())...)
	}
	in.stages.SetForeign(c.TraitsByType())
	return in.stages.Replace(all)
}

// identity is the one that foreign stages know this process by: they let ingress call. Where none runs elsewhere, the pki
// may be there for the people of the operator's API alone.
func identity(c *config.Config) (*service.PKI, error) {
	if c.PKI == nil {
		return nil, nil
	}
	pki, err := service.OpenPKI(c.PKI.Directory, "ingress")
	if errors.Is(err, fs.ErrNotExist) && !dials(c) {
		return nil, nil
	}
	return pki, err
}

func dials(c *config.Config) bool {
	for _, s := range c.Stages {
		if s.Address != "" {
			return true
		}
	}
	return false
}
