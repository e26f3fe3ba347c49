package signer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// KeyFile is a key as WriteKeys has put it on disk.
type KeyFile struct {
	Domain   string
	Selector string
	Kind     Kind
	// File is the private key; beside it stands RecordFile with the DNS record, for people.
	File       string
	RecordFile string
	Record     Record
}

// WriteKeys makes new keys for domain and writes <dir>/<domain>/<selector>.pem (mode 0600, in folders of mode 0700 where
// it has to make them) with the DNS record beside it as <selector>.txt. With one kind, the selector is taken as it is;
// with none (which stands for RSA and Ed25519) or several, each key gets the selector "<selector>-<kind>", since one
// name in the DNS holds one key. It never overwrites: a file that is there gives an error that is fs.ErrExist.
// Files are on stable storage when it returns.
func WriteKeys(dir, domain, selector string, kinds ...Kind) ([]KeyFile, error) {
	name, err := domainName(domain)
	if err != nil {
		return nil, err
	}
	if len(kinds) == 0 {
		kinds = []Kind{RSA, Ed25519}
	}
	selectors := make([]string, len(kinds))
	for i, kind := range kinds {
		selectors[i] = selector
		if len(kinds) > 1 {
			selectors[i] += "-" + string(kind)
		}
		if err := checkSelector(selectors[i]); err != nil {
			return nil, err
		}
		file := keyPath(dir, name, selectors[i])
		if _, err := os.Lstat(file); err == nil {
			return nil, fmt.Errorf("%s: %w", file, fs.ErrExist)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
		return nil, fmt.Errorf("make the key directory: %w", err)
	}
	files := make([]KeyFile, 0, len(kinds))
	for i, kind := range kinds {
		f, err := writeKey(dir, name, selectors[i], kind)
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

func keyPath(dir, domain, selector string) string {
	return filepath.Join(dir, domain, selector+keySuffix)
}

func writeKey(dir, domain, selector string, kind Kind) (KeyFile, error) {
	key, err := NewKey(kind)
	if err != nil {
		return KeyFile{}, err
	}
	record, err := key.Record(domain, selector)
	if err != nil {
		return KeyFile{}, err
	}
	private, err := key.PEM()
	if err != nil {
		return KeyFile{}, err
	}
	f := KeyFile{
		Domain: domain, Selector: selector, Kind: kind, Record: record,
		File:       keyPath(dir, domain, selector),
		RecordFile: filepath.Join(dir, domain, selector+".txt"),
	}
	// The record first: a key that signs before anybody could publish it is worse than a record without a key.
	text := fmt.Sprintf("%s\n; in one piece: %s\n", record, record.Text)
	if err := writeNew(f.RecordFile, []byte(text), 0o644); err != nil && !errors.Is(err, fs.ErrExist) {
		return KeyFile{}, err
	}
	if err := writeNew(f.File, private, 0o600); err != nil {
		return KeyFile{}, err
	}
	return f, nil
}

// writeNew makes a file appear whole and synced under its name, or not at all; it never replaces one.
func writeNew(path string, data []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Link(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
