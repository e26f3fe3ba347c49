// Package archive keeps a copy of every message that passes, with its true envelope, on stable storage before the
// message goes on. It is a stage, and the reader of what the stage has kept (Open).
//
// A message is two immutable files in the folder of the day on which it was received: a blob with its bytes,
// compressed and named by their SHA-256, and a small record with the envelope, named by the message's id. Whoever
// runs the same message again finds both and writes nothing.
package archive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"

	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// Type is the name of the stage in the configuration.
const Type = "archive"

// Factory makes archive stages.
func Factory() stage.Factory {
	return stage.NewFactory(Type,
		stage.Traits{ReadsBody: true, Effects: true},
		func() Config { return Config{} },
		func(s stage.Settings, c Config) (stage.Stage, error) { return New(s, c) })
}

// Stage archives messages. It is safe for concurrent use, also by several processes on one folder.
type Stage struct {
	store *store
	log   *slog.Logger
	kept  func(result string, bytes int64)
}

// New makes the folder of the archive if there is none, and sweeps what a crash left behind.
func New(s stage.Settings, c Config) (*Stage, error) {
	st, err := newStore(c.Dir(s), osDisk{}, s.Now, encoders())
	if err != nil {
		return nil, err
	}
	writes := telemetry.Counters(s.Metrics, "stagecoach_archive_writes_total", "Messages for the archive, by what came of it: new, again (it was there already), further (another form of it was), failed.", "stage", "result")
	bytes := telemetry.Counters(s.Metrics, "stagecoach_archive_bytes_total", "Bytes of the messages that were new, before compression.", "stage").WithLabelValues(s.Instance)
	return &Stage{store: st, log: s.Logger, kept: func(result string, n int64) {
		writes.WithLabelValues(s.Instance, result).Inc()
		bytes.Add(float64(n))
	}}, nil
}

// encoders is how many messages are compressed at once: each takes one processor and some 5 MB.
func encoders() int { return min(max(runtime.GOMAXPROCS(0), 2), 8) }

// Process keeps the message and continues. Anything that stands in the way of a durable copy is an error.
func (s *Stage) Process(ctx context.Context, m *mail.Message) (stage.Result, error) {
	kept, err := s.store.Put(ctx, m)
	if err != nil {
		s.kept("failed", 0)
		if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
			s.log.ErrorContext(ctx, "message not archived", "id", m.ID, "error", err)
		}
		return stage.Result{}, fmt.Errorf("archive: %w", err)
	}
	what, result, size := "new", "new", m.Content.Size()
	switch {
	case kept.Again:
		what, result, size = "again", "again", 0
	case kept.Further:
		what, result = "further version", "further"
	}
	s.kept(result, size)
	return stage.Result{Notes: []slog.Attr{
		slog.String("sha256", kept.SHA256),
		slog.String("archived", what),
	}}, nil
}

// Close frees the compressors. No Process may be running.
func (s *Stage) Close() error { return s.store.Close() }
