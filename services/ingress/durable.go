package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/natsconn"
	"github.com/stagecoachmail/stagecoach/internal/service"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// ErrNotDurable says that what a NATS server acknowledges is not on stable storage.
var ErrNotDurable = spool.ErrNotDurable

// StreamState is one stream of the installation, as the NATS servers tell.
type StreamState struct {
	Name     string
	Replicas int
	// Missing are the servers whose replica is offline or behind.
	Missing []string
}

// CheckDurable connects once to the NATS servers of cfg, the way ingress does, and refuses what ingress would refuse: the
// error then wraps ErrNotDurable. Else it gives the streams that are there, which are none before the first start. It
// changes nothing.
func CheckDurable(ctx context.Context, cfg *config.Config) ([]StreamState, error) {
	var pki *service.PKI
	if cfg.PKI != nil {
		var err error
		if pki, err = service.OpenPKI(cfg.PKI.Directory, "ingress"); err != nil {
			return nil, err
		}
	}
	once, cancel := context.WithCancel(ctx)
	cancel() // Connect tries again until its context ends, and so tries once
	nc, err := natsconn.Connect(once, cfg, pki, "ingress", slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	if err := spool.CheckDurable(ctx, nc, cfg.NATS.Monitor, cfg.NATS.Assumed); err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	var streams []StreamState
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		if !ofInstallation(info.Config.Name) {
			continue
		}
		s := StreamState{Name: info.Config.Name, Replicas: info.Config.Replicas}
		if info.Cluster != nil {
			for _, p := range info.Cluster.Replicas {
				if p.Offline || !p.Current {
					s.Missing = append(s.Missing, p.Name)
				}
			}
		}
		streams = append(streams, s)
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("nats: listing the streams: %w", err)
	}
	return streams, nil
}

// ofInstallation says that a stream is one of ours.
func ofInstallation(name string) bool {
	for _, prefix := range []string{"SPOOL_", "BODY_", "DEPOT_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return name == "TRAIL" || name == "AUDIT" || name == "LEASES" || name == "KV_LEASES"
}
