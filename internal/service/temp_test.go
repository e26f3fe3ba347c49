package service

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

func TestMakeTemp(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir := filepath.Join(t.TempDir(), "data", "tmp")
	for range 2 { // it may be there
		if err := MakeTemp(dir, log); err != nil {
			t.Fatal(err)
		}
	}
	if i, err := os.Stat(dir); err != nil || i.Mode().Perm() != 0o700 {
		t.Fatalf("%v, %v", i, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MakeTemp(filepath.Join(file, "tmp"), log); err == nil {
		t.Fatal("made a folder below a file")
	}
}
