// Command egress delivers mail through a smarthost, by MX, or into a maildir.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/stagecoachmail/stagecoach/internal/service"
	"github.com/stagecoachmail/stagecoach/services/egress"
)

func main() {
	file := flag.String("config", "stagecoach.yaml", "configuration `file`")
	health := flag.Bool("health", false, "ask the running egress of this machine whether it serves: exit code 0, or 1")
	flag.Parse()
	if *health {
		os.Exit(service.HealthMain("egress", *file, ""))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("service", "egress")
	if err := egress.Serve(ctx, *file, log); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
