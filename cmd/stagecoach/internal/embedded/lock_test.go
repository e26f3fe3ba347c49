package embedded

import (
	"path/filepath"
	"testing"
)

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil {
		t.Fatal("locked twice")
	}
	unlock()
	unlock, err = lock(dir)
	if err != nil {
		t.Fatalf("after unlock: %v", err)
	}
	unlock()
}
