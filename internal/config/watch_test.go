package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const plainFile = `ingress: {listeners: [{name: l, address: "127.0.0.1:2525", tls: none}]}
chains: [{name: c, stages: [], deliver: r}]
routes: {r: {mx: {}}}
`

// watched is a file with a Watcher whose looks the test makes.
type watched struct {
	*Watcher
	path   string
	taken  []*Config
	refuse error
}

func watch(t *testing.T, text string) *watched {
	t.Helper()
	w := &watched{path: filepath.Join(t.TempDir(), "stagecoach.yaml")}
	w.write(t, text)
	o := options()
	o.Mode = ModeUp
	c, err := o.Load(w.path)
	if err != nil {
		t.Fatal(err)
	}
	w.Watcher = o.watch(t.Context(), w.path, c, quiet(), func(c *Config) error {
		if w.refuse == nil {
			w.taken = append(w.taken, c)
		}
		return w.refuse
	}, time.Hour)
	t.Cleanup(w.Close)
	return w
}

// write replaces the file as editors and mounts do.
func (w *watched) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(w.path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.path+".new", w.path); err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	w := watch(t, plainFile)
	w.look()
	w.look()
	if len(w.taken) != 0 {
		t.Fatal("an unchanged file was taken up")
	}
	w.write(t, plainFile+"hostname: a.example\n")
	w.look()
	if len(w.taken) != 0 {
		t.Fatal("was taken when seen for the first time; it may be half written")
	}
	w.look()
	w.look()
	if len(w.taken) != 1 || w.taken[0].Hostname != "a.example" || w.Err() != nil {
		t.Fatalf("%d taken, %v", len(w.taken), w.Err())
	}

	// A bad revision changes nothing and says so; the file as it was ends that.
	w.write(t, plainFile+"hostnam: b.example\n")
	w.look()
	w.look()
	var all Errors
	if len(w.taken) != 1 || !errors.As(w.Err(), &all) || all[0].Line != 4 {
		t.Fatalf("%d taken, %v", len(w.taken), w.Err())
	}
	w.write(t, plainFile+"hostname: a.example\n")
	w.look()
	w.look()
	if len(w.taken) != 1 || w.Err() != nil {
		t.Fatalf("%d taken, %v", len(w.taken), w.Err())
	}

	// No file at all is no revision.
	if err := os.Rename(w.path, w.path+".away"); err != nil {
		t.Fatal(err)
	}
	w.look()
	if w.Err() != nil {
		t.Fatal("complained about what may be the middle of a rename")
	}
	w.look()
	if !errors.Is(w.Err(), os.ErrNotExist) {
		t.Fatal(w.Err())
	}
}

// TestWatchWhatWasMissing: a revision is refused for a file that is not there, and taken once it is.
func TestWatchWhatWasMissing(t *testing.T) {
	w := watch(t, plainFile)
	w.write(t, strings.Replace(plainFile, "ingress: {", "ingress: {users_file: users.yaml, ", 1))
	w.look()
	w.look()
	if len(w.taken) != 0 || w.Err() == nil {
		t.Fatal("was taken")
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(w.path), "users.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.look()
	if len(w.taken) != 1 || w.Err() != nil {
		t.Fatalf("%d taken, %v", len(w.taken), w.Err())
	}
}

func TestWatchApplyRefuses(t *testing.T) {
	w := watch(t, plainFile)
	w.refuse = errors.New("no such key")
	w.write(t, plainFile+"hostname: a.example\n")
	w.look()
	w.look()
	if !errors.Is(w.Err(), w.refuse) {
		t.Fatal(w.Err())
	}
	w.refuse = nil
	for range applyAgain {
		w.look()
	}
	if len(w.taken) != 0 {
		t.Fatal("applied at every look")
	}
	w.look()
	if len(w.taken) != 1 || w.Err() != nil {
		t.Fatalf("%d taken, %v", len(w.taken), w.Err())
	}
}

func TestWatchManual(t *testing.T) {
	w := watch(t, plainFile+"reload: manual\n")
	w.write(t, plainFile)
	w.look()
	w.look()
	if len(w.taken) != 0 {
		t.Fatal("reload: manual looks by itself")
	}
	if err := w.Reload(); err != nil || len(w.taken) != 1 {
		t.Fatalf("%d taken, %v", len(w.taken), err)
	}
	w.write(t, "x: y\n")
	if err := w.Reload(); err == nil || w.Err() == nil {
		t.Fatal("a bad revision was taken")
	}
}

// TestWatchRuns is the one test with the goroutine and its ticks.
func TestWatchRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stagecoach.yaml")
	if err := os.WriteFile(path, []byte(plainFile), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Mode = ModeUp
	c, err := o.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *Config, 1)
	ctx, stop := context.WithCancel(t.Context())
	w := o.watch(ctx, path, c, quiet(), func(c *Config) error { got <- c; return nil }, time.Millisecond)
	if err := os.WriteFile(path, []byte(plainFile+"hostname: a.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case c := <-got:
		if c.Hostname != "a.example" {
			t.Errorf("%+v", c)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing was taken up")
	}
	stop()
	<-w.done // ends with its context, too
	w.Close()
}
