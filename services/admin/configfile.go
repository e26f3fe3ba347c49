package admin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxConfig is the largest configuration file in bytes; more is read, so that who reads the text can say so.
const maxConfig = 1 << 20

var (
	// errReadOnly says why the API does not change the file.
	errReadOnly = errors.New("read-only")
	// errMeanwhile says that the file is not the one that the change was made for.
	errMeanwhile = errors.New("somebody else changed the file meanwhile: nothing was done")
)

// configFile is a configuration file that is replaced as a whole.
type configFile struct {
	path string
	// beforeRename is for tests: what happens between writing and renaming.
	beforeRename func()
}

// real is what a link points to: that is replaced, never the link.
func (f configFile) real() string {
	if p, err := filepath.EvalSymlinks(f.path); err == nil {
		return p
	}
	return f.path
}

// read gives the text of the file.
func (f configFile) read() ([]byte, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		err = fmt.Errorf("%s has over %d bytes", f.path, maxConfig)
	}
	return data, err
}

// writable is nil, or an errReadOnly that says why. A file without any write permission is left alone by root, too.
func (f configFile) writable() error {
	path := f.real()
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errReadOnly, err)
	case info.Mode().Perm()&0o222 == 0:
		return fmt.Errorf("%w: %s has mode %04o", errReadOnly, path, info.Mode().Perm())
	}
	if err := unix.Access(path, unix.W_OK); err != nil {
		return fmt.Errorf("%w: %s: %w", errReadOnly, path, err)
	}
	if dir := filepath.Dir(path); unix.Access(dir, unix.W_OK|unix.X_OK) != nil {
		return fmt.Errorf("%w: a new file cannot be made in %s, and the old one is never written into", errReadOnly, dir)
	}
	return nil
}

// replace puts now into the place of old, on stable storage; mode and owner stay. errMeanwhile: the file does not hold
// old any more; errReadOnly: it cannot be replaced. In both cases nothing was changed.
func (f configFile) replace(old, now []byte) error {
	if err := f.writable(); err != nil {
		return err
	}
	path := f.real()
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("%w: %w", errReadOnly, err)
	}
	defer os.Remove(tmp.Name())
	err = like(tmp, info)
	if err == nil {
		_, err = tmp.Write(now)
	}
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if f.beforeRename != nil {
		f.beforeRename()
	}
	again, err := f.read()
	if err != nil {
		return err
	}
	if !bytes.Equal(again, old) || f.real() != path {
		return errMeanwhile
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		if errors.Is(err, syscall.EBUSY) { // the file itself is mounted
			return fmt.Errorf("%w: %s is mounted by itself: mount its folder", errReadOnly, path)
		}
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// like gives a file the mode and owner of the one that it replaces. Who cannot keep the owner changes nothing: others
// might not be able to read the file any more.
func like(f *os.File, old fs.FileInfo) error {
	if was, ok := old.Sys().(*syscall.Stat_t); ok {
		if now, err := f.Stat(); err != nil {
			return err
		} else if is, ok := now.Sys().(*syscall.Stat_t); ok && (is.Uid != was.Uid || is.Gid != was.Gid) {
			if err := f.Chown(int(was.Uid), int(was.Gid)); err != nil {
				return fmt.Errorf("%w: it belongs to user %d, group %d: %w", errReadOnly, was.Uid, was.Gid, err)
			}
		}
	}
	return f.Chmod(old.Mode().Perm())
}
