// Command stagecoach is a mail relay chain: everything in one process (`up`), one service of many (`run`), and the
// operator's commands.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/internal/service"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	boundMemory(ctx)
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "stagecoach:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use:           "stagecoach",
		Short:         "A mail relay chain: what stands between a mail server and the internet",
		Version:       service.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.PersistentFlags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	logger := func() *slog.Logger {
		level := slog.LevelInfo
		if verbose {
			level = slog.LevelDebug
		}
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	}
	c.AddCommand(upCommand(logger), runCommand(logger), natsCommand(logger), checkCommand(), dkimCommand())
	return c
}
