package maildir

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

type failing struct{}

func (failing) WriteTo(io.Writer) (int64, error) { return 0, errors.New("broken") }

var (
	from = mail.Address{Local: "s s", Domain: "from.example"}
	to   = mail.Recipient{ID: "r0", Address: mail.Address{Local: "a", Domain: "x.example"}}
)

func list(t *testing.T, parts ...string) []string {
	t.Helper()
	all, err := os.ReadDir(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range all {
		names = append(names, f.Name())
	}
	return names
}

func TestPrepareAndCommit(t *testing.T) {
	dir := t.TempDir()
	m, err := Open(filepath.Join(dir, "deep", "box"))
	if err != nil {
		t.Fatal(err)
	}
	box := filepath.Join(dir, "deep", "box")
	d, err := m.Prepare("id", from, to, strings.NewReader("a: b\n\r\n\x00"))
	if err != nil {
		t.Fatal(err)
	}
	if len(list(t, box, "new")) != 0 {
		t.Error("visible before Commit")
	}
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(box, "new", "id.r0"))
	if want := "Return-Path: <\"s s\"@from.example>\r\nDelivered-To: a@x.example\r\na: b\n\r\n\x00"; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	if len(list(t, box, "tmp")) != 0 {
		t.Error("tmp is not empty")
	}
}

func TestNullSender(t *testing.T) {
	dir := t.TempDir()
	m, _ := Open(dir)
	d, err := m.Prepare("id", mail.Address{}, to, strings.NewReader("x"))
	if err != nil || d.Commit() != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "new", "id.r0")); !strings.HasPrefix(string(got), "Return-Path: <>\r\n") {
		t.Errorf("%q", got)
	}
}

// Many attempts at once, some dying before Commit, make one file.
func TestOnce(t *testing.T) {
	dir := t.TempDir()
	m, _ := Open(dir)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			d, err := m.Prepare("id", from, to, strings.NewReader("x"))
			if err != nil {
				t.Error(err)
				return
			}
			if i%3 == 0 {
				d.Discard()
			} else if err := d.Commit(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n, tmp := list(t, dir, "new"), list(t, dir, "tmp"); len(n) != 1 || len(tmp) != 0 {
		t.Errorf("%v %v", n, tmp)
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	m, _ := Open(dir)
	if _, err := m.Prepare("id", from, to, failing{}); err == nil {
		t.Error("no error")
	}
	if n := append(list(t, dir, "new"), list(t, dir, "tmp")...); len(n) != 0 {
		t.Errorf("%v", n)
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	m, _ := Open(dir)
	for _, n := range []string{"tmp/old", "tmp/young", "new/old"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-40 * time.Hour)
	for _, n := range []string{"tmp/old", "new/old"} {
		if err := os.Chtimes(filepath.Join(dir, n), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Sweep(time.Now()); err != nil {
		t.Fatal(err)
	}
	if tmp, n := list(t, dir, "tmp"), list(t, dir, "new"); len(tmp) != 1 || tmp[0] != "young" || len(n) != 1 {
		t.Errorf("%v %v", tmp, n)
	}
}

func TestName(t *testing.T) {
	seen := map[string]string{}
	long := strings.Repeat("x", 200)
	for _, c := range [][2]string{{"a", "b"}, {"a.b", "c"}, {"a", "b.c"}, {"../../etc", "x"}, {"a:2,S", "b"}, {"a=2E", "b"}, {"a.", "b"}, {long, "a"}, {long, "b"}, {"a", long}, {"a\n\x00", "ü"}, {"", ""}} {
		n := Name(c[0], mail.RecipientID(c[1]))
		if other, dup := seen[n]; dup {
			t.Errorf("%q and %q share %q", c, other, n)
		}
		seen[n] = c[0] + "/" + c[1]
		if strings.ContainsAny(n, "/:\n\x00") || len(n) > 200 || strings.HasPrefix(n, "..") {
			t.Errorf("%q", n)
		}
	}
}
