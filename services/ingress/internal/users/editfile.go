package users

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// tries is how often an edit is begun again because somebody else changed the file meanwhile.
const tries = 8

// ErrChanged says that others keep changing the file.
var ErrChanged = errors.New("the users file is being changed by others; try again")

// File is a users file to be edited. It is safe for concurrent use, also by several processes: an edit is made on what
// the file holds then, and either is on stable storage when a method returns nil, or has changed nothing.
type File struct {
	path string
	mu   sync.Mutex
	// beforeRename is for tests: what happens between reading and renaming.
	beforeRename func()
}

// NewFile is the file at path. It need not be there yet: the first user that is added makes it, with mode 0600.
func NewFile(path string) *File { return &File{path: path} }

// Names lists the users, sorted.
func (f *File) Names() ([]string, error) {
	data, err := read(f.path)
	if err != nil {
		return nil, err
	}
	all, err := names(data)
	if err != nil {
		return nil, fmt.Errorf("users file %s: %w", f.path, err)
	}
	return all, nil
}

// Add adds a user; ErrExists, ErrInvalid and ErrForm say why not.
func (f *File) Add(name, password string) error { return f.set(name, password, false) }

// SetPassword changes the password of a user; ErrUnknown, ErrInvalid and ErrForm say why not.
func (f *File) SetPassword(name, password string) error { return f.set(name, password, true) }

// Delete removes a user; ErrUnknown and ErrForm say why not.
func (f *File) Delete(name string) error { return f.change(change{name: name}, true) }

func (f *File) set(name, password string, known bool) error {
	if !known { // a name that is there already may be anything
		if err := CheckName(name); err != nil {
			return err
		}
	}
	if err := CheckPassword(password); err != nil {
		return err
	}
	phc, err := Hash(password)
	if err != nil {
		return err
	}
	return f.change(change{name, phc}, known)
}

// change makes an edit of a user that is to be there already, or is not.
func (f *File) change(c change, known bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	// What a link points to is replaced, never the link.
	path := f.path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	for range tries {
		done, err := f.attempt(path, c, known)
		if err != nil {
			return fmt.Errorf("users file %s: %w", f.path, err)
		}
		if done {
			return nil
		}
	}
	return fmt.Errorf("users file %s: %w", f.path, ErrChanged)
}

// attempt edits the file once; false: it was changed meanwhile, and nothing was done.
func (f *File) attempt(path string, c change, known bool) (done bool, err error) {
	old, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if known {
			return false, ErrUnknown
		}
		return f.create(path, c)
	}
	if err != nil {
		return false, err
	}
	defer old.Close()
	// Other processes of ours wait here; editors do not, so what the file holds is compared before it is replaced.
	if err := syscall.Flock(int(old.Fd()), syscall.LOCK_EX); err != nil {
		return false, fmt.Errorf("lock: %w", err)
	}
	data, err := readAll(old)
	if err != nil {
		return false, err
	}
	next, err := edited(data, c, known)
	if err != nil {
		return false, err
	}
	info, err := old.Stat()
	if err != nil {
		return false, err
	}
	tmp, err := writeBeside(path, next, info)
	if err != nil {
		return false, err
	}
	defer os.Remove(tmp)
	if f.beforeRename != nil {
		f.beforeRename()
	}
	if same, err := unchanged(path, info, data); err != nil || !same {
		return false, err
	}
	if err := os.Rename(tmp, path); err != nil {
		return false, err
	}
	return true, syncDir(filepath.Dir(path))
}

// create makes the file with its first user, if nobody else has made it meanwhile.
func (f *File) create(path string, c change) (done bool, err error) {
	next, err := edited(nil, c, false)
	if err != nil {
		return false, err
	}
	tmp, err := writeBeside(path, next, nil)
	if err != nil {
		return false, err
	}
	defer os.Remove(tmp)
	if f.beforeRename != nil {
		f.beforeRename()
	}
	if err := os.Link(tmp, path); errors.Is(err, fs.ErrExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, syncDir(filepath.Dir(path))
}

func edited(data []byte, c change, known bool) ([]byte, error) {
	all, err := entries(data)
	if err != nil {
		return nil, err
	}
	switch _, ok := all[c.name]; {
	case ok && !known:
		return nil, fmt.Errorf("%q: %w", c.name, ErrExists)
	case !ok && known:
		return nil, fmt.Errorf("%q: %w", c.name, ErrUnknown)
	}
	next, err := edit(data, c)
	if err == nil && len(next) > maxFile {
		err = fmt.Errorf("%w: the file would have more than %d bytes", ErrInvalid, maxFile)
	}
	return next, err
}

// writeBeside writes data to stable storage under a name of its own in the folder of path, with mode and owner of the
// file that it is to replace.
func writeBeside(path string, data []byte, old fs.FileInfo) (name string, err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	if old != nil {
		err = likeBefore(tmp, old)
	}
	if err == nil {
		_, err = tmp.Write(data)
	}
	return tmp.Name(), errors.Join(err, tmp.Sync(), tmp.Close())
}

// likeBefore gives f the mode and owner of the file that it replaces. Who may not keep the owner keeps the group, if
// that may read the file; else the service might not be able to read it any more, and nothing is changed.
func likeBefore(f *os.File, old fs.FileInfo) error {
	if err := f.Chmod(old.Mode().Perm()); err != nil {
		return err
	}
	now, err := f.Stat()
	if err != nil {
		return err
	}
	was, ok1 := old.Sys().(*syscall.Stat_t)
	is, ok2 := now.Sys().(*syscall.Stat_t)
	if !ok1 || !ok2 || was.Uid == is.Uid && was.Gid == is.Gid {
		return nil
	}
	err = f.Chown(int(was.Uid), int(was.Gid))
	if err != nil && old.Mode()&0o040 != 0 {
		err = f.Chown(-1, int(was.Gid))
	}
	if err != nil {
		return fmt.Errorf("it belongs to user %d, group %d: change it as that user: %w", was.Uid, was.Gid, err)
	}
	return f.Chmod(old.Mode().Perm()) // changing the owner may have taken bits away
}

// unchanged says that path is still the file that was read, with the same content.
func unchanged(path string, info fs.FileInfo, data []byte) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil || !os.SameFile(now, info) {
		return false, err
	}
	again, err := readAll(f)
	return bytes.Equal(again, data), err
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("users file: %w", err)
	}
	defer f.Close()
	return readAll(f)
}

func readAll(f *os.File) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	return data, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
