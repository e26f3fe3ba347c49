package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Keeper keeps a CA and, for each service, a folder that holds nothing but ca.pem and its own identity: what one
// container may see.
type Keeper struct {
	// Dir has the folders, named like the services.
	Dir string
	// CADir has ca.pem and ca-key.pem.
	CADir string
	// Before: what ends within this time is renewed.
	Before time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Keep makes what is missing, the CA among it, and renews what ends soon. The error says why nothing could be done at
// all; what failed for one service is in its result. The first result is the CA, if it was made.
func (k Keeper) Keep(names []string) (results []Result, err error) {
	for _, name := range names {
		if err := CheckName(name); err != nil {
			return nil, err
		}
	}
	ca := Folder{Dir: k.CADir, KeyDir: k.CADir, Now: k.Now}
	if results, err = k.authority(ca); err != nil {
		return nil, err
	}
	trusted, err := os.ReadFile(ca.CAFile())
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		res, err := k.identity(name, trusted)
		if err != nil {
			res = []Result{failed(Result{Name: name}, err)}
		}
		results = append(results, res...)
	}
	return results, nil
}

// authority makes the CA if there is none. Half of one is somebody's loss, and not made anew: all services would have to
// be told.
func (k Keeper) authority(ca Folder) ([]Result, error) {
	there := 0
	for _, file := range []string{ca.CAFile(), ca.CAKeyFile()} {
		switch _, err := os.Lstat(file); {
		case err == nil:
			there++
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	switch there {
	case 0:
		return ca.Init(nil)
	case 1:
		return nil, fmt.Errorf("of %s and %s one is missing: bring it back, or take the other away for a new CA, and restart all services", ca.CAFile(), ca.CAKeyFile())
	}
	return nil, nil
}

// identity brings the folder of one service up to date.
func (k Keeper) identity(name string, trusted []byte) ([]Result, error) {
	f := Folder{Dir: filepath.Join(k.Dir, name), KeyDir: k.CADir, Now: k.Now}
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return nil, err
	}
	old, err := os.ReadFile(f.CAFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if !bytes.Equal(old, trusted) {
		temp, err := stage(f.CAFile(), filepath.Join(k.CADir, "ca.pem"), trusted)
		if err != nil {
			return nil, err
		}
		if err := os.Rename(temp, f.CAFile()); err != nil {
			return nil, err
		}
	}
	results, _, err := f.Renew(Renewal{Before: k.Before, Names: []string{name}})
	return results, err
}
