package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lock keeps a second process out of the folder until unlock is called: two at once could leave the key of one beside the
// certificate of the other.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noFolder(err)
	}
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = d.Close() //nolint:errcheck // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another `stagecoach pki` is at work in %s: try again when it has ended", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { _ = d.Close() }, nil //nolint:errcheck // the lock ends with it
}

// access is who may do what with a file. The user of the service reads it, who need not be the one that renews.
type access struct {
	mode     os.FileMode
	uid, gid int
}

// accessTo is that of the file that is replaced, or for a new one that of like, but for the right of everybody to read.
func accessTo(file, like string) (access, error) {
	st, err := os.Lstat(file)
	mask := os.ModePerm
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if st, err = os.Stat(like); err != nil {
			return access{}, err
		}
		mask = 0o640
	case err != nil:
		return access{}, err
	case !st.Mode().IsRegular():
		return access{}, fmt.Errorf("%s is no regular file (a link?): it is not replaced", file)
	}
	a := access{mode: st.Mode()&mask | 0o600, uid: os.Geteuid(), gid: -1}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		a.uid, a.gid = int(sys.Uid), int(sys.Gid)
	}
	return a, nil
}

// ownAccess is that of a new file in somebody's folder: his alone.
func ownAccess(dir string) (access, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return access{}, err
	}
	a := access{mode: 0o600, uid: os.Geteuid(), gid: -1}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != a.uid {
		a.uid, a.gid = int(sys.Uid), int(sys.Gid)
	}
	return a, nil
}

// stage writes data beside file, on disk, for a rename. What a run that was killed left there is taken away. A file that
// is not there yet is read by whom like is read.
func stage(file, like string, data []byte) (temp string, err error) {
	acc, err := accessTo(file, like)
	if err != nil {
		return "", err
	}
	temp = filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".new")
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return temp, write(temp, data, acc)
}

// write makes a file that must not be there yet; on an error it is not there afterwards.
func write(file string, data []byte, acc access) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = give(f, acc)
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		_ = os.Remove(file) //nolint:errcheck // the first error counts
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// give makes f accessible as acc says.
func give(f *os.File, acc access) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if ok && (int(sys.Uid) != acc.uid || acc.gid >= 0 && int(sys.Gid) != acc.gid) {
		if err := f.Chown(acc.uid, acc.gid); err != nil {
			return fmt.Errorf("it must belong to user %d, group %d, as the one before: run this as that user or root: %w", acc.uid, acc.gid, err)
		}
	}
	return f.Chmod(acc.mode)
}

// replace puts a pair in the place of the old one. A service that reads between the two renames finds that certificate
// and key do not fit, and keeps the old pair; after a crash there, the next renewal makes both anew.
func (f Folder) replace(name string, p pair) error {
	cert, key := f.files(name)
	like := f.CAFile()
	if strings.HasPrefix(name, PeoplePrefix) {
		like = filepath.Dir(cert) // nobody else needs to read it
	}
	newKey, err := stage(key, like, p.key)
	if err != nil {
		return err
	}
	defer os.Remove(newKey)
	newCert, err := stage(cert, like, p.cert)
	if err != nil {
		return err
	}
	defer os.Remove(newCert)
	if err := os.Rename(newKey, key); err != nil {
		return err
	}
	if err := os.Rename(newCert, cert); err != nil {
		return fmt.Errorf("%w: %s has its new key, and not yet the certificate: renew it once more", err, name)
	}
	return syncDir(filepath.Dir(cert))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
