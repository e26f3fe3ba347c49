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

	"github.com/stagecoachmail/stagecoach/services/egress"
)

func main() {
	file := flag.String("config", "stagecoach.yaml", "configuration `file`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("service", "egress")
	if err := egress.Serve(ctx, *file, log); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
