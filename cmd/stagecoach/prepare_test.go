package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/cli"
)

// Folders are made for their owner alone; what is there stays, and what belongs to somebody else is not taken from him.
func TestPrepare(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give folders away")
	}
	dir := t.TempDir()
	spool, users, other := filepath.Join(dir, "spool"), filepath.Join(dir, "users", "users.yaml"), filepath.Join(dir, "other")
	for range 2 { // and changes nothing the second time
		if _, errs, err := run(t, "prepare", "--owner", "12345:54321", spool, users); err != nil {
			t.Fatal(err, errs)
		}
		for path, mode := range map[string]os.FileMode{spool: 0o700, filepath.Dir(users): 0o700, users: 0o600} {
			st, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if sys, ok := st.Sys().(*syscall.Stat_t); !ok || sys.Uid != 12345 || sys.Gid != 54321 || st.Mode().Perm() != mode {
				t.Errorf("%s belongs to %d:%d, mode %v", path, sys.Uid, sys.Gid, st.Mode())
			}
		}
		if err := os.WriteFile(filepath.Join(spool, "mail"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := os.ReadFile(users); err != nil || string(data) != noUsers {
		t.Errorf("the users file: %q, %v", data, err)
	}
	if data, err := os.ReadFile(filepath.Join(spool, "mail")); err != nil || string(data) != "x" {
		t.Errorf("what was there: %q, %v", data, err)
	}
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(other, 777, 777); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t, "prepare", other); err == nil || !strings.Contains(err.Error(), "belongs to user 777") {
		t.Errorf("a folder of somebody else: %v", err)
	}
	if _, _, err := run(t, "prepare", "--owner", "me", other); err == nil || cli.Code(err) == 0 {
		t.Errorf("an owner that is none: %v", err)
	}
}
