package users

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func content(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// alone says that nothing but these files is in the folder.
func alone(t *testing.T, dir string, want ...string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil || len(all) != len(want) {
		t.Errorf("%v in the folder, want %v (%v)", all, want, err)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "users.yaml")
	f := NewFile(name)
	if all, err := f.Names(); err != nil || len(all) != 0 {
		t.Errorf("a file that is not there: %v, %v", all, err)
	}
	if err := f.SetPassword("alice", "long enough"); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
	if err := f.Add("alice", "short"); !errors.Is(err, ErrInvalid) {
		t.Errorf("%v", err)
	}
	alone(t, dir)
	if err := f.Add("bob", "bob's password"); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("a new file: %v, %v", st.Mode(), err)
	}
	if err := os.Chmod(name, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := f.Add("alice", "alice's password"); err != nil {
		t.Fatal(err)
	}
	if err := f.Add("alice", "another password"); !errors.Is(err, ErrExists) {
		t.Errorf("%v", err)
	}
	if err := f.Delete("carol"); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("the mode: %v, %v", st.Mode(), err)
	}
	if all, err := f.Names(); err != nil || fmt.Sprint(all) != "[alice bob]" {
		t.Errorf("%v, %v", all, err)
	}
	if err := f.Delete("bob"); err != nil {
		t.Fatal(err)
	}
	if all, err := f.Names(); err != nil || fmt.Sprint(all) != "[alice]" {
		t.Errorf("%v, %v", all, err)
	}
	alone(t, dir, "users.yaml")
}

// A file that a login could not use is not edited, and neither is one that cannot be replaced; nothing is left behind.
func TestFileRefusals(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "users.yaml")
	for text, want := range map[string]string{"users: [\n": "malformed", "users:\n  a: {password: secret}\n": "PHC", "a: b\n": "unknown field"} {
		write(t, name, text, time.Now())
		if err := NewFile(name).Add("bob", "long enough"); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", text, err)
		}
		if content(t, name) != text {
			t.Errorf("%q was changed", text)
		}
	}
	if err := NewFile(filepath.Join(dir, "no", "users.yaml")).Add("bob", "long enough"); err == nil {
		t.Error("no folder, and no error")
	}
	alone(t, dir, "users.yaml")
}

// What a link points to is edited; the link stays one.
func TestFileLink(t *testing.T) {
	dir, link := t.TempDir(), filepath.Join(t.TempDir(), "users.yaml")
	name := filepath.Join(dir, "real")
	write(t, name, file("a", cheap("x")), time.Now())
	if err := os.Symlink(name, link); err != nil {
		t.Fatal(err)
	}
	if err := NewFile(link).Add("bob", "long enough"); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 || !strings.Contains(content(t, name), "bob") {
		t.Errorf("%v, %v: %s", st.Mode(), err, content(t, name))
	}
}

// Somebody with an editor saves between our reading and renaming: his change stays, and so does ours.
func TestFileForeignChange(t *testing.T) {
	for how, save := range map[string]func(t *testing.T, name, text string){
		"in place": func(t *testing.T, name, text string) { write(t, name, text, time.Now()) },
		"by rename": func(t *testing.T, name, text string) {
			write(t, name+"~", text, time.Now())
			if err := os.Rename(name+"~", name); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(how, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "users.yaml")
			write(t, name, file("a", cheap("x")), time.Now())
			f := NewFile(name)
			times := 0
			f.beforeRename = func() {
				if times++; times == 1 {
					save(t, name, "# theirs\n"+file("a", cheap("x"), "theirs", cheap("y")))
				}
			}
			if err := f.Add("ours", "long enough"); err != nil {
				t.Fatal(err)
			}
			if text := content(t, name); times != 2 || !strings.HasPrefix(text, "# theirs\n") || !strings.Contains(text, "  theirs:") || !strings.Contains(text, "  ours:") {
				t.Errorf("after %d attempts:\n%s", times, text)
			}
			f.beforeRename = func() { times++; save(t, name, fmt.Sprintf("# %d\n", times)+file("a", cheap("x"))) }
			if err := f.Add("another", "long enough"); !errors.Is(err, ErrChanged) {
				t.Errorf("without an end: %v", err)
			}
		})
	}
	t.Run("made meanwhile", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "users.yaml")
		f, times := NewFile(name), 0
		f.beforeRename = func() {
			if times++; times == 1 {
				write(t, name, file("theirs", cheap("x")), time.Now())
			}
		}
		if err := f.Add("ours", "long enough"); err != nil {
			t.Fatal(err)
		}
		if all, err := f.Names(); err != nil || fmt.Sprint(all) != "[ours theirs]" {
			t.Errorf("%v, %v", all, err)
		}
	})
}

// Edits at once, each by a File of its own as if by processes of their own: none is lost.
func TestFileAtOnce(t *testing.T) {
	name := filepath.Join(t.TempDir(), "users.yaml")
	var wg sync.WaitGroup
	const n = 12
	for i := range n {
		wg.Go(func() {
			f := NewFile(name)
			for {
				err := f.change(change{fmt.Sprintf("user%02d", i), cheap("x")}, false)
				if err == nil {
					return
				}
				if !errors.Is(err, ErrChanged) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if all, err := NewFile(name).Names(); err != nil || len(all) != n {
		t.Errorf("%v, %v", all, err)
	}
}

// While a file is being edited no other process of ours can begin to.
func TestFileLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "users.yaml")
	write(t, name, file("a", cheap("x")), time.Now())
	f, asked := NewFile(name), false
	f.beforeRename = func() {
		other, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		asked = true
		if err := syscall.Flock(int(other.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
			t.Errorf("another can lock the file as well: %v", err)
		}
	}
	if err := f.Add("bob", "long enough"); err != nil || !asked {
		t.Error(err)
	}
}

// An edit is in force when it returns, whatever the clock of the store says.
func TestStoreEdit(t *testing.T) {
	name := filepath.Join(t.TempDir(), "users.yaml")
	now := time.Now()
	write(t, name, file("alice", cheap("secret")), now)
	s, err := Open(name, slog.New(slog.DiscardHandler), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // twice: a hash of the same length within a tick of the clock
		for _, password := range []string{"first password", "other password"} {
			if err := s.Edit(func(f *File) error { return f.SetPassword("alice", password) }); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(name, now, now); err != nil {
				t.Fatal(err)
			}
			if !verify(t, s, "alice", password) || verify(t, s, "alice", "secret") {
				t.Errorf("%q is not in force", password)
			}
		}
	}
	none, err := Open("", slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := none.Edit(func(*File) error { t.Error("called"); return nil }); !errors.Is(err, ErrNoFile) {
		t.Error(err)
	}
}
