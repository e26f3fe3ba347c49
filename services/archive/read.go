package archive

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// ErrNotFound says that the archive has no message of that id.
var ErrNotFound = errors.New("not in the archive")

// Archive reads what the stage has kept. It needs no lock and no running stage.
type Archive struct{ root string }

// Open opens the archive in a folder.
func Open(dir string) (*Archive, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(root, tmpDir)); err != nil {
		return nil, fmt.Errorf("no archive: %w", err)
	}
	return &Archive{root: root}, nil
}

// Entry is one message of the archive.
type Entry struct {
	ID       string
	Received time.Time
	// Versions are the forms in which the message passed, oldest first: more than one where several chains, or a
	// new configuration between two attempts, gave it other bytes or another envelope.
	Versions []Version
	// Damaged are the record files of this message that could not be read, relative to the archive's folder.
	Damaged []string
}

// Version is one form of a message.
type Version struct {
	// Archived is when it was first kept.
	Archived time.Time
	// Envelope is the whole one, with every recipient.
	Envelope mail.Envelope
	// Recipients are those that this form was on its way to, sorted.
	Recipients []mail.RecipientID
	// SHA256 of the message, in hexadecimal, and its Size in bytes.
	SHA256 string
	Size   int64

	blob string
}

// Open gives the bytes of the message. The last Read returns ErrDamaged instead of io.EOF where they are not those
// that were archived: nothing is known of them before that. The caller closes it.
func (v *Version) Open() (io.ReadCloser, error) {
	r, err := openBlob(v.blob, v.SHA256, v.Size)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	return r, nil
}

// Get finds a message by its id: the one that stood in the 250. It looks into one folder for each day, newest first.
// The error is ErrNotFound where there is none, and ErrDamaged where none of its records can be read.
func (a *Archive) Get(id string) (*Entry, error) {
	for day, err := range a.days() {
		if err != nil {
			return nil, fmt.Errorf("archive: %w", err)
		}
		// The first record has a name that needs no reading of the folder. It may be the damaged one, never the
		// missing one.
		_, err := os.Lstat(filepath.Join(a.root, filepath.FromSlash(firstRecordName(day, id))))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("archive: %w", err)
		}
		files, err := readRecords(a.root, day, id)
		if err != nil {
			return nil, fmt.Errorf("archive: %w", err)
		}
		return files.entry(a.root, day, id)
	}
	return nil, fmt.Errorf("archive: message %q: %w", id, ErrNotFound)
}

// days are the folders of days, newest first, then that of the undated.
func (a *Archive) days() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		years, err := a.numbered(".", 4)
		if err != nil {
			yield("", err)
			return
		}
		for _, y := range years {
			months, err := a.numbered(y, 2)
			if err != nil {
				yield("", err)
				return
			}
			for _, m := range months {
				days, err := a.numbered(m, 2)
				if err != nil {
					yield("", err)
					return
				}
				for _, d := range days {
					if !yield(d, nil) {
						return
					}
				}
			}
		}
		yield(undated, nil)
	}
}

// numbered lists the folders in dir whose names are numbers of that many digits, largest first.
func (a *Archive) numbered(dir string, digits int) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(a.root, filepath.FromSlash(dir)))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if n := e.Name(); e.IsDir() && len(n) == digits && strings.Trim(n, "0123456789") == "" {
			out = append(out, path.Join(dir, n))
		}
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out, nil
}

// recordFiles are the records of one message.
type recordFiles struct {
	names   []string
	records []*record
	damaged []string
}

// readRecords reads every record of a message in a day's folder. A record that cannot be made sense of is no error
// here: it must not keep a message from being archived again, beside it.
func readRecords(root, day, id string) (recordFiles, error) {
	var out recordFiles
	dir := recordDir(day, id)
	entries, err := os.ReadDir(filepath.Join(root, filepath.FromSlash(dir)))
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	for _, e := range entries {
		if !isRecordOf(e.Name(), id) {
			continue
		}
		name := path.Join(dir, e.Name())
		out.names = append(out.names, name)
		r, err := readRecord(filepath.Join(root, filepath.FromSlash(name)))
		if err != nil || string(r.ID) != id {
			out.damaged = append(out.damaged, name)
			continue
		}
		out.records = append(out.records, r)
	}
	out.sort()
	return out, nil
}

// sort puts the oldest record first.
func (f *recordFiles) sort() {
	slices.SortStableFunc(f.records, func(a, b *record) int {
		return cmp.Or(a.Archived.Compare(b.Archived), cmp.Compare(a.SHA256, b.SHA256))
	})
}

func readRecord(name string) (*record, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, err
	}
	return parseRecord(b)
}

// covers says that everything r says is on record.
func (f *recordFiles) covers(r *record) bool {
	on := make(map[text]bool)
	found := false
	for _, o := range f.records {
		if o.same(r) {
			found = true
			for _, id := range o.Recipients {
				on[id] = true
			}
		}
	}
	return found && !slices.ContainsFunc(r.Recipients, func(id text) bool { return !on[id] })
}

// entry puts the records of one form together: a message that passed once for each of two chains is in the archive
// once.
func (f *recordFiles) entry(root, day, id string) (*Entry, error) {
	if len(f.records) == 0 {
		return nil, fmt.Errorf("archive: message %q: %w", id, ErrDamaged)
	}
	e := &Entry{ID: id, Received: f.records[0].Received, Damaged: f.damaged}
	var forms []*record
	for _, r := range f.records {
		i := slices.IndexFunc(forms, r.same)
		if i < 0 {
			forms = append(forms, r)
			e.Versions = append(e.Versions, Version{
				Archived: r.Archived,
				Envelope: r.Envelope.mail(),
				SHA256:   r.SHA256,
				Size:     r.Size,
				blob:     filepath.Join(root, filepath.FromSlash(blobName(day, r.SHA256))),
			})
			i = len(forms) - 1
		}
		v := &e.Versions[i]
		for _, id := range r.Recipients {
			v.Recipients = append(v.Recipients, mail.RecipientID(id))
		}
	}
	for i := range e.Versions {
		v := &e.Versions[i]
		slices.Sort(v.Recipients)
		v.Recipients = slices.Compact(v.Recipients)
	}
	return e, nil
}
