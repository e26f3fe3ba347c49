// Package antivirus holds mail that is infected, that a rule about attachments blocks, or that cannot be scanned.
//
// Two engines look at each message in turn: the built-in one, which needs nothing and knows the EICAR test signature,
// names and kinds of attachments, ZIP archives and malformed MIME; and a clamd, if one is configured. What any of them
// holds goes to quarantine. What keeps an engine from judging is an error, never a verdict.
package antivirus

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"log/slog"

	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// Type is the name of the stage in the configuration.
const Type = "antivirus"

// Factory makes antivirus stages.
func Factory() stage.Factory {
	return stage.NewFactory(Type,
		stage.Traits{ReadsBody: true},
		defaultConfig,
		func(s stage.Settings, c Config) (stage.Stage, error) { return New(s, c) })
}

// Stage scans messages. It is safe for concurrent use.
type Stage struct {
	rules   *rules
	tempDir string
	clamd   *scans // nil: none
	found   func(engine, result string)
	log     *slog.Logger
}

// New makes a Stage. It does not look whether clamd is there: a scanner that is down is a failure of each message.
func New(s stage.Settings, c Config) (*Stage, error) {
	scanned := telemetry.Counters(s.Metrics, "stagecoach_antivirus_scans_total", "Messages that were scanned, by the engine that decided (builtin, clamd) and what it found: clean, found, failed.", "stage", "engine", "result")
	st := &Stage{rules: newRules(c), tempDir: s.TempDir, log: s.Logger,
		found: func(engine, result string) { scanned.WithLabelValues(s.Instance, engine, result).Inc() }}
	if c.Clamd != "" {
		at, err := parseClamd(c.Clamd)
		if err != nil {
			return nil, fmt.Errorf("antivirus: clamd: %w", err)
		}
		st.clamd = newScans(at, c.MaxScans, s.Now)
	}
	return st, nil
}

// Close gives up the scans that nobody waits for any more. No Process may be running.
func (s *Stage) Close() error {
	if s.clamd == nil {
		return nil
	}
	return s.clamd.Close()
}

// Process continues with a message that every engine found clean, and quarantines any other.
func (s *Stage) Process(ctx context.Context, m *mail.Message) (stage.Result, error) {
	var sum hash.Hash
	also := io.Discard
	if s.clamd != nil {
		sum = sha256.New()
		also = sum
	}
	f, err := examine(ctx, s.rules, s.tempDir, m.Content, also)
	if err != nil {
		s.found("builtin", "failed")
		return stage.Result{}, fmt.Errorf("antivirus: %w", err)
	}
	engine := "builtin"
	if f.severity == clean && s.clamd != nil {
		engine = "clamd"
		r, err := s.clamd.Scan(ctx, digest(sum.Sum(nil)), m.Content)
		if err != nil {
			s.found(engine, "failed")
			return stage.Result{}, fmt.Errorf("antivirus: %w", err)
		}
		if f, err = r.finding(); err != nil {
			s.found(engine, "failed")
			return stage.Result{}, fmt.Errorf("antivirus: %w", err)
		}
	}
	notes := []slog.Attr{slog.String("engine", engine)}
	if f.severity == clean {
		s.found(engine, "clean")
		return stage.Result{Notes: notes}, nil
	}
	s.found(engine, "found")
	if f.signature != "" {
		notes = append(notes, slog.String("signature", f.signature))
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "message held", append([]slog.Attr{
		slog.String("id", m.ID), slog.String("reason", f.reason)}, notes...)...)
	return stage.Result{Branch: stage.Branch{Verdict: stage.Quarantine(f.reason)}, Notes: notes}, nil
}

// finding turns clamd's reply into one of ours. A reply that nobody knows is an error.
func (r reply) finding() (finding, error) {
	switch r.kind {
	case replyClean:
		return finding{}, nil
	case replyFound:
		return finding{severity: infected, reason: "infected: " + r.name, signature: r.name}, nil
	case replyLimit:
		return finding{severity: unscannable, reason: "unscannable: clamd did not scan all of it (" + r.name + ")"}, nil
	}
	return finding{}, fmt.Errorf("clamd: no reply")
}
