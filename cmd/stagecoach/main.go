// Command stagecoach is a mail relay chain: everything in one process (`up`), one service of many (`run`), and the
// operator's commands.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/cli"
	"github.com/stagecoachmail/stagecoach/internal/service"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	boundMemory(ctx)
	err := root().ExecuteContext(ctx)
	stop()
	os.Exit(cli.Report(os.Stderr, err))
}

func root() *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use:           "stagecoach",
		Short:         "A mail relay chain: what stands between a mail server and the internet",
		Version:       service.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Example: `  stagecoach up
  stagecoach status
  stagecoach help exit-codes`,
	}
	c.PersistentFlags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	logger := func() *slog.Logger {
		level := slog.LevelInfo
		if verbose {
			level = slog.LevelDebug
		}
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	}
	c.AddCommand(upCommand(logger), runCommand(logger), natsCommand(logger), checkCommand(), doctorCommand(), demoCommand(), healthCommand(), prepareCommand())
	c.AddCommand(cli.Commands(cli.Options{})...)
	cli.Prepare(c)
	return c
}
