// Package natsconn makes the connection of a process to the installation's NATS servers.
package natsconn

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
)

const (
	// retry is the wait between attempts to reach NATS at the start.
	retry = 2 * time.Second
	// again is the wait between attempts to reach it when the connection was lost.
	again = 500 * time.Millisecond
)

// Connect reaches NATS as the configuration says, however long that takes, for the service of that type. It is reached
// again whenever it is lost; what is published meanwhile fails at once. pki is nil on one machine. The error is that ctx
// ended.
func Connect(ctx context.Context, cfg *config.Config, pki *service.PKI, typ string, log *slog.Logger, more ...nats.Option) (*nats.Conn, error) {
	opts := []nats.Option{nats.Name("stagecoach " + typ), nats.MaxReconnects(-1), nats.ReconnectWait(again), nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { log.Error("NATS is gone", "error", err) }),
		nats.ReconnectHandler(func(c *nats.Conn) { log.Info("NATS is back", "server", c.ConnectedUrlRedacted()) })}
	if cfg.NATS.CredentialsFile != "" {
		opts = append(opts, nats.UserCredentials(cfg.NATS.CredentialsFile))
	}
	if pki != nil {
		opts = append(opts, tlsIfAsked(cfg.NATS.Servers, pki)...)
	}
	opts = append(opts, more...)
	for {
		nc, err := nats.Connect(strings.Join(cfg.NATS.Servers, ","), opts...)
		if err == nil {
			return nc, nil
		}
		log.Error("NATS cannot be reached", "servers", cfg.NATS.Servers, "error", err)
		t := time.NewTimer(retry)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("nats: %w", err)
		case <-t.C:
		}
	}
}

// tlsIfAsked gives our certificate to servers that are reached over tls://, or that are on another machine: between
// machines nothing goes in the clear.
func tlsIfAsked(servers []string, pki *service.PKI) []nats.Option {
	for _, s := range servers {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "tls" && loopback(u.Hostname()) {
			continue
		}
		return []nats.Option{nats.Secure(pki.NATS())}
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
