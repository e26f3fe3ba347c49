package archive

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// quickDisk does not wait for the platter.
type quickDisk struct{ osDisk }

type quickFile struct{ tempFile }

func (quickFile) Sync() error { return nil }

func (d quickDisk) Create(dir string) (tempFile, error) {
	f, err := d.osDisk.Create(dir)
	if err != nil {
		return nil, err
	}
	return quickFile{f}, nil
}

func (quickDisk) SyncDir(string) error { return nil }

// losingDisk is a disk that can fail at one step, or lose its power there: what was not made durable until then is
// then gone, as the worst file system would have it.
type losingDisk struct {
	quickDisk
	// failAt is the number of the step that fails, from 1; 0: none. With dead, so do all after it.
	failAt int
	dead   bool
	err    error

	mu      sync.Mutex
	step    int
	pending map[string]string // name -> folder whose sync makes it durable
	dirty   map[string]bool   // names of files whose bytes are not durable
}

func newLosingDisk() *losingDisk {
	return &losingDisk{err: syscall.ENOSPC, pending: make(map[string]string), dirty: make(map[string]bool)}
}

func (d *losingDisk) fails() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.step++
	if d.failAt > 0 && (d.step == d.failAt || d.dead && d.step > d.failAt) {
		return d.err
	}
	return nil
}

func (d *losingDisk) add(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending[name] = filepath.Dir(name)
}

func (d *losingDisk) Mkdir(dir string) error {
	if err := d.fails(); err != nil {
		return err
	}
	_, err := os.Stat(dir)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err := d.quickDisk.Mkdir(dir); err != nil {
		return err
	}
	if isNew {
		d.add(dir)
	}
	return nil
}

func (d *losingDisk) Create(dir string) (tempFile, error) {
	if err := d.fails(); err != nil {
		return nil, err
	}
	f, err := d.quickDisk.Create(dir)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dirty[f.Name()] = true
	return &losingFile{f, d}, nil
}

type losingFile struct {
	tempFile
	d *losingDisk
}

func (f *losingFile) Write(p []byte) (int, error) {
	if err := f.d.fails(); err != nil {
		n, _ := f.tempFile.Write(p[:len(p)/2])
		return n, err
	}
	return f.tempFile.Write(p)
}

func (f *losingFile) Sync() error {
	if err := f.d.fails(); err != nil {
		return err
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	delete(f.d.dirty, f.Name())
	return f.tempFile.Sync()
}

func (d *losingDisk) publish(op func(a, b string) error, old, name string) error {
	if err := d.fails(); err != nil {
		return err
	}
	if err := op(old, name); err != nil {
		return err
	}
	d.add(name)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dirty[old] {
		d.dirty[name] = true
	}
	return nil
}

func (d *losingDisk) Link(old, name string) error   { return d.publish(d.quickDisk.Link, old, name) }
func (d *losingDisk) Rename(old, name string) error { return d.publish(d.quickDisk.Rename, old, name) }

func (d *losingDisk) Remove(name string) error {
	if err := d.fails(); err != nil {
		return err
	}
	return d.quickDisk.Remove(name)
}

func (d *losingDisk) SyncDir(dir string) error {
	if err := d.fails(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, in := range d.pending {
		if in == dir {
			delete(d.pending, name)
		}
	}
	return d.quickDisk.SyncDir(dir)
}

// losePower takes away what is not durable.
func (d *losingDisk) losePower() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.dirty {
		if err := os.Truncate(name, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for name := range d.pending {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}
