package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	pauseBucket = "STAGECOACH_ROUTES"
	// mostPauses bounds what is kept, with names and reasons of the greatest length, to about 1 MiB.
	mostPauses = 1000
	pauseBytes = 4 << 20
)

// routePause is a route that a person has stopped.
type routePause struct {
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// errTooManyPauses is the answer when mostPauses are kept already.
var errTooManyPauses = fmt.Errorf("%d routes are paused already: resume those that are gone", mostPauses)

// pauses are the routes that persons have stopped, by name, as this ingress knows them. Nil knows none.
type pauses struct{ *shared[routePause] }

// openPauses reads what is paused: nothing may be sent before that is known.
func openPauses(ctx context.Context, nc *nats.Conn, replicas int, log *slog.Logger, changed func()) (*pauses, error) {
	s := &shared[routePause]{what: "paused routes", key: "paused", field: "routes", conn: nc, log: log,
		same: func(a, b routePause) bool { return a.By == b.By && a.Reason == b.Reason && a.At.Equal(b.At) },
		taken: func(was, is map[string]routePause) {
			for name, r := range is {
				if _, before := was[name]; !before {
					log.Warn("a route is paused: its mail waits until it is resumed", "route", name, "by", r.By, "reason", r.Reason)
				}
			}
			for name := range was {
				if _, still := is[name]; !still {
					log.Info("a route is resumed: its mail goes on", "route", name)
				}
			}
			changed()
		}}
	if err := s.open(ctx, pauseBucket, replicas, pauseBytes); err != nil {
		return nil, err
	}
	return &pauses{s}, nil
}

// all are the pauses by route. It must not be changed.
func (p *pauses) all() map[string]routePause {
	if p == nil {
		return nil
	}
	return p.shared.all()
}

// paused is asked by the dispatchers.
func (p *pauses) paused(route string) bool {
	_, ok := p.all()[route]
	return ok
}
