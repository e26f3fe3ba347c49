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
	// sharedLook is how often a shared table is read: so an ingress follows another within a second.
	sharedLook = 500 * time.Millisecond
	// sharedAnswer is how long one answer is waited for; at the start a cluster may still be forming.
	sharedAnswer = 2 * time.Second
	sharedStart  = 15 * time.Second
	// sharedFormat of the stored value. What a later release wrote is not guessed at.
	sharedFormat = 1
)

// table is all entries. They are stored as one value, {"version": 1, FIELD: {…}}, changed by comparing its revision.
type table[T any] struct {
	entries  map[string]T
	revision uint64
}

// errUncertain is the answer when NATS went away in the middle of a change.
var errUncertain = errors.New("NATS does not answer any more")

// shared is a table that all ingresses have in common, as this one knows it.
type shared[T any] struct {
	// what it holds, for errors.
	what string
	// key of the value, and the field of it that has the entries.
	key, field string
	kv         jetstream.KeyValue
	conn       *nats.Conn
	log        *slog.Logger
	same       func(a, b T) bool
	// taken is told what a table that is put in force changes; it may be nil.
	taken func(was, is map[string]T)
	now   atomic.Pointer[table[T]]
}

// open makes the bucket and reads what is in it.
func (s *shared[T]) open(ctx context.Context, bucket string, replicas int, size int64) error {
	js, err := jetstream.New(s.conn)
	if err != nil {
		return fmt.Errorf("%s: %w", s.what, err)
	}
	s.kv, err = natsconn.Bucket(ctx, js, jetstream.KeyValueConfig{Bucket: bucket, Replicas: max(replicas, 1), MaxBytes: size, History: 1})
	if err != nil {
		return fmt.Errorf("%s: %w", s.what, err)
	}
	t, err := s.read(ctx, sharedStart)
	if err != nil {
		return err
	}
	s.now.Store(t)
	return nil
}

func (s *shared[T]) read(ctx context.Context, wait time.Duration) (*table[T], error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	e, err := s.kv.Get(ctx, s.key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return &table[T]{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.what, err)
	}
	entries, err := s.decode(e.Value())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.what, err)
	}
	return &table[T]{entries, e.Revision()}, nil
}

func (s *shared[T]) decode(value []byte) (entries map[string]T, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(value, &fields); err != nil {
		return nil, err
	}
	var version int
	if err := json.Unmarshal(fields["version"], &version); err != nil {
		return nil, fmt.Errorf("version: %w", err)
	}
	if version != sharedFormat {
		return nil, fmt.Errorf("they are kept in format %d, this release reads %d", version, sharedFormat)
	}
	if fields[s.field] == nil {
		return nil, nil
	}
	return entries, json.Unmarshal(fields[s.field], &entries)
}

// all are the entries. They must not be changed.
func (s *shared[T]) all() map[string]T {
	if s == nil {
		return nil
	}
	return s.now.Load().entries
}

// take puts a table in force, unless a later one is. (A replica may answer with an older one.)
func (s *shared[T]) take(t *table[T]) {
	for {
		was := s.now.Load()
		if t.revision <= was.revision {
			return
		}
		if !s.now.CompareAndSwap(was, t) {
			continue
		}
		if s.taken != nil {
			s.taken(was.entries, t.entries)
		}
		return
	}
}

// follow takes up what other ingresses write, until ctx ends.
func (s *shared[T]) follow(ctx context.Context) {
	tick := time.NewTicker(sharedLook)
	defer tick.Stop()
	failing := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		t, err := s.read(ctx, sharedAnswer)
		switch {
		case err == nil:
			failing = ""
			s.take(t)
		case ctx.Err() == nil && err.Error() != failing:
			failing = err.Error()
			s.log.Warn("what the ingresses share cannot be read: what is known stays in force", "what", s.what, "error", err)
		}
	}
}

// change edits the stored table and puts it in force; edit says false when there is nothing to do. After an error
// nothing has changed, but after errUncertain nobody knows.
func (s *shared[T]) change(ctx context.Context, edit func(map[string]T) (bool, error)) error {
	for range 10 { // others may write at the same time
		if st := s.conn.Status(); st != nats.CONNECTED {
			return fmt.Errorf("the connection to NATS is %s", st)
		}
		t, err := s.read(ctx, sharedAnswer)
		if err != nil {
			return err
		}
		entries := maps.Clone(t.entries)
		if entries == nil {
			entries = map[string]T{}
		}
		if more, err := edit(entries); err != nil || !more {
			s.take(t)
			return err
		}
		next := &table[T]{entries: entries}
		data, err := json.Marshal(map[string]any{"version": sharedFormat, s.field: entries})
		if err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		step, cancel := context.WithTimeout(ctx, sharedAnswer)
		next.revision, err = s.kv.Update(step, s.key, data, t.revision)
		cancel()
		switch {
		case err == nil:
			s.take(next)
			return nil
		case errors.Is(err, jetstream.ErrKeyRevisionMismatch):
			continue
		}
		// Its answer may be lost: what is stored says whether it was kept.
		stored, rerr := s.read(ctx, sharedAnswer)
		switch {
		case rerr != nil:
			return fmt.Errorf("%w: %w", errUncertain, err)
		case maps.EqualFunc(stored.entries, next.entries, s.same):
			s.take(stored)
			return nil
		default:
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return fmt.Errorf("%s: others change them all the time", s.what)
}
