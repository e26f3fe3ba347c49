package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/bus"
)

func natsCommand(logger func() *slog.Logger) *cobra.Command {
	var o bus.Options
	c := &cobra.Command{
		Use:   "nats",
		Short: "Run the embedded NATS server for services in other processes",
		Long: `Run the same NATS server that is embedded under "up", listening.

What it acknowledges is on stable storage. A NATS configuration file may add users, TLS and a cluster.`,
		Example: "  stagecoach nats --data /var/lib/stagecoach/nats",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Logger = logger()
			s, err := bus.Start(o)
			if err != nil {
				return err
			}
			defer s.Stop()
			o.Logger.Info("NATS is up", "url", s.URL(), "data", o.Dir)
			return s.Done(cmd.Context())
		},
	}
	c.Flags().StringVar(&o.Listen, "listen", "127.0.0.1:4222", "`address` for clients")
	c.Flags().StringVar(&o.Monitor, "monitor", "127.0.0.1:8222", "`address` of the monitor, by which ingress checks durability (empty: none)")
	c.Flags().StringVar(&o.Dir, "data", "data/nats", "`folder` of the streams")
	c.Flags().StringVar(&o.ConfigFile, "nats-config", "", "NATS server configuration `file`")
	return c
}
