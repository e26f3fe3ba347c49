// Command ingress accepts mail over SMTP and runs it along its chains.
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
	"github.com/stagecoachmail/stagecoach/services/ingress"
)

func main() {
	file := flag.String("config", "stagecoach.yaml", "configuration `file`")
	instance := flag.String("instance", os.Getenv("STAGECOACH_INSTANCE"), "`name` of this ingress and its shard (default: the machine's name)")
	health := flag.Bool("health", false, "ask the running ingress of this machine whether it serves: exit code 0, or 1")
	flag.Parse()
	if *health {
		os.Exit(service.HealthMain("ingress", *file, ""))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("service", "ingress")
	if err := ingress.Serve(ctx, ingress.ServeOptions{ConfigFile: *file, Instance: *instance, Logger: log}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
