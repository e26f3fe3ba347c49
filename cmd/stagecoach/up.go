package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/embedded"
	"github.com/stagecoachmail/stagecoach/internal/config"
)

const defaultFile = "stagecoach.yaml"

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
		Example: `  stagecoach up
  stagecoach up -c /etc/stagecoach/stagecoach.yaml --hold`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return up(cmd.Context(), o, logger()) },
	}
	c.Flags().StringVarP(&o.file, "config", "c", "", "configuration `file` (default: stagecoach.yaml, if it is there)")
	c.Flags().StringVar(&o.dataDir, "data", "data", "data `folder`, if there is no configuration file")
	c.Flags().BoolVar(&o.hold, "hold", false, "accept mail, but send nothing")
	return c
}

func up(ctx context.Context, o upOptions, log *slog.Logger) error {
	reading := config.Options{Mode: config.ModeUp, Factories: factories()}
	cfg, file, err := loadUp(reading, o)
	if err != nil {
		return err
	}
	for _, w := range cfg.Warnings {
		log.Warn(w.Error())
	}
	in, err := embedded.New(ctx, embedded.Options{Config: cfg, Reading: reading, File: file, Hold: o.hold, Logger: log})
	if err != nil {
		return err
	}
	log.Info("up", "hostname", cfg.Hostname, "data", cfg.DataDir, "revision", cfg.Revision, "held", o.hold)
	return errors.Join(in.Run(ctx), in.Close())
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
