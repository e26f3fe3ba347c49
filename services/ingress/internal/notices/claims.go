package notices

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/internal/natsconn"
)

const (
	bucket      = "STAGECOACH_NOTICES"
	bucketBytes = 16 << 20
	// keepFor is how long it is remembered that something was told.
	keepFor = 30 * 24 * time.Hour
	// answer is how long one answer of NATS is waited for.
	answer = 2 * time.Second
	// recordFormat of the stored values. What a later release wrote is left to it.
	recordFormat = 1
)

// The states of a record.
const (
	claimed = "claimed" // somebody is about to tell it
	told    = "told"
	ending  = "ending" // somebody is about to tell that it is over
)

// record says who tells something, or that it was told.
type record struct {
	Version int    `json:"version"`
	State   string `json:"state"`
	// By is the process that has the claim, until Until.
	By    string    `json:"by,omitempty"`
	Until time.Time `json:"until,omitzero"`
	// Of a stop: what it was, and when an ingress saw it last.
	Stop *Stop     `json:"stop,omitempty"`
	Seen time.Time `json:"seen,omitzero"`

	revision uint64
}

// claims is the bucket in which the ingresses agree on who tells what.
type claims struct {
	kv   jetstream.KeyValue
	conn *nats.Conn
	by   string
}

func openClaims(ctx context.Context, nc *nats.Conn, replicas int, by string) (*claims, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("notices: %w", err)
	}
	kv, err := natsconn.Bucket(ctx, js, jetstream.KeyValueConfig{Bucket: bucket, Replicas: max(replicas, 1), MaxBytes: bucketBytes, History: 1, TTL: keepFor})
	if err != nil {
		return nil, fmt.Errorf("notices: %w", err)
	}
	return &claims{kv: kv, conn: nc, by: by}, nil
}

// here says that NATS can be asked.
func (c *claims) here() bool { return c.conn.Status() == nats.CONNECTED }

// keyOf makes a key of a kind and of texts, which may be anything.
func keyOf(kind string, texts ...string) string {
	h := sha256.New()
	for _, t := range texts {
		fmt.Fprintf(h, "%d %s", len(t), t)
	}
	return kind + "." + hex.EncodeToString(h.Sum(nil)[:12])
}

func (c *claims) get(ctx context.Context, key string) (*record, error) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	e, err := c.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("notices: %w", err)
	}
	r := &record{revision: e.Revision()}
	if err := json.Unmarshal(e.Value(), r); err != nil || r.Version != recordFormat {
		// Whatever it is, another release cares for it.
		return &record{State: told, revision: e.Revision()}, nil
	}
	return r, nil
}

// put writes r over what r.revision names (0: nothing); false: another was faster.
func (c *claims) put(ctx context.Context, key string, r *record) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	r.Version = recordFormat
	data, err := json.Marshal(r)
	if err != nil {
		return false, fmt.Errorf("notices: %w", err)
	}
	if r.revision == 0 { // also over the mark of a deletion
		r.revision, err = c.kv.Create(ctx, key, data)
	} else {
		r.revision, err = c.kv.Update(ctx, key, data, r.revision)
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, jetstream.ErrKeyExists), errors.Is(err, jetstream.ErrKeyRevisionMismatch):
		return false, nil
	}
	return false, fmt.Errorf("notices: %w", err)
}

// drop removes r, if nobody has written it since.
func (c *claims) drop(ctx context.Context, key string, r *record) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	if err := c.kv.Delete(ctx, key, jetstream.LastRevision(r.revision)); err != nil && !errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return fmt.Errorf("notices: %w", err)
	}
	return nil
}

// stops are the stops on record, by key.
func (c *claims) stops(ctx context.Context) (map[string]*record, error) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	w, err := c.kv.WatchFiltered(ctx, []string{"stop.>"}, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("notices: %w", err)
	}
	defer w.Stop() //nolint:errcheck // it ends with its context at the latest
	out := map[string]*record{}
	for {
		select {
		case e := <-w.Updates():
			if e == nil { // that was all
				return out, ctx.Err()
			}
			r := &record{revision: e.Revision()}
			if json.Unmarshal(e.Value(), r) == nil && r.Version == recordFormat && r.Stop != nil {
				out[e.Key()] = r
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("notices: %w", ctx.Err())
		}
	}
}

// outcome of an attempt to claim.
type outcome int

const (
	mine   outcome = iota
	done           // it was told
	others         // another is at it
)

// claim makes the telling of key this process's matter until now+lease.
func (c *claims) claim(ctx context.Context, key string, now time.Time, lease time.Duration, stop *Stop) (*record, outcome, error) {
	r, err := c.get(ctx, key)
	if err != nil {
		return nil, others, err
	}
	switch {
	case r == nil:
		r = &record{}
	case r.State == told:
		return r, done, nil
	case r.State == ending, r.By != c.by && r.Until.After(now):
		return nil, others, nil
	}
	r.State, r.By, r.Until = claimed, c.by, now.Add(lease)
	if stop != nil {
		r.Stop, r.Seen = stop, now
	}
	ok, err := c.put(ctx, key, r)
	if err != nil || !ok {
		return nil, others, err
	}
	return r, mine, nil
}

// claimEnd makes it this process's matter to tell that a stop is over.
// It is not over if an ingress has seen it less than quiet ago.
func (c *claims) claimEnd(ctx context.Context, key string, now time.Time, lease, quiet time.Duration) (*record, outcome, error) {
	r, err := c.get(ctx, key)
	switch {
	case err != nil:
		return nil, others, err
	case r == nil, r.State == told && now.Sub(r.Seen) < quiet:
		return nil, done, nil
	case r.State == ending && r.By != c.by && r.Until.After(now):
		return nil, others, nil
	}
	r.State, r.By, r.Until = ending, c.by, now.Add(lease)
	ok, err := c.put(ctx, key, r)
	if err != nil || !ok {
		return nil, others, err
	}
	return r, mine, nil
}

// seen notes that a stop that was told is still there.
func (c *claims) seen(ctx context.Context, key string, now time.Time) error {
	r, err := c.get(ctx, key)
	if err != nil || r == nil || r.State != told || r.Stop == nil || !r.Seen.Before(now) {
		return err
	}
	r.Seen = now
	_, err = c.put(ctx, key, r) // who was faster has seen it as well
	return err
}

// load reads a value of another kind; false: there is none that this release understands.
func (c *claims) load(ctx context.Context, key string, v any) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	e, err := c.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("notices: %w", err)
	}
	return json.Unmarshal(e.Value(), v) == nil, nil
}

// store writes a value that only this instance has.
func (c *claims) store(ctx context.Context, key string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	data, err := json.Marshal(v)
	if err == nil {
		_, err = c.kv.Put(ctx, key, data)
	}
	if err != nil {
		return fmt.Errorf("notices: %w", err)
	}
	return nil
}
