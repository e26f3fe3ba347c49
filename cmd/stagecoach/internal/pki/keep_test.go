package pki

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/service"
)

// Each service gets a folder with what it needs and nothing else; a second look changes nothing, and what ends soon, or
// is new, is made.
func TestKeep(t *testing.T) {
	t.Parallel()
	now := time.Now()
	dir := t.TempDir()
	k := Keeper{Dir: filepath.Join(dir, "pki"), CADir: filepath.Join(dir, "ca"), Before: 30 * 24 * time.Hour, Now: func() time.Time { return now }}
	keep := func(want Change, names ...string) {
		t.Helper()
		results, err := k.Keep(names)
		if err != nil {
			t.Fatal(err)
		}
		results = slices.DeleteFunc(results, func(r Result) bool { return r.Name == "ca" })
		if len(results) != len(names) {
			t.Fatalf("%d results for %d services", len(results), len(names))
		}
		for _, r := range results {
			if r.Change != want {
				t.Errorf("%s was %s (%s), want %s", r.Name, r.Change, r.Why, want)
			}
		}
	}
	keep(Made, "ingress", "nats")
	entries, err := os.ReadDir(filepath.Join(k.Dir, "nats"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"ca.pem", "nats-key.pem", "nats.pem"}; !slices.Equal(names, want) {
		t.Errorf("the folder of nats has %q, want %q", names, want)
	}
	if st, err := os.Stat(filepath.Join(k.Dir, "nats")); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("others see the folder: %v, %v", st.Mode(), err)
	}
	if _, err := service.OpenPKI(filepath.Join(k.Dir, "ingress"), "ingress"); err != nil {
		t.Error(err)
	}
	keep(Kept, "ingress", "nats")
	keep(Made, "antivirus")
	now = now.Add(340 * 24 * time.Hour)
	keep(Renewed, "ingress", "nats")

	// A CA that is lost by half is not replaced behind the operator's back.
	if err := os.Remove(filepath.Join(k.CADir, "ca-key.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Keep([]string{"ingress"}); err == nil {
		t.Error("a CA without its key was taken, or replaced")
	}
	if _, err := k.Keep([]string{"../x"}); err == nil {
		t.Error("a name that leaves the folder was taken")
	}
}
