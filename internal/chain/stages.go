package chain

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// Stages are the stage instances of this process, by name and configuration hash. A configuration that has been
// replaced stays until no call has named it for a while, so that slips made before the change still find it.
type Stages struct {
	// Retain is how long a replaced configuration stays after the last call that named it.
	Retain time.Duration
	Logger *slog.Logger
	Now    func() time.Time

	replace sync.Mutex // one Replace at a time
	mu      sync.Mutex
	entries map[stageKey]*entry
	types   map[string]stage.Traits // of foreign stages, as configured
}

type stageKey struct{ instance, hash string }

type entry struct {
	set     *Stages
	key     stageKey
	stage   stage.Stage
	typ     string
	traits  stage.Traits
	users   int
	used    time.Time
	current bool
}

// Running describes one instance.
type Running struct {
	Instance, Hash, Type string
	Traits               stage.Traits
	Current              bool
}

// NewStages returns an empty set that keeps replaced configurations for retain.
func NewStages(retain time.Duration, logger *slog.Logger, now func() time.Time) *Stages {
	return &Stages{Retain: retain, Logger: logger, Now: now, entries: map[stageKey]*entry{}, types: map[string]stage.Traits{}}
}

// Instance is a stage to be run under a name and a configuration hash.
type Instance struct {
	Name, Hash, Type string
	Traits           stage.Traits
	// New makes the stage; it is called only if the set does not run this configuration yet.
	New func() (stage.Stage, error)
}

// Replace makes the given instances the current ones. If one of them cannot be made, nothing changes.
func (s *Stages) Replace(instances []Instance) error {
	s.replace.Lock()
	defer s.replace.Unlock()
	fresh := map[stageKey]*entry{}
	for _, in := range instances {
		k := stageKey{in.Name, in.Hash}
		s.mu.Lock()
		_, have := s.entries[k]
		s.mu.Unlock()
		if have || fresh[k] != nil {
			continue
		}
		st, err := in.New()
		if err != nil {
			for _, e := range fresh {
				s.close(e)
			}
			return err
		}
		fresh[k] = &entry{set: s, key: k, stage: st, typ: in.Type, traits: in.Traits}
	}
	s.mu.Lock()
	now := s.Now()
	for _, e := range s.entries {
		if e.current {
			e.current, e.used = false, now // slips that name it may be on their way
		}
	}
	for k, e := range fresh {
		s.entries[k] = e
	}
	for _, in := range instances {
		e := s.entries[stageKey{in.Name, in.Hash}]
		e.current, e.used = true, now
	}
	s.mu.Unlock()
	s.Sweep()
	return nil
}

// SetForeign tells the traits of stages that run in processes of others, by type.
func (s *Stages) SetForeign(types map[string]stage.Traits) {
	s.mu.Lock()
	s.types = types
	s.mu.Unlock()
}

// Sweep closes replaced configurations that no call has named for Retain.
func (s *Stages) Sweep() { s.sweep(s.Retain) }

func (s *Stages) sweep(retain time.Duration) {
	s.mu.Lock()
	var gone []*entry
	for k, e := range s.entries {
		if !e.current && e.users == 0 && s.Now().Sub(e.used) >= retain {
			gone = append(gone, e)
			delete(s.entries, k)
		}
	}
	s.mu.Unlock()
	for _, e := range gone {
		s.close(e)
	}
}

// Close closes every stage that nobody uses; call it when nothing runs any more.
func (s *Stages) Close() {
	s.mu.Lock()
	for _, e := range s.entries {
		e.current = false
	}
	s.mu.Unlock()
	s.sweep(0)
}

// List tells what can be run.
func (s *Stages) List() []Running {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Running
	for k, e := range s.entries {
		out = append(out, Running{Instance: k.instance, Hash: k.hash, Type: e.typ, Traits: e.traits, Current: e.current})
	}
	return out
}

func (s *Stages) acquire(instance, hash string) (*entry, bool) {
	if s == nil {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[stageKey{instance, hash}]
	if ok {
		e.users++
		e.used = s.Now()
	}
	return e, ok
}

// Process implements stage.Stage.
func (e *entry) Process(ctx context.Context, m *mail.Message) (stage.Result, error) {
	return e.stage.Process(ctx, m)
}

// hold is for who has acquired the entry and needs it longer; it ends with another release.
func (e *entry) hold() {
	e.set.mu.Lock()
	e.users++
	e.set.mu.Unlock()
}

func (e *entry) release() {
	e.set.mu.Lock()
	e.users--
	e.used = e.set.Now()
	e.set.mu.Unlock()
}

// Foreign tells the traits of a type of stage as configured.
func (s *Stages) Foreign(typ string) (stage.Traits, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.types[typ]
	return t, ok
}

func (s *Stages) foreign(typ string) stage.Traits {
	if s == nil {
		return stage.Traits{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.types[typ]
}

func (s *Stages) close(e *entry) {
	if c, ok := e.stage.(io.Closer); ok {
		if err := c.Close(); err != nil {
			s.Logger.Warn("closing a stage", "stage", e.key.instance, "error", err)
		}
	}
}
