package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/services/admin"
	"github.com/stagecoachmail/stagecoach/services/archive"
	"github.com/stagecoachmail/stagecoach/services/egress"
	"github.com/stagecoachmail/stagecoach/services/ingress"
	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/stage/serve"
)

type runOptions struct {
	file, instance, listen string
}

// stageServices are what types of stages serve beside their stages.
func stageServices() map[string]serve.Services {
	return map[string]serve.Services{archive.Type: archive.Services, signer.Type: signer.Services}
}

// services are those that run as processes of their own.
func services() map[string]func(context.Context, runOptions, *slog.Logger) error {
	m := map[string]func(context.Context, runOptions, *slog.Logger) error{
		"ingress": func(ctx context.Context, o runOptions, log *slog.Logger) error {
			return ingress.Serve(ctx, ingress.ServeOptions{ConfigFile: o.file, Instance: o.instance, Logger: log})
		},
		"admin": func(ctx context.Context, o runOptions, log *slog.Logger) error {
			return admin.Serve(ctx, admin.ServeOptions{ConfigFile: o.file, Factories: factories(), Logger: log})
		},
		"egress": func(ctx context.Context, o runOptions, log *slog.Logger) error { return egress.Serve(ctx, o.file, log) },
	}
	for _, f := range factories() {
		m[f.Type] = func(ctx context.Context, o runOptions, log *slog.Logger) error {
			return serve.Run(ctx, f, serve.Options{ConfigFile: o.file, Listen: o.listen, Logger: log, Services: stageServices()[f.Type]})
		}
	}
	return m
}

func runCommand(logger func() *slog.Logger) *cobra.Command {
	var o runOptions
	names := slices.Sorted(maps.Keys(services()))
	c := &cobra.Command{
		Use:   "run SERVICE",
		Short: "Run one service as a process of its own: " + strings.Join(names, ", "),
		Example: `  stagecoach run antivirus
  stagecoach run ingress --instance one`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			serve, ok := services()[args[0]]
			if !ok {
				return fmt.Errorf("no service %q: one of %s", args[0], strings.Join(names, ", "))
			}
			return serve(cmd.Context(), o, logger().With("service", args[0]))
		},
	}
	c.Flags().StringVarP(&o.file, "config", "c", defaultFile, "configuration `file`")
	c.Flags().StringVar(&o.instance, "instance", os.Getenv("STAGECOACH_INSTANCE"), "ingress: `name` of the instance and its shard (default: the machine's name)")
	c.Flags().StringVar(&o.listen, "listen", "", "stages: `address` to serve on, if the stages of this type have several")
	return c
}
