package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/internal/natsconn"
)

const (
	pauseBucket = "STAGECOACH_ROUTES"
	pauseKey    = "paused"
	// pauseLook is how often the pauses are read: so an ingress follows another within a second.
	pauseLook = 500 * time.Millisecond
	// pauseAnswer is how long one answer is waited for; at the start a cluster may still be forming.
	pauseAnswer = 2 * time.Second
	pauseStart  = 15 * time.Second
	// mostPauses bounds what is kept, with names and reasons of the greatest length, to about 1 MiB.
	mostPauses = 1000
	pauseBytes = 4 << 20
	// pauseFormat of the stored value. What a later release wrote is not guessed at.
	pauseFormat = 1
)

// routePause is a route that a person has stopped.
type routePause struct {
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// pauseTable are all pauses of the installation, as they are stored: one value, changed by comparing its revision.
type pauseTable struct {
	Version int                   `json:"version"`
	Routes  map[string]routePause `json:"routes"`

	revision uint64
}

// errTooManyPauses is the answer when mostPauses are kept already.
var errTooManyPauses = fmt.Errorf("%d routes are paused already: resume those that are gone", mostPauses)

// errUncertain is the answer when NATS went away in the middle of a change.
var errUncertain = errors.New("NATS does not answer any more")

func same(a, b routePause) bool { return a.By == b.By && a.Reason == b.Reason && a.At.Equal(b.At) }

// pauses are the routes that persons have stopped, as this ingress knows them. The zero value knows none.
type pauses struct {
	kv      jetstream.KeyValue
	conn    *nats.Conn
	log     *slog.Logger
	changed func()
	table   atomic.Pointer[pauseTable]
}

// openPauses reads what is paused: nothing may be sent before that is known.
func openPauses(ctx context.Context, nc *nats.Conn, replicas int, log *slog.Logger, changed func()) (*pauses, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("paused routes: %w", err)
	}
	kv, err := natsconn.Bucket(ctx, js, jetstream.KeyValueConfig{Bucket: pauseBucket, Replicas: max(replicas, 1), MaxBytes: pauseBytes, History: 1})
	if err != nil {
		return nil, fmt.Errorf("paused routes: %w", err)
	}
	p := &pauses{kv: kv, conn: nc, log: log, changed: changed}
	t, err := p.read(ctx, pauseStart)
	if err != nil {
		return nil, err
	}
	p.table.Store(t)
	return p, nil
}

func (p *pauses) read(ctx context.Context, wait time.Duration) (*pauseTable, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	e, err := p.kv.Get(ctx, pauseKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return &pauseTable{Version: pauseFormat}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("paused routes: %w", err)
	}
	t := &pauseTable{revision: e.Revision()}
	if err := json.Unmarshal(e.Value(), t); err != nil {
		return nil, fmt.Errorf("paused routes: %w", err)
	}
	if t.Version != pauseFormat {
		return nil, fmt.Errorf("paused routes: they are kept in format %d, this release reads %d", t.Version, pauseFormat)
	}
	return t, nil
}

// all are the pauses by route. It must not be changed.
func (p *pauses) all() map[string]routePause {
	if p == nil {
		return nil
	}
	return p.table.Load().Routes
}

// paused is asked by the dispatchers.
func (p *pauses) paused(route string) bool {
	_, ok := p.all()[route]
	return ok
}

// take puts a table in force, unless a later one is. (A replica may answer with an older one.)
func (p *pauses) take(t *pauseTable) {
	for {
		now := p.table.Load()
		if t.revision <= now.revision {
			return
		}
		if !p.table.CompareAndSwap(now, t) {
			continue
		}
		for name, r := range t.Routes {
			if _, was := now.Routes[name]; !was {
				p.log.Warn("a route is paused: its mail waits until it is resumed", "route", name, "by", r.By, "reason", r.Reason)
			}
		}
		for name := range now.Routes {
			if _, still := t.Routes[name]; !still {
				p.log.Info("a route is resumed: its mail goes on", "route", name)
			}
		}
		p.changed()
		return
	}
}

// follow takes up what other ingresses write, until ctx ends.
func (p *pauses) follow(ctx context.Context) {
	tick := time.NewTicker(pauseLook)
	defer tick.Stop()
	failing := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		t, err := p.read(ctx, pauseAnswer)
		switch {
		case err == nil:
			failing = ""
			p.take(t)
		case ctx.Err() == nil && err.Error() != failing:
			failing = err.Error()
			p.log.Warn("the pauses of routes cannot be read: those that are known stay in force", "error", err)
		}
	}
}

// change edits the stored table and puts it in force; edit says false when there is nothing to do. After an error
// nothing has changed, but after errUncertain nobody knows.
func (p *pauses) change(ctx context.Context, edit func(map[string]routePause) (bool, error)) error {
	for range 10 { // others may write at the same time
		if st := p.conn.Status(); st != nats.CONNECTED {
			return fmt.Errorf("the connection to NATS is %s", st)
		}
		t, err := p.read(ctx, pauseAnswer)
		if err != nil {
			return err
		}
		routes := maps.Clone(t.Routes)
		if routes == nil {
			routes = map[string]routePause{}
		}
		if more, err := edit(routes); err != nil || !more {
			p.take(t)
			return err
		}
		next := &pauseTable{Version: pauseFormat, Routes: routes}
		data, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("paused routes: %w", err)
		}
		step, cancel := context.WithTimeout(ctx, pauseAnswer)
		next.revision, err = p.kv.Update(step, pauseKey, data, t.revision)
		cancel()
		switch {
		case err == nil:
			p.take(next)
			return nil
		case errors.Is(err, jetstream.ErrKeyRevisionMismatch):
			continue
		}
		// Its answer may be lost: what is stored says whether it was kept.
		stored, rerr := p.read(ctx, pauseAnswer)
		switch {
		case rerr != nil:
			return fmt.Errorf("%w: %w", errUncertain, err)
		case maps.EqualFunc(stored.Routes, next.Routes, same):
			p.take(stored)
			return nil
		default:
			return fmt.Errorf("paused routes: %w", err)
		}
	}
	return errors.New("paused routes: others change them all the time")
}
