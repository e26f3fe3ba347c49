package antivirus

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

const (
	// maxZIPFiles bounds the files in one archive.
	maxZIPFiles = 10_000
	// maxRatio bounds how many times larger than its packed form a file may be, from minRatioSize bytes on. Tables
	// and logs come to 50; deflate cannot do more than 1032.
	maxRatio     = 250
	minRatioSize = 8 << 20
)

var (
	zipExts  = []string{".zip", ".zipx", ".jar"}
	zipTypes = []string{"application/zip", "application/x-zip", "application/x-zip-compressed", "application/x-compressed-zip"}
)

const localMagic = "PK\x03\x04"

func isZIP(head []byte) bool {
	return hasAnyPrefix(head, localMagic, "PK\x05\x06", "PK\x07\x08", "PK00PK\x03\x04")
}

// zip examines an archive: the names in it, and the files.
func (x *exam) zip(c mail.Content, where string) error {
	if x.depth >= maxNesting {
		x.find(unscannable, "unscannable: archives within archives")
		return nil
	}
	src := &faultReader{ctx: x.ctx, c: c}
	r, err := zip.NewReader(src, c.Size())
	if src.err != nil {
		return src.err
	}
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		x.find(unscannable, "unscannable: %s is an archive that cannot be read", where)
		return nil
	}
	if len(r.File) > maxZIPFiles {
		x.find(unscannable, "unscannable: an archive of %d files", len(r.File))
		return nil
	}
	for _, f := range r.File {
		if !strings.HasSuffix(f.Name, "/") {
			x.name(f.Name, "a file in an archive")
		}
	}
	ok, err := accountedFor(src, r.File)
	switch {
	case src.err != nil:
		return src.err
	case err != nil:
		return err
	case !ok:
		x.find(unscannable, "unscannable: an archive with files that its directory does not name")
	}
	y := *x
	y.depth++
	for _, f := range r.File {
		if y.done() {
			return nil
		}
		if y.left.files <= 0 {
			y.tooManyFiles()
			return nil
		}
		if err := y.zipFile(f, src); err != nil {
			return err
		}
	}
	return nil
}

func (x *exam) zipFile(f *zip.File, src *faultReader) error {
	const encrypted = 1
	switch {
	case f.Flags&encrypted != 0:
		x.find(unscannable, "unscannable: an encrypted file in an archive")
		return nil
	case f.Method != zip.Store && f.Method != zip.Deflate:
		x.find(unscannable, "unscannable: a file in an archive, packed in the way %d", f.Method)
		return nil
	}
	r, err := f.Open()
	if err == nil {
		defer r.Close()
		out := x.newFile("a file in an archive", []string{f.Name})
		limit := int64(minRatioSize)
		if f.CompressedSize64 > minRatioSize/maxRatio {
			limit = int64(min(f.CompressedSize64, 1<<40)) * maxRatio
		}
		counted := &countedReader{r: patient{x.ctx, r}, left: limit}
		err = x.fill(out, counted)
		if counted.left < 0 {
			x.find(unscannable, "unscannable: a file in an archive, packed more than %d times", maxRatio)
			return nil
		}
	}
	switch {
	case src.err != nil:
		return src.err
	case context.Cause(x.ctx) != nil:
		return context.Cause(x.ctx)
	case isZIPError(err):
		x.find(unscannable, "unscannable: a file in an archive cannot be unpacked")
		return nil
	}
	return err
}

var errRatio = errors.New("packed too well")

// countedReader ends with errRatio after left bytes.
type countedReader struct {
	r    io.Reader
	left int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.left -= int64(n); c.left < 0 {
		return 0, errRatio
	}
	return n, wrapUnpack(err)
}

// unpackError is what the archive's own bytes are to blame for.
type unpackError struct{ err error }

func (e *unpackError) Error() string { return e.err.Error() }
func (e *unpackError) Unwrap() error { return e.err }

func wrapUnpack(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &unpackError{err}
}

func isZIPError(err error) bool {
	var u *unpackError
	return errors.As(err, &u) || errors.Is(err, zip.ErrFormat) || errors.Is(err, zip.ErrAlgorithm) || errors.Is(err, zip.ErrChecksum) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// faultReader remembers that the content could not be read: package zip does not tell it apart from a bad archive.
type faultReader struct {
	ctx context.Context
	c   mail.Content
	err error
}

func (f *faultReader) ReadAt(p []byte, off int64) (int, error) {
	if err := context.Cause(f.ctx); err != nil {
		f.err = err
		return 0, err
	}
	n, err := f.c.ReadAt(p, off)
	if err != nil && err != io.EOF {
		f.err = fmt.Errorf("reading the archive: %w", err)
	}
	return n, err
}

// accountedFor says that the file at the very beginning of an archive is one that its directory names, by the same
// name. Where it is not, some unpack the one, some the other: two archives in one, or a directory that was exchanged.
func accountedFor(c io.ReaderAt, files []*zip.File) (bool, error) {
	var h [30]byte
	if n, err := c.ReadAt(h[:], 0); n < len(h) {
		if err == io.EOF {
			err = nil
		}
		return true, err // no room for a file
	}
	if !bytes.HasPrefix(h[:], []byte(localMagic)) {
		return true, nil
	}
	nameSize := int64(binary.LittleEndian.Uint16(h[26:]))
	extraSize := int64(binary.LittleEndian.Uint16(h[28:]))
	name := make([]byte, nameSize)
	if n, err := c.ReadAt(name, int64(len(h))); n < len(name) {
		if err == io.EOF {
			err = nil
		}
		return false, err
	}
	for _, f := range files {
		if at, err := f.DataOffset(); err == nil && at == int64(len(h))+nameSize+extraSize {
			return f.Name == string(name), nil
		}
	}
	return false, nil
}
