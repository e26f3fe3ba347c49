package service

import (
	"fmt"
	"log/slog"
	"os"
	"syscall"
)

// tmpfs is the magic number of a file system that lives in memory, as statfs(2) gives it.
const tmpfs = 0x01021994

// MakeTemp makes the folder of temporary files if it is missing: nobody else does, and a large message needs it. It
// warns about one in memory, since messages are put there to spare the memory.
func MakeTemp(dir string, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("temp_dir: %w", err)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err == nil && uint32(st.Type) == tmpfs {
		log.Warn("temp_dir is in memory (tmpfs): large messages will take memory there", "temp_dir", dir)
	}
	return nil
}
