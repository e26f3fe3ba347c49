package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// historyOf is a history in a folder, whose clock stands still.
func historyOf(t *testing.T, dir, file string) *history {
	t.Helper()
	h := newHistory(dir)
	h.now = func() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }
	if err := h.open(revisionOf([]byte(file))); err != nil {
		t.Fatal(err)
	}
	return h
}

// whats are what the entries say, the newest first, each with its text.
func whats(t *testing.T, h *history) string {
	t.Helper()
	var out []string
	for _, e := range h.list() {
		text, err := h.text(e)
		if err != nil {
			t.Errorf("%d %s: %v", e.number, e.What, err)
		}
		out = append(out, e.What+"="+string(text))
	}
	return strings.Join(out, " ")
}

func need(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestHistoryIsKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data", "history")
	h := historyOf(t, dir, "")
	need(t, h.enter([]byte("a"), historyEntry{What: "one"}))
	need(t, h.enter([]byte("a"), historyEntry{What: "again"}))
	need(t, h.begin([]byte("b"), historyEntry{What: "two", By: "alice", Comment: "why", Base: revisionOf([]byte("a"))}))
	if got := whats(t, h); got != "one=a" {
		t.Errorf("before it is in the file: %s", got)
	}
	need(t, h.enter([]byte("b"), historyEntry{What: "in force"})) // told while the change is made
	need(t, h.finish())
	need(t, h.begin([]byte("c"), historyEntry{What: "dropped"}))
	need(t, h.drop())
	need(t, h.begin([]byte("a"), historyEntry{What: "back"}))
	need(t, h.finish())
	want := "back=a two=b one=a"
	for range 2 {
		if got := whats(t, h); got != want {
			t.Errorf("%s, not %s", got, want)
		}
		if e := h.list()[1]; e.By != "alice" || e.Comment != "why" || !e.At.Equal(h.now()) {
			t.Errorf("%+v", e)
		}
		h = historyOf(t, dir, "a")
	}
	names, err := os.ReadDir(dir)
	need(t, err)
	for _, n := range names {
		if i, err := n.Info(); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", n.Name(), i.Mode(), err)
		}
	}
	if len(names) != 5 {
		t.Errorf("%v", names)
	}
	if i, err := os.Stat(dir); err != nil || i.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", i.Mode(), err)
	}
}

// A crash between the history and the file: what the file has afterwards says whether the change was made.
func TestHistoryAfterACrash(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		"a": "one=a",       // it did not come into the file
		"b": "two=b one=a", // it did
		"x": "two=b one=a", // it did, and somebody changed the file since
		"":  "two=b one=a", // the file is gone: nothing is thrown away
	} {
		dir := t.TempDir()
		h := historyOf(t, dir, "a")
		need(t, h.enter([]byte("a"), historyEntry{What: "one"}))
		need(t, h.begin([]byte("b"), historyEntry{What: "two", Base: revisionOf([]byte("a"))}))
		need(t, os.WriteFile(filepath.Join(dir, unfinished+"123"), []byte("half"), 0o600))
		h = historyOf(t, dir, file)
		if got := whats(t, h); got != want {
			t.Errorf("the file has %q: %s, not %s", file, got, want)
		}
		need(t, h.enter([]byte("c"), historyEntry{What: "next"}))
		if got := whats(t, historyOf(t, dir, "c")); got != "next=c "+want {
			t.Errorf("the file has %q: then %s", file, got)
		}
		names, _ := filepath.Glob(filepath.Join(dir, "*"))
		if n := 2 * (strings.Count(want, "=") + 1); len(names) != n {
			t.Errorf("the file has %q: %v", file, names)
		}
		if _, err := os.Stat(filepath.Join(dir, unfinished+"123")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what was half written is still there: %v", err)
		}
	}
}

// A disk that does not take it: the error says so, and what was there stays.
func TestHistoryOfAFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := historyOf(t, dir, "a")
	need(t, h.enter([]byte("a"), historyEntry{What: "one"}))
	full := errors.New("no space left on device")
	for fails := range 2 { // the text, its entry
		n := 0
		h.sync = func(f *os.File) error {
			if n++; n > fails {
				return full
			}
			return f.Sync()
		}
		if err := h.begin([]byte("b"), historyEntry{What: "two"}); !errors.Is(err, full) {
			t.Errorf("%d: %v", fails, err)
		}
		if err := h.enter([]byte("c"), historyEntry{What: "three"}); !errors.Is(err, full) {
			t.Errorf("%d: %v", fails, err)
		}
		if got := whats(t, h); got != "one=a" {
			t.Errorf("%d: %s", fails, got)
		}
	}
	h.sync = (*os.File).Sync
	need(t, h.enter([]byte("d"), historyEntry{What: "four"}))
	if got := whats(t, historyOf(t, dir, "d")); got != "four=d one=a" {
		t.Error(got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+textSuffix)); len(left) != 2 {
		t.Errorf("%v", left)
	}
}

func TestHistoryForgets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := historyOf(t, dir, "")
	h.sync = func(*os.File) error { return nil }
	for i := range historyKept + 5 {
		need(t, h.enter(fmt.Appendf(nil, "text %d", i%(historyKept+3)), historyEntry{What: fmt.Sprint(i)}))
	}
	h = historyOf(t, dir, "")
	list := h.list()
	if len(list) != historyKept || list[0].What != fmt.Sprint(historyKept+4) || list[historyKept-1].What != "5" {
		t.Errorf("%d entries, %s to %s", len(list), list[0].What, list[len(list)-1].What)
	}
	whats(t, h)
	if texts, _ := filepath.Glob(filepath.Join(dir, "*"+textSuffix)); len(texts) != historyKept {
		t.Errorf("%d texts", len(texts))
	}
}

func TestHistoryFinds(t *testing.T) {
	t.Parallel()
	h := historyOf(t, t.TempDir(), "")
	h.entries = []historyEntry{{Revision: "aaaaaa11", number: 1}, {Revision: "bbbbbb", number: 2}, {Revision: "aaaaaa22", number: 3}, {Revision: "bbbbbb", number: 4}, {Revision: "bbbbbb", number: 5}}
	for name, want := range map[string]uint64{"aaaaaa11": 1, "aaaaaa2": 3, "bbbbbb": 5} {
		if e, err := h.find(name); err != nil || e.number != want {
			t.Errorf("%s: %v, %v", name, e, err)
		}
	}
	for name, want := range map[string]error{"aaaaaa": errAmbiguous, "bbbbb": errNoRevision, "": errNoRevision, "cccccc": errNoRevision} {
		if e, err := h.find(name); !errors.Is(err, want) {
			t.Errorf("%q: %v, %v", name, e, err)
		}
	}
	for name, want := range map[string]uint64{"bbbbbb": 3, "aaaaaa22": 2, "unknown": 5} {
		if e, err := h.before(name); err != nil || e.number != want {
			t.Errorf("before %s: %v, %v", name, e, err)
		}
	}
	if e, err := h.before("aaaaaa11"); !errors.Is(err, errNoEarlier) {
		t.Errorf("%v, %v", e, err)
	}
}

// What cannot be read any more is said, and the rest can.
func TestDamagedHistory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := historyOf(t, dir, "")
	for _, s := range []string{"a", "b", "c", "d"} {
		need(t, h.enter([]byte(s), historyEntry{What: s}))
	}
	need(t, os.WriteFile(h.path(numbered(2)+entrySuffix), []byte(`{"format": 1, "revis`), 0o600))
	newer, err := json.Marshal(historyEntry{Format: 2, Revision: "c"})
	need(t, err)
	need(t, os.WriteFile(h.path(numbered(3)+entrySuffix), newer, 0o600))
	need(t, os.WriteFile(h.path(numbered(7)+entrySuffix), newer, 0o600))
	need(t, os.WriteFile(h.path(revisionOf([]byte("a"))+textSuffix), []byte("x"), 0o600))
	h = historyOf(t, dir, "d")
	list := h.list()
	if len(list) != 2 || list[0].What != "d" || list[1].What != "a" {
		t.Fatalf("%+v", list)
	}
	if _, err := h.text(list[1]); !errors.Is(err, errDamaged) {
		t.Errorf("%v", err)
	}
	if told := h.tellDamaged(); len(told) != 3 || !slices.ContainsFunc(told, func(s string) bool { return strings.Contains(s, "format 2") }) || len(h.tellDamaged()) != 0 {
		t.Errorf("%q", told)
	}
	need(t, h.enter([]byte("a"), historyEntry{What: "again"}))
	if got := whats(t, h); got != "again=a d=d a=a" || h.list()[0].number != 8 {
		t.Error(got, h.list()[0].number) // the text was written anew, the number is a new one
	}
	if _, err := os.Stat(h.path(revisionOf([]byte("b")) + textSuffix)); err != nil {
		t.Errorf("a text that a damaged entry may name: %v", err)
	}
}
