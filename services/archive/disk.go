package archive

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

// disk is the file system as the store changes it. It is an interface so that a test can fail any one step, or
// die there.
type disk interface {
	// Mkdir makes a folder; one that is there already is no error.
	Mkdir(dir string) error
	// Create makes a temporary file in dir.
	Create(dir string) (tempFile, error)
	// Link gives a file a second name, and fails with fs.ErrExist where that name is taken.
	Link(old, new string) error
	// Rename moves a file, in place of what has the new name.
	Rename(old, new string) error
	// Remove removes a file.
	Remove(name string) error
	// SyncDir makes the names in a folder durable.
	SyncDir(dir string) error
}

// tempFile is a file that has no lasting name yet.
type tempFile interface {
	io.WriteCloser
	Name() string
	// Sync makes the bytes durable.
	Sync() error
}

// osDisk is the real one. What it makes is for its own user alone: an archive holds everybody's mail.
type osDisk struct{}

func (osDisk) Mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (osDisk) Create(dir string) (tempFile, error) {
	f, err := os.CreateTemp(dir, "new-*")
	if err != nil {
		return nil, err // a nil *os.File in the interface would not be nil
	}
	return f, nil
}

func (osDisk) Link(old, new string) error   { return os.Link(old, new) }
func (osDisk) Rename(old, new string) error { return os.Rename(old, new) }
func (osDisk) Remove(name string) error     { return os.Remove(name) }

func (osDisk) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// sweep removes the files in dir that nobody has written to since before. It is best effort: what it cannot
// remove now it meets again at the next sweep.
func sweep(d disk, dir string, before time.Time) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.ModTime().Before(before) {
			_ = d.Remove(dir + string(os.PathSeparator) + e.Name())
		}
	}
}
