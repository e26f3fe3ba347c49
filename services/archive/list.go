package archive

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// position is a message in the order in which archives are listed: days newest first, then the undated; within a day
// by name, largest first, which for ids of ours is newest first; then by instance.
type position struct {
	day  string
	name string // of its first record, without the ending; "": behind all of the day
	inst string
}

// start is before everything.
var start = position{day: "~"}

// after says that p comes after q.
func (p position) after(q position) bool {
	if p.day != q.day {
		return q.day != undated && (p.day == undated || p.day < q.day)
	}
	if c := cmp.Compare(q.name, p.name); c != 0 {
		return c > 0
	}
	return p.inst > q.inst
}

const tokenVersion = "1"

// token is a position as a caller keeps it.
func (p position) token() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join([]string{tokenVersion, p.day, p.name, p.inst}, "\x00")))
}

var errToken = errors.New("page_token: not one of ours")

// parseToken reads a position; what is in it names no file.
func parseToken(s string) (position, error) {
	if len(s) > 4096 {
		return position{}, errToken
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return position{}, errToken
	}
	parts := strings.Split(string(b), "\x00")
	if len(parts) != 4 || parts[0] != tokenVersion || parts[1] == "" {
		return position{}, errToken
	}
	return position{day: parts[1], name: parts[2], inst: parts[3]}, nil
}

// archived is a message in a folder, before its records are read.
type archived struct {
	position
	files []string // names of its records in their folder
	dir   string   // of records, relative to the archive
}

// shortlist gathers the first so many messages of a day that come after a position, of any number of archives.
type shortlist struct {
	from position
	size int

	kept map[position]*archived
	last []position // the keys of kept, as a heap: the one that comes last is on top
}

func newShortlist(from position, size int) *shortlist {
	return &shortlist{from: from, size: size, kept: make(map[position]*archived, size)}
}

// add takes a record file.
func (w *shortlist) add(p position, dir, file string) {
	if !p.after(w.from) {
		return
	}
	if a, ok := w.kept[p]; ok {
		a.files = append(a.files, file)
		return
	}
	if len(w.last) == w.size {
		if !w.last[0].after(p) {
			return
		}
		delete(w.kept, w.last[0])
		w.last[0] = p
		w.down()
	} else {
		w.last = append(w.last, p)
		w.up()
	}
	w.kept[p] = &archived{position: p, files: []string{file}, dir: dir}
}

func (w *shortlist) up() {
	for i := len(w.last) - 1; i > 0; {
		parent := (i - 1) / 2
		if !w.last[i].after(w.last[parent]) {
			return
		}
		w.last[i], w.last[parent] = w.last[parent], w.last[i]
		i = parent
	}
}

func (w *shortlist) down() {
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(w.last) {
			return
		}
		if child+1 < len(w.last) && w.last[child+1].after(w.last[child]) {
			child++
		}
		if !w.last[child].after(w.last[i]) {
			return
		}
		w.last[i], w.last[child] = w.last[child], w.last[i]
		i = child
	}
}

// sorted is what was gathered, the first one first.
func (w *shortlist) sorted() []*archived {
	out := make([]*archived, 0, len(w.kept))
	for _, a := range w.kept {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b *archived) int {
		if b.after(a.position) {
			return -1
		}
		return 1
	})
	return out
}

// readNames is how many names of a folder are read at once.
const readNames = 1024

// gather puts the messages of a day into w. It reads names alone.
func (a *Archive) gather(ctx context.Context, day, inst string, w *shortlist) error {
	root := path.Join(day, "records")
	folders, err := a.names(root)
	if err != nil {
		return err
	}
	for _, f := range folders {
		if err := ctx.Err(); err != nil {
			return err
		}
		dir := path.Join(root, f)
		err := a.eachName(dir, func(file string) error {
			if name, ok := strings.CutSuffix(file, recordExt); ok && file[0] != '.' {
				name, _, _ = strings.Cut(name, ".")
				w.add(position{day: day, name: name, inst: inst}, dir, file)
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *Archive) names(dir string) (out []string, err error) {
	err = a.eachName(dir, func(name string) error { out = append(out, name); return nil })
	return out, err
}

// eachName gives the names in a folder, a few at a time. A folder that is gone has none: days are removed as a whole.
func (a *Archive) eachName(dir string, do func(string) error) error {
	f, err := os.Open(filepath.Join(a.root, filepath.FromSlash(dir)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(readNames)
		for _, n := range names {
			if err := do(n); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// load reads the records of a message that was found by name. The error is ErrDamaged where none can be read, with an
// Entry that names them nevertheless, and ErrNotFound where it is gone meanwhile.
func (a *Archive) load(m *archived) (*Entry, error) {
	var files recordFiles
	id := ""
	slices.Sort(m.files)
	for _, name := range m.files {
		rel := path.Join(m.dir, name)
		r, err := readRecord(filepath.Join(a.root, filepath.FromSlash(rel)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil || idName(string(r.ID)) != m.name || id != "" && string(r.ID) != id:
			files.damaged = append(files.damaged, rel)
		default:
			id = string(r.ID)
			files.records = append(files.records, r)
		}
	}
	if len(files.records) == 0 && len(files.damaged) == 0 {
		return nil, ErrNotFound
	}
	files.sort()
	e, err := files.entry(a.root, m.day, id)
	if err != nil {
		return &Entry{ID: m.name, Damaged: files.damaged}, fmt.Errorf("archive: %w", err)
	}
	return e, nil
}
