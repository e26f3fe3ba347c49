package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/bus"
	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/egress"
	"github.com/stagecoachmail/stagecoach/services/ingress"
	"github.com/stagecoachmail/stagecoach/stage/serve"
)

const (
	defaultFile = "stagecoach.yaml"
	// retainStages is how long a replaced configuration of a stage stays after the last message that named it.
	retainStages = time.Hour
	// closeGrace is how long deliveries may take to get the answer to a final dot.
	closeGrace = 30 * time.Second
)

type upOptions struct {
	file    string
	dataDir string
	hold    bool
}

func upCommand(logger func() *slog.Logger) *cobra.Command {
	var o upOptions
	c := &cobra.Command{
		Use:   "up",
		Short: "Run everything in this process, with an embedded NATS",
		Long: `Run ingress, all stages and egress in this process, with an embedded NATS.

Without a configuration file it listens on 127.0.0.1:2525, relays for this machine, runs the four stages and
delivers into data/outbox, so that nothing leaves the machine by accident.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return up(cmd.Context(), o, logger()) },
	}
	c.Flags().StringVarP(&o.file, "config", "c", "", "configuration `file` (default: stagecoach.yaml, if it is there)")
	c.Flags().StringVar(&o.dataDir, "data", "data", "data `folder`, if there is no configuration file")
	c.Flags().BoolVar(&o.hold, "hold", false, "accept mail, but send nothing")
	return c
}

func up(ctx context.Context, o upOptions, log *slog.Logger) (err error) {
	reading := config.Options{Mode: config.ModeUp, Factories: factories()}
	cfg, file, err := loadUp(reading, o)
	if err != nil {
		return err
	}
	unlock, err := lock(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	for _, w := range cfg.Warnings {
		log.Warn(w.Error())
	}
	nats, err := bus.Start(bus.Options{Dir: filepath.Join(cfg.DataDir, "nats"), Logger: log})
	if err != nil {
		return err
	}
	defer nats.Stop()
	conn, err := nats.Connect("stagecoach up")
	if err != nil {
		return err
	}
	defer conn.Close()

	stages := chain.NewStages(retainStages, log, time.Now)
	defer stages.Close()
	if err := useStages(stages, cfg, log); err != nil {
		return err
	}
	out, err := egress.New(egress.Options{Config: cfg, Logger: log})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		err = errors.Join(err, out.Close(end))
	}()
	pki, err := identity(cfg)
	if err != nil {
		return err
	}
	conns := service.NewConnections(pki)
	defer conns.Close()
	runner := &chain.Runner{Stages: stages, Egress: out, Network: &chain.GRPC{Conn: conns.Conn, Traits: stages.Foreign, Logger: log}, Logger: log, Now: time.Now}
	in, err := ingress.New(ctx, ingress.Options{Config: cfg, Conn: conn, Instance: "up", Exclusive: true, Durable: true, FreeSpace: nats.FreeSpace,
		Runner: runner, Logger: log, Paused: o.hold})
	if err != nil {
		return err
	}
	if file != "" {
		watch := reading.Watch(ctx, file, cfg, log, func(c *config.Config) error {
			if c.DataDir != cfg.DataDir {
				return fmt.Errorf("data_dir does not change while running: restart")
			}
			if err := useStages(stages, c, log); err != nil {
				return err
			}
			if err := out.Update(c); err != nil {
				return err
			}
			return in.Update(c)
		})
		defer watch.Close()
	}
	local, err := service.Listen("unix:"+filepath.Join(cfg.DataDir, "admin.sock"), nil, nil, log)
	if err != nil {
		return err
	}
	adminv1.RegisterQueueServiceServer(local.Server, in.Queue())
	log.Info("up", "hostname", cfg.Hostname, "data", cfg.DataDir, "revision", cfg.Revision, "held", o.hold)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return in.Run(ctx) })
	group.Go(func() error { return local.Run(ctx, closeGrace) })
	group.Go(func() error { return nats.Done(ctx) })
	return group.Wait()
}

// loadUp reads the configuration file, or the built-in one if there is none.
func loadUp(reading config.Options, o upOptions) (*config.Config, string, error) {
	if o.file == "" {
		if _, err := os.Stat(defaultFile); errors.Is(err, fs.ErrNotExist) {
			dir, err := filepath.Abs(o.dataDir)
			if err != nil {
				return nil, "", err
			}
			cfg, err := reading.Parse("(built in)", ".", config.Default(dir))
			return cfg, "", err
		}
		o.file = defaultFile
	}
	cfg, err := reading.Load(o.file)
	return cfg, o.file, err
}

func useStages(stages *chain.Stages, c *config.Config, log *slog.Logger) error {
	var all []chain.Instance
	for _, f := range factories() {
		all = append(all, serve.Instances(c, f, log)...)
	}
	stages.SetForeign(c.TraitsByType())
	return stages.Replace(all)
}

// identity is the one that foreign stages know this process by: they let ingress call.
func identity(c *config.Config) (*service.PKI, error) {
	if c.PKI == nil {
		return nil, nil
	}
	return service.OpenPKI(c.PKI.Directory, "ingress")
}

// lock keeps a second process from running on the same data.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() //nolint:errcheck // nothing was written
		return nil, fmt.Errorf("another stagecoach runs on %s: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}
