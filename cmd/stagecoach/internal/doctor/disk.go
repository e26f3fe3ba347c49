package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

const (
	// stopSpace is the free space in bytes below which ingress takes no more mail.
	stopSpace = 512 << 20
	// lowShare is the part of the space or of the inodes that should be free.
	lowShare = 0.10
	// slowSync: each message that is accepted waits for one.
	slowSync = 50 * time.Millisecond
)

// checkDisk looks at the file systems of the folders that hold mail.
func checkDisk(_ context.Context, e *Env) []Finding {
	var n notes
	n.folder(e, "data_dir", e.Config.DataDir)
	n.folder(e, "temp_dir", e.Config.TempDir)
	return n
}

func (n *notes) folder(e *Env, key, dir string) {
	subject := key + " " + dir
	before := len(*n)
	there := nearest(dir)
	u, err := e.Disk.Usage(there)
	if err != nil {
		n.fail(subject, "See that the file system is mounted, and that the user that stagecoach runs as can reach it.", "cannot be looked at: %v", err)
		return
	}
	free := fmt.Sprintf("%s of %s free", amount(u.Free), amount(u.Size))
	// A message is whole in temp_dir while it comes in, and two make the least that can be under way.
	need := uint64(2 * e.Config.Ingress.Limits.MessageSize)
	if key == "data_dir" {
		need = max(need, stopSpace)
	}
	switch {
	case u.Free < need:
		n.fail(subject, "Make room, or move the folder to a larger file system.", "%s: with less than %s mail is refused with 452", free, amount(need))
	case float64(u.Free) < lowShare*float64(u.Size) && u.Free < 10*need:
		n.warn(subject, "Make room before mail is refused.", "%s", free)
	}
	if u.Inodes > 0 && float64(u.FreeInodes) < lowShare*float64(u.Inodes) {
		n.warn(subject, "Remove small files, or make a file system with more inodes.", "%d of %d inodes free", u.FreeInodes, u.Inodes)
	}
	switch {
	case u.Kind == "tmpfs" && key == "temp_dir":
		n.warn(subject, "Set temp_dir to a folder on disk.", "is in memory (tmpfs): large messages take memory there")
	case u.Kind == "tmpfs":
		n.fail(subject, "Set data_dir to a folder on disk.", "is in memory (tmpfs): accepted mail is lost with the power")
	case u.Network && key == "data_dir":
		n.warn(subject, "Keep data_dir on a disk of this machine, and what is to be shared (the archive) elsewhere.",
			"is on a network file system (%s), whose syncs and locks are not always kept", u.Kind)
	}
	took := ""
	if there == dir && key == "data_dir" {
		took = n.sync(e, subject, dir)
	}
	if !notes((*n)[before:]).bad() {
		n.ok(subject, "%s%s", free, took)
	}
}

// sync measures how long it takes until a small file is on disk.
func (n *notes) sync(e *Env, subject, dir string) string {
	took, err := e.Disk.SyncTime(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		n.info(subject, "cannot be written to by uid %d", e.UID)
		return ""
	case err != nil:
		n.fail(subject, "See what the kernel says of the disk (dmesg).", "cannot be written to: %v", err)
		return ""
	case took > slowSync:
		n.warn(subject, "Use a disk with power-loss protection, or one that is not shared.",
			"a sync takes %v (the median of %d): about so long takes each message at least", took.Round(time.Millisecond), syncTries)
	}
	return fmt.Sprintf(", a sync takes %v", took.Round(10*time.Microsecond))
}

func amount(n uint64) string {
	const unit = 1000
	if n < unit*unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit/unit, 0
	for ; f >= unit && i < 3; i++ {
		f /= unit
	}
	return fmt.Sprintf("%.1f %s", f, [...]string{"MB", "GB", "TB", "PB"}[i])
}
