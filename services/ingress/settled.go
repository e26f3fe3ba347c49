package ingress

import (
	"context"
	"log/slog"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
)

// Settled gives what waits, for up to 10 seconds, until every process behind the addresses of a revision says that it can
// run it, for who puts revisions in force in an Ingress of his own process: what runs in that has no address, and is not
// asked. It is not to be called twice at once.
func Settled(pki *service.PKI, log *slog.Logger) func(ctx context.Context, current, next *config.Config) error {
	return newSettling(pki, log).settle
}
