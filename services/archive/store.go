package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/stagecoachmail/stagecoach/mail"
)

const (
	// staleAfter is the age at which a temporary file is taken for the residue of a crash. Another process, or a
	// previous configuration of this one, may be writing in the same folder: a younger file may be theirs.
	staleAfter = time.Hour
	// maxKnown bounds the folders that are remembered as durable.
	maxKnown = 4096
)

// store writes the archive.
type store struct {
	root string
	disk disk
	now  func() time.Time
	// encoders is both the pool of compressors and the bound on how many run.
	encoders chan *zstd.Encoder

	mu    sync.Mutex
	known map[string]bool // folders whose own name this process has made durable
	swept time.Time
}

// kept is what Put has done.
type kept struct {
	SHA256 string
	// Again: everything was there already. Further: other forms of this message were.
	Again, Further bool
}

func newStore(dir string, d disk, now func() time.Time, encoders int) (*store, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// What is above the archive's folder belongs to the operator; it is made, but not made durable, here.
	if err := os.MkdirAll(filepath.Dir(root), 0o700); err != nil {
		return nil, fmt.Errorf("archive folder: %w", err)
	}
	s := &store{root: root, disk: d, now: now, encoders: make(chan *zstd.Encoder, encoders)}
	if err := s.ensureDir(tmpDir); err != nil {
		return nil, fmt.Errorf("archive folder: %w", err)
	}
	for range encoders {
		enc, err := newEncoder()
		if err != nil {
			return nil, err
		}
		s.encoders <- enc
	}
	s.sweep()
	return s, nil
}

// Close frees the encoders. No Put may be running.
func (s *store) Close() error {
	var errs []error
	for range cap(s.encoders) {
		errs = append(errs, (<-s.encoders).Close())
	}
	return errors.Join(errs...)
}

// Put keeps m. When it returns without error, the blob and the record of m are on stable storage.
func (s *store) Put(ctx context.Context, m *mail.Message) (kept, error) {
	s.sweep()
	sum, err := sumOf(ctx, mail.NewReader(m.Content))
	if err != nil {
		return kept{}, fmt.Errorf("reading the message: %w", err)
	}
	day := dayOf(m.Received)
	r := newRecord(m, sum, m.Content.Size(), s.now())
	k := kept{SHA256: sum}
	if err := s.putBlob(ctx, blobName(day, sum), sum, m.Content); err != nil {
		s.forget()
		return k, fmt.Errorf("blob: %w", err)
	}
	if err := s.putRecord(ctx, day, &r, &k); err != nil {
		s.forget()
		return k, fmt.Errorf("record: %w", err)
	}
	return k, nil
}

// putBlob makes the blob durable: first of all, because the record refers to it.
func (s *store) putBlob(ctx context.Context, name, sum string, c mail.Content) error {
	if err := s.ensureDir(path.Dir(name)); err != nil {
		return err
	}
	// One that is there is looked at: "archived" is also said of a copy that an earlier attempt made.
	ok, err := intact(ctx, s.path(name), sum, c.Size())
	if err != nil {
		return err
	}
	if !ok {
		err := s.write(name, s.disk.Rename, func(w io.Writer) error { return s.compress(ctx, w, c) })
		if err != nil {
			return err
		}
	}
	// Also for one that was there: whoever renamed it may have died before this.
	return s.disk.SyncDir(s.path(path.Dir(name)))
}

func (s *store) putRecord(ctx context.Context, day string, r *record, k *kept) error {
	dir := recordDir(day, string(r.ID))
	if err := s.ensureDir(dir); err != nil {
		return err
	}
	b, err := r.encode()
	if err != nil {
		return err
	}
	fill := func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
	first := firstRecordName(day, string(r.ID))
	// Twice at most: the second time, the first record of this message has just been made by somebody else.
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		files, err := readRecords(s.root, day, string(r.ID))
		if err != nil {
			return err
		}
		if files.covers(r) {
			k.Again = true
			break
		}
		if len(files.names) == 0 {
			err = s.write(first, s.disk.Link, fill)
			if errors.Is(err, fs.ErrExist) {
				continue
			}
		} else {
			k.Further = true
			var key string
			if key, err = r.key(); err != nil {
				return err
			}
			err = s.write(furtherRecordName(day, string(r.ID), key), s.disk.Rename, fill)
		}
		if err != nil {
			return err
		}
		break
	}
	return s.disk.SyncDir(s.path(dir))
}

// write makes a file with what fill writes, and gives it its name when its bytes are durable.
func (s *store) write(name string, publish func(old, new string) error, fill func(io.Writer) error) error {
	f, err := s.disk.Create(s.path(tmpDir))
	if err != nil {
		return err
	}
	open := true
	defer func() {
		if open {
			_ = f.Close() // only after another error
		}
		// After Rename there is nothing to remove, after Link there is; what stays is swept.
		_ = s.disk.Remove(f.Name())
	}()
	if err := fill(f); err != nil {
		return err
	}
	// A file whose fsync failed is never tried again: the kernel may have dropped its pages and report success.
	if err := f.Sync(); err != nil {
		return err
	}
	open = false
	if err := f.Close(); err != nil {
		return err
	}
	return publish(f.Name(), s.path(name))
}

func (s *store) compress(ctx context.Context, w io.Writer, c mail.Content) error {
	var enc *zstd.Encoder
	select {
	case enc = <-s.encoders:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() {
		enc.Reset(nil) // so that the pool keeps no file
		s.encoders <- enc
	}()
	enc.Reset(w)
	if _, err := io.Copy(enc, patient{ctx, mail.NewReader(c)}); err != nil {
		return errors.Join(err, enc.Close())
	}
	return enc.Close()
}

// ensureDir makes the folder name, below the root, and makes its name and those of the folders above it durable.
func (s *store) ensureDir(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[name] {
		return nil
	}
	var chain []string
	for n := name; n != "."; n = path.Dir(n) {
		chain = append(chain, n)
	}
	chain = append(chain, ".")
	for _, n := range slices.Backward(chain) {
		if s.known[n] {
			continue
		}
		dir := s.path(n)
		if err := s.disk.Mkdir(dir); err != nil {
			return err
		}
		// Not only when it is new: who made it may have died before this.
		if err := s.disk.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
		if s.known == nil || len(s.known) >= maxKnown {
			s.known = make(map[string]bool)
		}
		s.known[n] = true
	}
	return nil
}

// forget makes the next Put look at every folder again: an operator may have moved a day away.
func (s *store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = nil
}

// sweep removes what crashed writers left, at most once in each staleAfter.
func (s *store) sweep() {
	now := s.now()
	s.mu.Lock()
	due := s.swept.IsZero() || now.Sub(s.swept) >= staleAfter
	if due {
		s.swept = now
	}
	s.mu.Unlock()
	if due {
		sweep(s.disk, s.path(tmpDir), now.Add(-staleAfter))
	}
}

func (s *store) path(name string) string { return filepath.Join(s.root, filepath.FromSlash(name)) }
