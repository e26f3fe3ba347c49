package signer

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	keySuffix = ".pem"
	// lookEvery bounds how long a changed key file goes unnoticed while mail flows.
	lookEvery = 5 * time.Second
	// maxKeySize in bytes; more is not a key.
	maxKeySize = 64 << 10
)

// domainKey is a key with the name it is published under.
type domainKey struct {
	domain, selector string
	key              *Key
}

// keyring holds the keys by domain, and follows the files. A change that cannot be loaded changes nothing: the keys
// from before stay in use, and the log says why.
type keyring struct {
	config    Config
	configDir string
	keyDir    string
	log       *slog.Logger
	now       func() time.Time

	keys atomic.Pointer[map[string][]domainKey]

	mu      sync.Mutex
	looked  time.Time
	stamp   string
	problem string
}

// open loads the keys. An error says which file, and what is wrong with it.
func (r *keyring) open() error {
	sources, err := r.sources()
	if err != nil {
		return err
	}
	keys, err := r.load(sources)
	if err != nil {
		return err
	}
	r.keys.Store(&keys)
	r.looked, r.stamp = r.now(), stampOf(sources)
	return nil
}

// find gives the keys of a domain.
func (r *keyring) find(domain string) []domainKey {
	r.refresh()
	return (*r.keys.Load())[domain]
}

// refresh looks at the files, at most once in lookEvery. Whoever comes while another is looking goes on with what
// there is.
func (r *keyring) refresh() {
	if !r.mu.TryLock() {
		return
	}
	defer r.mu.Unlock()
	now := r.now()
	if d := now.Sub(r.looked); d >= 0 && d < lookEvery {
		return
	}
	r.looked = now
	sources, err := r.sources()
	if err == nil {
		stamp := stampOf(sources)
		if stamp == r.stamp && r.problem == "" {
			return
		}
		var keys map[string][]domainKey
		if keys, err = r.load(sources); err == nil {
			r.keys.Store(&keys)
			r.stamp, r.problem = stamp, ""
			r.log.Info("keys reloaded", "domains", len(keys))
			return
		}
	}
	if problem := err.Error(); problem != r.problem {
		r.problem = problem
		r.log.Error("keys have changed and cannot be loaded; those from before stay in use", "error", problem)
	}
}

// source is a key file before it is read.
type source struct {
	domain, selector, file string
	info                   fs.FileInfo
}

// sources finds the key files: those named in the configuration, and for the other domains those in the key directory.
func (r *keyring) sources() ([]source, error) {
	var found []source
	named := make(map[string]bool)
	for _, name := range sortedKeys(r.config.Domains) {
		domain, err := domainName(name)
		if err != nil {
			return nil, err
		}
		for _, k := range r.config.Domains[name].Keys {
			file := k.KeyFile
			if !filepath.IsAbs(file) {
				file = filepath.Join(r.configDir, file)
			}
			info, err := os.Stat(file)
			if err != nil {
				return nil, fmt.Errorf("key %s of %s: %w", k.Selector, domain, err)
			}
			named[domain] = true
			found = append(found, source{domain, k.Selector, file, info})
		}
	}
	folders, err := os.ReadDir(r.keyDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("key directory: %w", err)
	}
	for _, f := range folders {
		domain, err := domainName(f.Name())
		if err != nil || domain != f.Name() || named[domain] {
			continue
		}
		more, err := r.folder(domain)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return found, nil
}

func (r *keyring) folder(domain string) ([]source, error) {
	files, err := filepath.Glob(filepath.Join(escapeGlob(r.keyDir), domain, "*"+keySuffix))
	if err != nil {
		return nil, fmt.Errorf("key directory: %w", err)
	}
	var found []source
	for _, file := range files {
		selector := strings.TrimSuffix(filepath.Base(file), keySuffix)
		if strings.HasPrefix(selector, ".") {
			continue
		}
		if err := checkSelector(selector); err != nil {
			return nil, fmt.Errorf("key file %s: %w", file, err)
		}
		info, err := os.Stat(file)
		if err != nil {
			return nil, fmt.Errorf("key %s of %s: %w", selector, domain, err)
		}
		found = append(found, source{domain, selector, file, info})
	}
	if len(found) > maxKeys {
		return nil, fmt.Errorf("%s: %d keys; at most %d sign one message: move the old ones away, or name keys under domains",
			filepath.Join(r.keyDir, domain), len(found), maxKeys)
	}
	return found, nil
}

// escapeGlob makes a path match itself alone.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// stampOf changes when a key file does.
func stampOf(sources []source) string {
	var b strings.Builder
	for _, s := range sources {
		fmt.Fprintf(&b, "%s %s %s %d %d %s\n", s.domain, s.selector, s.file, s.info.Size(), s.info.ModTime().UnixNano(), s.info.Mode())
	}
	return b.String()
}

func (r *keyring) load(sources []source) (map[string][]domainKey, error) {
	keys := make(map[string][]domainKey)
	for _, s := range sources {
		if s.info.Size() > maxKeySize {
			return nil, fmt.Errorf("key %s of %s: %s: %d bytes are too much for a key", s.selector, s.domain, s.file, s.info.Size())
		}
		file, err := os.ReadFile(s.file)
		if err != nil {
			return nil, fmt.Errorf("key %s of %s: %w", s.selector, s.domain, err)
		}
		key, err := ParseKey(file)
		if err != nil {
			return nil, fmt.Errorf("key %s of %s: %s: %w", s.selector, s.domain, s.file, err)
		}
		if s.info.Mode().Perm()&0o077 != 0 {
			r.log.Warn("a private key can be read by others than its owner", "file", s.file, "mode", s.info.Mode().String())
		}
		if bits := key.bits(); bits > 0 && bits < rsaBits {
			r.log.Warn("an RSA key is shorter than it should be", "file", s.file, "bits", bits)
		}
		keys[s.domain] = append(keys[s.domain], domainKey{s.domain, s.selector, key})
	}
	for domain := range keys {
		// RSA first: every verifier knows it, and some look at the first signature alone.
		slices.SortStableFunc(keys[domain], func(a, b domainKey) int { return rank(a) - rank(b) })
	}
	return keys, nil
}

func rank(k domainKey) int {
	if k.key.Kind() == RSA {
		return 0
	}
	return 1
}

// create makes RSA and Ed25519 keys for the domains that have none.
func (r *keyring) create(domains []string) error {
	sources, err := r.sources()
	if err != nil {
		return err
	}
	for _, domain := range domains {
		if slices.ContainsFunc(sources, func(s source) bool { return s.domain == domain }) {
			continue
		}
		files, err := WriteKeys(r.keyDir, domain, "s"+r.now().UTC().Format("20060102"))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make keys for %s: %w", domain, err)
		}
		for _, f := range files {
			r.log.Warn("a DKIM key was made; publish its record", "file", f.File, "name", f.Record.Name, "type", "TXT", "record_file", f.RecordFile)
		}
	}
	return nil
}
