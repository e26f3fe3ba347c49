package admin

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// historyKept is how many revisions are kept.
	historyKept = 200
	// historyFormat is the version of the form in which an entry is stored.
	historyFormat = 1
	// shortRevision is the least number of digits by which a revision is named.
	shortRevision = 6
)

var (
	errNoRevision = errors.New("no such revision is kept: `stagecoach config history` lists them")
	errNoEarlier  = errors.New("no revision before this one is kept")
	errAmbiguous  = errors.New("several revisions begin like that: give more digits")
	errDamaged    = errors.New("its text is damaged on the disk")
)

// history is what the configuration file was. A folder holds each text, under its revision, and an entry for each time
// that it was put in place, numbered. An entry of a change that is being made is pending until the file has it; what a
// crash leaves behind is settled by the next start.
type history struct {
	dir string
	now func() time.Time
	// sync makes a file durable; tests let it fail.
	sync func(*os.File) error

	mu      sync.Mutex
	ready   bool
	entries []historyEntry // the oldest first, without what is pending
	last    uint64         // the highest number that is there
	pending *historyEntry
	damaged []string // entries that cannot be read: left alone
	told    bool
}

// historyEntry says that a text came into the file.
type historyEntry struct {
	Format   int    `json:"format"`
	Revision string `json:"revision"`
	// Base is the revision that the file had, of a change through the API.
	Base    string    `json:"base,omitempty"`
	At      time.Time `json:"at"`
	By      string    `json:"by,omitempty"`
	What    string    `json:"what"`
	Comment string    `json:"comment,omitempty"`

	number uint64
}

const (
	entrySuffix   = ".json"
	pendingSuffix = ".pending"
	textSuffix    = ".yaml"
	unfinished    = ".new-"
)

func newHistory(dir string) *history {
	return &history{dir: dir, now: time.Now, sync: (*os.File).Sync}
}

// open reads what is there, until that worked once. file is the revision that the configuration file has: it says whether
// a change that a crash cut off was made.
func (h *history) open(file string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ready {
		return nil
	}
	err := h.read(file)
	h.ready = err == nil
	return err
}

func (h *history) read(file string) error {
	if h.dir == "" {
		return errors.New("it has no folder")
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return err
	}
	names, err := os.ReadDir(h.dir)
	if err != nil {
		return err
	}
	h.entries, h.damaged, h.last = nil, nil, 0
	var cutOff []historyEntry
	for _, n := range names {
		name := n.Name()
		switch {
		case strings.HasPrefix(name, unfinished):
			if err := os.Remove(h.path(name)); err != nil {
				return err
			}
		case strings.HasSuffix(name, entrySuffix), strings.HasSuffix(name, pendingSuffix):
			e, err := h.readEntry(name)
			h.last = max(h.last, e.number)
			switch {
			case err != nil:
				h.damaged = append(h.damaged, fmt.Sprintf("%s: %v", name, err))
			case strings.HasSuffix(name, pendingSuffix):
				cutOff = append(cutOff, e)
			default:
				h.entries = append(h.entries, e)
			}
		}
	}
	h.order()
	for _, e := range cutOff {
		if err := h.settle(e, file != e.Base || e.Revision == e.Base); err != nil {
			return err
		}
	}
	return nil
}

// tellDamaged gives the entries that cannot be read, once.
func (h *history) tellDamaged() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.told {
		return nil
	}
	h.told = h.ready
	return slices.Clone(h.damaged)
}

func (h *history) order() {
	slices.SortFunc(h.entries, func(a, b historyEntry) int { return cmp.Compare(a.number, b.number) })
}

func (h *history) path(name string) string { return filepath.Join(h.dir, name) }

func (h *history) readEntry(name string) (e historyEntry, err error) {
	digits := strings.TrimSuffix(strings.TrimSuffix(name, entrySuffix), pendingSuffix)
	if e.number, err = strconv.ParseUint(digits, 10, 63); err != nil {
		return e, errors.New("its name is no number")
	}
	data, err := os.ReadFile(h.path(name))
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, err
	}
	if e.Format != historyFormat {
		return e, fmt.Errorf("has format %d, and this program knows %d", e.Format, historyFormat)
	}
	return e, nil
}

// newest is the last entry, also one that is pending.
func (h *history) newest() *historyEntry {
	if h.pending != nil {
		return h.pending
	}
	if n := len(h.entries); n > 0 {
		return &h.entries[n-1]
	}
	return nil
}

// enter puts a text that is in the file into the history, unless it is the newest one there.
func (h *history) enter(text []byte, e historyEntry) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.Revision = revisionOf(text)
	if last := h.newest(); last != nil && last.Revision == e.Revision {
		return nil
	}
	e, err := h.store(text, e, entrySuffix)
	if err != nil {
		return err
	}
	h.entries = append(h.entries, e)
	return h.prune()
}

// begin puts a text into the history that is about to come into the file; finish or drop ends that.
func (h *history) begin(text []byte, e historyEntry) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.Revision = revisionOf(text)
	e, err := h.store(text, e, pendingSuffix)
	if err != nil {
		return err
	}
	h.pending = &e
	return nil
}

// finish says that the file has what was begun. After an error it has, too: the next start settles the entry.
func (h *history) finish() error { return h.end(true) }

// drop says that what was begun did not come into the file.
func (h *history) drop() error { return h.end(false) }

func (h *history) end(made bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.pending
	if e == nil {
		return nil
	}
	h.pending = nil
	return h.settle(*e, made)
}

// settle makes an entry of what is pending, or removes it.
func (h *history) settle(e historyEntry, made bool) error {
	name := numbered(e.number)
	if !made {
		if err := os.Remove(h.path(name + pendingSuffix)); err != nil {
			return err
		}
		return h.prune()
	}
	h.entries = append(h.entries, e)
	h.order()
	if err := os.Rename(h.path(name+pendingSuffix), h.path(name+entrySuffix)); err != nil {
		return err
	}
	return errors.Join(h.syncDir(), h.prune())
}

func numbered(n uint64) string { return fmt.Sprintf("%012d", n) }

// store writes a text and its entry, under the next number.
func (h *history) store(text []byte, e historyEntry, suffix string) (historyEntry, error) {
	e.Format, e.At, e.number = historyFormat, h.now().UTC(), h.last+1
	if last := h.newest(); last != nil && e.At.Before(last.At) {
		e.At = last.At // a clock that was put back
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return e, err
	}
	if have, err := h.readText(e.Revision); err != nil || have == nil {
		if err := h.write(e.Revision+textSuffix, text); err != nil {
			return e, err
		}
	}
	data, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return e, err
	}
	if err := h.write(numbered(e.number)+suffix, append(data, '\n')); err != nil {
		return e, err
	}
	h.last = e.number
	return e, nil
}

// write puts a file there, on stable storage, whole or not at all.
func (h *history) write(name string, data []byte) error {
	f, err := os.CreateTemp(h.dir, unfinished+"*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = h.sync(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), h.path(name)); err != nil {
		return err
	}
	return h.syncDir()
}

func (h *history) syncDir() error {
	dir, err := os.Open(h.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// readText gives the text of a revision; nil: it is not there.
func (h *history) readText(revision string) ([]byte, error) {
	text, err := os.ReadFile(h.path(revision + textSuffix))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case revisionOf(text) != revision:
		return nil, errDamaged
	}
	return text, nil
}

// text gives the text of an entry.
func (h *history) text(e historyEntry) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	text, err := h.readText(e.Revision)
	if err == nil && text == nil {
		err = errDamaged
	}
	if err != nil {
		return nil, fmt.Errorf("revision %.12s: %w", e.Revision, err)
	}
	return text, nil
}

// prune forgets the oldest entries beyond those that are kept, and the texts that no entry names.
func (h *history) prune() error {
	for len(h.entries) > historyKept {
		if err := os.Remove(h.path(numbered(h.entries[0].number) + entrySuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		h.entries = slices.Delete(h.entries, 0, 1)
	}
	if len(h.damaged) > 0 {
		return nil // they may name a text
	}
	names, err := os.ReadDir(h.dir)
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, e := range h.entries {
		used[e.Revision] = true
	}
	if h.pending != nil {
		used[h.pending.Revision] = true
	}
	for _, n := range names {
		if revision, ok := strings.CutSuffix(n.Name(), textSuffix); ok && !used[revision] {
			if err := os.Remove(h.path(n.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// list gives all entries, the newest first.
func (h *history) list() []historyEntry {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := slices.Clone(h.entries)
	slices.Reverse(out)
	return out
}

// find gives the newest entry of a revision, which is named by its first digits.
func (h *history) find(revision string) (historyEntry, error) {
	var found []historyEntry
	for _, e := range h.list() {
		if e.Revision == revision || len(revision) >= shortRevision && strings.HasPrefix(e.Revision, revision) {
			found = append(found, e)
		}
	}
	if len(found) == 0 {
		return historyEntry{}, errNoRevision
	}
	if slices.ContainsFunc(found, func(e historyEntry) bool { return e.Revision != found[0].Revision }) {
		return historyEntry{}, errAmbiguous
	}
	return found[0], nil
}

// before gives the entry before the one of a revision; if that has none, the newest.
func (h *history) before(revision string) (historyEntry, error) {
	list := h.list()
	if i := slices.IndexFunc(list, func(e historyEntry) bool { return e.Revision == revision }); i >= 0 {
		list = list[i+1:]
	}
	if i := slices.IndexFunc(list, func(e historyEntry) bool { return e.Revision != revision }); i >= 0 {
		return list[i], nil
	}
	return historyEntry{}, errNoEarlier
}
