package archive

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// Power is lost at every step in turn. What was reported as kept is kept, what was not is not half there, and the
// next attempt makes it good.
func TestPowerLoss(t *testing.T) {
	steps := 0
	for failAt := 0; failAt <= steps; failAt++ {
		dir := filepath.Join(t.TempDir(), "archive")
		d := newLosingDisk()
		d.failAt, d.dead, d.err = failAt, true, errors.New("no power")
		putErr := errors.New("no store")
		if s, err := newStore(dir, d, func() time.Time { return noon }, 1); err == nil {
			_, putErr = s.Put(t.Context(), message("p", sample(t)))
			s.Close()
		}
		if failAt == 0 {
			if putErr != nil {
				t.Fatal(putErr)
			}
			steps = d.step
		}
		if err := d.losePower(); err != nil {
			t.Fatal(err)
		}
		var e *Entry
		getErr := errors.New("no archive")
		if a, err := Open(dir); err == nil {
			e, getErr = a.Get("p")
		}
		if putErr == nil && getErr != nil {
			t.Fatalf("step %d of %d: reported as kept, and lost: %v", failAt, steps, getErr)
		}
		if getErr == nil && !bytes.Equal(content(t, &e.Versions[0]), sample(t)) {
			t.Fatalf("step %d of %d: a record without its blob", failAt, steps)
		}
		if _, err := testStore(t, dir, quickDisk{}).Put(t.Context(), message("p", sample(t))); err != nil {
			t.Fatalf("step %d of %d: the next attempt: %v", failAt, steps, err)
		}
		e = get(t, dir, "p")
		if len(e.Versions) != 1 || !bytes.Equal(content(t, &e.Versions[0]), sample(t)) {
			t.Fatalf("step %d of %d: after the next attempt: %+v", failAt, steps, e)
		}
	}
	if steps < 15 {
		t.Errorf("only %d steps: the test does not see what the store does", steps)
	}
}

// Every step fails once, with the disk full or broken. The message waits, nothing stays behind, the next attempt works.
func TestDiskFails(t *testing.T) {
	big := bytes.Repeat([]byte("All work and no play.\r\n"), 1000)
	steps := 0
	for failAt := 0; failAt <= steps; failAt++ {
		dir := t.TempDir()
		d := newLosingDisk()
		s := testStore(t, dir, d)
		d.step, d.failAt = 0, failAt
		d.err = []error{syscall.ENOSPC, syscall.EIO}[failAt%2]
		_, err := s.Put(t.Context(), message("d", big))
		switch {
		case failAt == 0:
			steps = d.step
			if err != nil {
				t.Fatal(err)
			}
		case err != nil && !errors.Is(err, d.err):
			t.Errorf("step %d: error %v, want one with %v", failAt, err, d.err)
		}
		if _, err := s.Put(t.Context(), message("d", big)); err != nil {
			t.Fatalf("step %d: the next attempt: %v", failAt, err)
		}
		if e := get(t, dir, "d"); len(e.Versions) != 1 || !bytes.Equal(content(t, &e.Versions[0]), big) {
			t.Fatalf("step %d: after the next attempt: %+v", failAt, e)
		}
	}
	if steps < 10 {
		t.Errorf("only %d steps", steps)
	}
}

func TestDiskFullLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	d := newLosingDisk()
	s := testStore(t, dir, d)
	d.step, d.failAt = 0, 12 // in the middle of the blob
	if _, err := s.Put(t.Context(), message("d", make([]byte, 3<<20))); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("error %v, want ENOSPC", err)
	}
	if f := files(t, dir); len(f) > 0 {
		t.Errorf("left behind: %v", f)
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	tmp := filepath.Join(dir, tmpDir)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	now := noon
	for name, age := range map[string]time.Duration{"new-old": 2 * time.Hour, "new-young": time.Minute} {
		p := filepath.Join(tmp, name)
		if err := os.WriteFile(p, []byte("residue"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, time.Time{}, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := newStore(dir, quickDisk{}, func() time.Time { return now }, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if f := files(t, tmp); !slices.Equal(f, []string{"new-young"}) {
		t.Errorf("after the start: %v, want the young file alone, which may be somebody's", f)
	}
	now = now.Add(2 * time.Hour)
	if _, err := s.Put(t.Context(), message("s", sample(t))); err != nil {
		t.Fatal(err)
	}
	if f := files(t, tmp); len(f) > 0 {
		t.Errorf("two hours later: %v", f)
	}
}

func TestDamage(t *testing.T) {
	damage := func(t *testing.T, pattern string, change func([]byte) []byte) {
		t.Helper()
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) != 1 {
			t.Fatalf("%v, %v", names, err)
		}
		b, err := os.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(names[0], change(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	half := func(b []byte) []byte { return b[:len(b)/2] }
	packed := func(what []byte) func([]byte) []byte {
		return func([]byte) []byte {
			var b bytes.Buffer
			e, _ := newEncoder()
			e.Reset(&b)
			_, _ = e.Write(what)
			_ = e.Close()
			return b.Bytes()
		}
	}
	for name, change := range map[string]func([]byte) []byte{
		"flip": flip, "half": half, "other": packed([]byte("another message, well packed")), "bomb": packed(make([]byte, 10<<20)),
	} {
		t.Run("blob-"+name, func(t *testing.T) {
			dir := t.TempDir()
			s := testStore(t, dir, quickDisk{})
			m := message("x", sample(t))
			if _, err := s.Put(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			damage(t, filepath.Join(dir, "2025/11/22/blobs/*/*.zst"), change)
			r, err := get(t, dir, "x").Versions[0].Open()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if !errors.Is(err, ErrDamaged) || len(got) > len(sample(t)) {
				t.Errorf("reading it: %d bytes, %v; want ErrDamaged, and no more bytes than the record says", len(got), err)
			}
			if _, err := s.Put(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(content(t, &get(t, dir, "x").Versions[0]), sample(t)) {
				t.Error("archived again, it is still damaged")
			}
		})
	}
	for name, change := range map[string]func([]byte) []byte{"flip": flip, "half": half} {
		t.Run("record-"+name, func(t *testing.T) {
			dir := t.TempDir()
			s := testStore(t, dir, quickDisk{})
			m := message("x", sample(t))
			if _, err := s.Put(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			damage(t, filepath.Join(dir, "2025/11/22/records/*/*.rec"), change)
			a, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.Get("x"); !errors.Is(err, ErrDamaged) {
				t.Errorf("Get: %v, want ErrDamaged", err)
			}
			if _, err := s.Put(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if e := get(t, dir, "x"); len(e.Versions) != 1 || len(e.Damaged) != 1 {
				t.Errorf("archived again: %+v", e)
			}
		})
	}
}

// An operator takes a day away while the archive runs.
func TestDayRemoved(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, quickDisk{})
	if _, err := s.Put(t.Context(), message("one", sample(t))); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "2025")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), message("two", sample(t))); err != nil {
		t.Logf("the first attempt: %v", err)
		if _, err := s.Put(t.Context(), message("two", sample(t))); err != nil {
			t.Fatalf("the next attempt: %v", err)
		}
	}
	get(t, dir, "two")
}
