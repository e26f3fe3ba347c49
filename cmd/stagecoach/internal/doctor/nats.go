package doctor

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/stagecoachmail/stagecoach/services/ingress"
)

// checkNATS asks whether what NATS acknowledges is on stable storage.
func checkNATS(ctx context.Context, e *Env) []Finding {
	var n notes
	if e.Up {
		if s, err := e.Admin.Status(ctx); err == nil && s.GetDurability() != "" {
			n.ok("", "%s", s.GetDurability())
			return n
		}
		n.ok("", "runs within `stagecoach up`, and syncs before it acknowledges")
		return n
	}
	c := e.Config.NATS
	subject := strings.Join(c.Servers, ", ")
	streams, err := e.Servers.NATS(ctx, e.Config)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		n.info(subject, "is not asked: this machine has no certificate of ingress (%v)", err)
		return n
	case errors.Is(err, ingress.ErrNotDurable):
		n.fail(subject, "Use `stagecoach nats`, or set what is named above in the configuration of the NATS server (docs/operations.md); ingress does not start before.", "%v", err)
		return n
	case err != nil:
		n.fail(subject, "Start the NATS server; compare nats.servers, nats.monitor and nats.credentials_file with its configuration.", "%v", err)
		return n
	}
	for _, s := range streams {
		n.stream(subject, s, c.Replicas)
	}
	if c.Assumed {
		n.info(subject, "is taken to be durable by your word (durability: assumed)")
	}
	if !n.bad() {
		n.ok(subject, "syncs before it acknowledges; %d streams with %d replicas", len(streams), c.Replicas)
	}
	return n
}

func (n *notes) stream(subject string, s ingress.StreamState, want int) {
	if s.Replicas != want {
		n.warn(subject, "`nats stream edit "+s.Name+" --replicas` changes it; a restart of ingress does not.", "the stream %s has %d replicas, and nats.replicas is %d", s.Name, s.Replicas, want)
	}
	if len(s.Missing) > 0 {
		n.warn(subject, "Start the servers that are gone; `nats server report jetstream` shows them.", "replicas of the stream %s are offline or behind: %s", s.Name, strings.Join(s.Missing, ", "))
	}
}
