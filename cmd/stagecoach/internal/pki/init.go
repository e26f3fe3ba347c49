package pki

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Service is what an identity is made for.
type Service struct {
	Name string
	// Also are further DNS names of it.
	Also []string
}

// Result is what became of one identity.
type Result struct {
	Name string
	// Change is Made, Renewed, Kept or Failed.
	Change Change
	// Why it was changed, or not.
	Why string
	// Ends is when the certificate that is there now ends; zero if there is none.
	Ends time.Time
}

// Change is what was done to an identity.
type Change string

// What can be done to an identity.
const (
	Made    Change = "made"
	Renewed Change = "renewed"
	Kept    Change = "kept"
	Failed  Change = "failed"
)

// Init makes a CA and the identities of services; the first result is the CA. It overwrites nothing: if one of the files
// is there, or on any other error, nothing is made.
func (f Folder) Init(services []Service) (results []Result, err error) {
	for _, s := range services {
		if err := CheckName(s.Name); err != nil {
			return nil, err
		}
	}
	keyDir := filepath.Dir(f.CAKeyFile())
	for _, dir := range []string{f.Dir, keyDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	unlock, err := lock(f.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()

	now := f.Now()
	ca, own, err := newAuthority(now)
	if err != nil {
		return nil, err
	}
	type file struct {
		path string
		data []byte
	}
	files := []file{{f.CAKeyFile(), own.key}, {f.CAFile(), own.cert}}
	results = []Result{{Name: "ca", Change: Made, Ends: ca.cert.NotAfter}}
	slices.SortFunc(services, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range services {
		p, err := ca.issue(now, s.Name, append([]string{s.Name}, s.Also...), nil)
		if err != nil {
			return nil, err
		}
		cert, key := f.files(s.Name)
		files = append(files, file{key, p.key}, file{cert, p.cert})
		results = append(results, Result{Name: s.Name, Change: Made, Ends: p.leaf.NotAfter})
	}
	for _, x := range files {
		if _, err := os.Lstat(x.path); err == nil {
			return nil, fmt.Errorf("%s: %w; nothing is overwritten. `stagecoach pki renew NAME` adds or renews an identity; for another CA name another --dir", x.path, fs.ErrExist)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	for i, x := range files {
		acc, err := ownAccess(filepath.Dir(x.path))
		if err == nil {
			err = write(x.path, x.data, acc)
		}
		if err != nil {
			for _, made := range files[:i] {
				_ = os.Remove(made.path) //nolint:errcheck // the first error counts
			}
			return nil, err
		}
	}
	return results, errors.Join(syncDir(f.Dir), syncDir(keyDir))
}
