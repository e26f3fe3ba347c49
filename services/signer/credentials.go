package signer

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxCredentialSize in bytes; more is no certificate and no key.
	maxCredentialSize = 1 << 20
	// warnBefore is how long before its end a certificate or key is spoken of, remindEvery how often.
	warnBefore  = 14 * 24 * time.Hour
	remindEvery = 24 * time.Hour
)

// credentials holds what the rules sign with, and follows the files. What cannot be loaded changes nothing for its
// rule: that from before stays in use, and the log says why.
type credentials struct {
	rules     []Rule
	configDir string
	log       *slog.Logger
	now       func() time.Time

	mu     sync.Mutex
	looked time.Time
	loaded []loaded // by rule
}

// loaded is the credential of one rule.
type loaded struct {
	current  atomic.Pointer[credential]
	stamp    string
	problem  string
	reminded time.Time
}

// open loads what all rules need. An error names the rule and the file.
func (k *credentials) open() error {
	k.loaded = make([]loaded, len(k.rules))
	var errs []error
	for i := range k.rules {
		if err := k.load(i); err != nil {
			errs = append(errs, err)
		}
	}
	k.looked = k.now()
	k.remind()
	return errors.Join(errs...)
}

// of gives the credential of a rule.
func (k *credentials) of(rule int) credential { return *k.loaded[rule].current.Load() }

// refresh looks at the files, at most once in lookEvery. Whoever comes while another is looking goes on with what
// there is.
func (k *credentials) refresh() {
	if len(k.rules) == 0 || !k.mu.TryLock() {
		return
	}
	defer k.mu.Unlock()
	now := k.now()
	if d := now.Sub(k.looked); d >= 0 && d < lookEvery {
		return
	}
	k.looked = now
	for i := range k.rules {
		l := &k.loaded[i]
		before := l.stamp
		err := k.load(i)
		switch {
		case err == nil && l.stamp != before:
			l.problem = ""
			k.log.Info("a certificate or key was reloaded", "sender", k.rules[i].Sender, "name", k.of(i).Name())
		case err == nil:
			l.problem = "" // it was put back as it was
		case err.Error() != l.problem:
			l.problem = err.Error()
			k.log.Error("a certificate or key has changed and cannot be loaded; that from before stays in use", "error", err)
		}
	}
	k.remind()
}

// load loads the credential of a rule if its files have changed.
func (k *credentials) load(i int) error {
	r, l := &k.rules[i], &k.loaded[i]
	wrong := func(err error) error { return fmt.Errorf("sign[%d] (%s): %w", i, r.Sender, err) }
	var stamp strings.Builder
	for _, name := range r.files() {
		info, err := os.Stat(k.path(name))
		if err != nil {
			return wrong(err)
		}
		if info.Size() > maxCredentialSize {
			return wrong(fmt.Errorf("%s: %d bytes are too much for a certificate or key", name, info.Size()))
		}
		fmt.Fprintf(&stamp, "%s %d %d %s\n", name, info.Size(), info.ModTime().UnixNano(), info.Mode())
	}
	if stamp.String() == l.stamp {
		return nil
	}
	content := make(map[string][]byte)
	for _, name := range r.files() {
		b, err := os.ReadFile(k.path(name))
		if err != nil {
			return wrong(err)
		}
		content[name] = b
		if info, err := os.Stat(k.path(name)); err == nil && r.secret(name) && info.Mode().Perm()&0o077 != 0 {
			k.log.Warn("a private key can be read by others than its owner", "file", k.path(name), "mode", info.Mode().String())
		}
	}
	c, err := r.parse(content)
	if err == nil {
		err = r.checkAddress(c, k.now())
	}
	if err != nil {
		return wrong(err)
	}
	l.current.Store(&c)
	l.stamp, l.reminded = stamp.String(), time.Time{}
	return nil
}

// remind speaks of what has expired or soon will, once a day.
func (k *credentials) remind() {
	now := k.now()
	for i := range k.rules {
		l := &k.loaded[i]
		if d := now.Sub(l.reminded); l.current.Load() == nil || d >= 0 && d < remindEvery {
			continue
		}
		l.reminded = now
		c := k.of(i)
		switch end := c.ends(now); {
		case c.Unusable(now) != "":
			k.log.Error("mail is not signed", "sender", k.rules[i].Sender, "name", c.Name(), "reason", c.Unusable(now))
		case !end.IsZero() && end.Sub(now) < warnBefore:
			k.log.Warn("a certificate or key expires soon", "sender", k.rules[i].Sender, "name", c.Name(), "expires", end.UTC())
		}
	}
}

func (k *credentials) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(k.configDir, name)
}
