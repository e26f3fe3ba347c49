package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
)

const (
	// lookEvery is how often the file is read. Reading it beats being notified: a mounted directory, a network file
	// system, a swapped symbolic link and a rename all look the same, and the file is small.
	lookEvery = 2 * time.Second
	// A revision that was refused is tried again, for what it lacked may lie outside of it (a secret, a key): read
	// each time, applied every so many looks.
	applyAgain = 15
)

// Watcher takes up new revisions of a file. What is refused changes nothing: it is logged, once, and shown by Err.
type Watcher struct {
	o     Options
	path  string
	log   *slog.Logger
	apply func(*Config) error

	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex // one look at a time
	active  string     // the revision in force
	enabled bool       // what that revision says of reload
	seen    string     // what the last look saw
	tried   string     // the revision that apply refused last
	wait    int        // looks until it is tried again

	state   sync.Mutex // of refused alone: who asks does not wait for a look, which may take long
	refused error
}

// Watch looks at the file every two seconds until ctx ends or Close is called. A revision that was seen twice
// unchanged (so was not caught half written) and has no errors is given to apply; when that returns nil, it is the
// one in force. With `reload: manual` in the revision in force only Reload looks. current is what runs now.
// apply is not called twice at once.
func (o Options) Watch(ctx context.Context, path string, current *Config, log *slog.Logger, apply func(*Config) error) *Watcher {
	return o.watch(ctx, path, current, log, apply, lookEvery)
}

func (o Options) watch(ctx context.Context, path string, current *Config, log *slog.Logger, apply func(*Config) error, every time.Duration) *Watcher {
	ctx, stop := context.WithCancel(ctx)
	w := &Watcher{o: o, path: path, log: log, apply: apply, stop: stop, done: make(chan struct{}),
		active: current.Revision, enabled: current.Watch, seen: current.Revision}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				w.look()
			}
		}
	}()
	return w
}

// Close stops looking, and waits until an apply under way has returned.
func (w *Watcher) Close() {
	w.stop()
	<-w.done
}

// Err is why the file as it stands is not in force; nil when it is.
func (w *Watcher) Err() error {
	w.state.Lock()
	defer w.state.Unlock()
	return w.refused
}

// outcome is what a look came to: why the file is not in force, or nil.
func (w *Watcher) outcome(err error) {
	w.state.Lock()
	defer w.state.Unlock()
	w.refused = err
}

// Reload takes up the file as it stands now, whatever `reload` says.
func (w *Watcher) Reload() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	data, err := readFile(w.path)
	if err != nil {
		return w.refuse(err)
	}
	w.seen, w.wait = revision(data), 0
	return w.take(data)
}

func revision(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func (w *Watcher) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.enabled {
		return
	}
	data, err := readFile(w.path)
	saw := ""
	if err == nil {
		saw = revision(data)
	}
	settled := saw == w.seen
	w.seen = saw
	switch {
	case !settled: // perhaps half written, or between two renames
	case err != nil:
		_ = w.refuse(err)
	default:
		_ = w.take(data) // logged, and shown by Err
	}
}

func (w *Watcher) take(data []byte) error {
	rev := revision(data)
	if rev == w.active {
		if w.Err() != nil {
			w.log.Info("configuration: the file is again the one in force", "file", w.path, "revision", rev)
		}
		w.outcome(nil)
		w.tried = ""
		return nil
	}
	if w.wait > 0 && rev == w.tried {
		w.wait--
		return w.Err()
	}
	c, err := w.o.Parse(w.path, filepath.Dir(w.path), data)
	if err != nil {
		return w.refuse(err)
	}
	if err := w.apply(c); err != nil {
		w.tried, w.wait = rev, applyAgain
		return w.refuse(err)
	}
	w.outcome(nil)
	w.active, w.enabled, w.tried = rev, c.Watch, ""
	w.log.Info("configuration: a new revision is in force", "file", w.path, "revision", rev)
	for _, warning := range c.Warnings {
		w.log.Warn("configuration", "warning", warning.Error())
	}
	return nil
}

func (w *Watcher) refuse(err error) error {
	if was := w.Err(); was == nil || was.Error() != err.Error() {
		w.log.Error("configuration: the new revision is refused, the former one stays in force", "file", w.path, "in_force", w.active, "error", err.Error())
	}
	w.outcome(err)
	return err
}

// FileRevision is that of the file as it stands now; empty: it cannot be read.
func (w *Watcher) FileRevision() string {
	data, err := readFile(w.path)
	if err != nil {
		return ""
	}
	return revision(data)
}
