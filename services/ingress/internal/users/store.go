package users

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	// concurrent bounds the hashes that are computed at once, and so their memory.
	concurrent = 4
	// fresh is how long the file is not looked at again.
	fresh = time.Second
	// maxFile bounds the users file in bytes.
	maxFile = 16 << 20
	// maxPassword bounds a password in octets.
	maxPassword = 1024
)

// ErrBusy says that no password could be checked in time: neither right nor wrong.
var ErrBusy = errors.New("users: too many logins at once")

// ErrNoFile says that no users file is configured.
var ErrNoFile = errors.New("users: no users file is configured")

// Store checks passwords. It is safe for concurrent use.
type Store struct {
	logger *slog.Logger
	now    func() time.Time
	slots  chan struct{}

	editing sync.Mutex

	mu      sync.Mutex
	path    string
	table   *table
	stamp   stamp
	checked time.Time
	broken  string // the last complaint, so that it is made once
}

type stamp struct {
	modified time.Time
	size     int64
}

// Open reads the users file at path. An empty path is no users at all: every login is refused.
func Open(path string, logger *slog.Logger, now func() time.Time) (*Store, error) {
	s := &Store{logger: logger, now: now, slots: make(chan struct{}, concurrent)}
	if err := s.SetPath(path); err != nil {
		return nil, err
	}
	return s, nil
}

// SetPath takes another users file; after an error the former one stays in force.
func (s *Store) SetPath(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, st, err := load(path)
	if err != nil {
		return err
	}
	s.path, s.table, s.stamp, s.checked, s.broken = path, t, st, s.now(), ""
	return nil
}

// Edit changes the users file by way of f, and takes the change up at once. ErrNoFile: none is configured.
func (s *Store) Edit(f func(*File) error) error {
	s.editing.Lock() // an edit hashes: logins do not wait for it
	defer s.editing.Unlock()
	s.mu.Lock()
	path := s.path
	s.mu.Unlock()
	if path == "" {
		return ErrNoFile
	}
	if err := f(NewFile(path)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked = time.Time{}
	s.stamp = stamp{} // the same size within the same tick of the clock is another file nevertheless
	return nil
}

// Configured says that there is a users file: AUTH can be offered.
func (s *Store) Configured() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.path != ""
}

// Verify says whether the password is the user's. It takes as long for a user that does not exist. An error (ErrBusy,
// or that of ctx) is no verdict.
func (s *Store) Verify(ctx context.Context, user, password string) (bool, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return false, fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
	}
	t := s.current()
	h, known := t.users[user]
	if !known {
		h = t.dummy
	}
	if len(password) > maxPassword {
		password, known = "", false
	}
	right := h.matches(password)
	return right && known && password != "", nil
}

// current is the table, read again if the file has changed.
func (s *Store) current() *table {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.path == "" || now.Sub(s.checked) < fresh && !now.Before(s.checked) {
		return s.table
	}
	s.checked = now
	if st, err := stat(s.path); err == nil && st == s.stamp {
		return s.table
	}
	t, st, err := load(s.path)
	if err != nil {
		if err.Error() != s.broken {
			s.broken = err.Error()
			s.logger.Error("users file not taken; the former one stays in force", "error", err)
		}
		return s.table
	}
	s.table, s.stamp, s.broken = t, st, ""
	s.logger.Info("users file read again", "users", len(t.users))
	return s.table
}

func stat(path string) (stamp, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	return stamp{fi.ModTime(), fi.Size()}, nil
}

// load reads the file. Its stamp is taken first, so that a change in between is seen the next time.
func load(path string) (*table, stamp, error) {
	if path == "" {
		t, err := parse([]byte("users: {}"))
		return t, stamp{}, err
	}
	st, err := stat(path)
	if err != nil {
		return nil, stamp{}, fmt.Errorf("users file: %w", err)
	}
	if st.size > maxFile {
		return nil, stamp{}, fmt.Errorf("users file %s: larger than %d bytes", path, maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, stamp{}, fmt.Errorf("users file: %w", err)
	}
	t, err := parse(data)
	if err != nil {
		return nil, stamp{}, fmt.Errorf("users file %s: %w", path, err)
	}
	return t, st, nil
}
