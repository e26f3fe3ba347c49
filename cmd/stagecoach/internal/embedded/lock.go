package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lock keeps a second process from running on the same data.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() //nolint:errcheck // nothing was written
		return nil, fmt.Errorf("another stagecoach runs on %s: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}
