package mail

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// fileBuffer is how much a Builder gathers before it writes to its file.
const fileBuffer = 128 << 10

// Builder makes a Content of what is written to it: in memory up to InlineLimit, then in a temporary file that has
// no name any more, so that nothing is left behind when the process ends, however it ends. It is not safe for
// concurrent use. End it with Content or Discard.
type Builder struct {
	dir  string
	buf  []byte // the message, or once there is a file, what is not yet written to it
	file *os.File
	size int64
	err  error
}

var errBuilderDone = errors.New("build content: the builder has ended")

// NewBuilder makes a Builder with its files in tempDir ("" is the system's own).
func NewBuilder(tempDir string) *Builder { return &Builder{dir: tempDir} }

// Grow tells how many bytes will come, as far as that is known (SIZE of RFC 1870); it may be wrong.
func (b *Builder) Grow(size int64) {
	if b.err == nil && b.file == nil && size <= InlineLimit && size > int64(cap(b.buf)) {
		b.buf = append(make([]byte, 0, size), b.buf...)
	}
}

// Size is the number of bytes written.
func (b *Builder) Size() int64 { return b.size }

// Write appends p. After an error every further call gives the same one.
func (b *Builder) Write(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.file == nil && b.size+int64(len(p)) > InlineLimit {
		if b.err = b.open(); b.err != nil {
			return 0, b.err
		}
	}
	if b.file != nil && len(b.buf)+len(p) > fileBuffer {
		if b.err = b.flush(p); b.err != nil {
			return 0, b.err
		}
	} else {
		b.buf = append(b.buf, p...)
	}
	b.size += int64(len(p))
	return len(p), nil
}

// Content ends the builder and gives what was written, owned by the caller. After an error it gives that error, and
// nothing remains.
func (b *Builder) Content() (Content, error) {
	if b.err != nil {
		err := b.err
		b.end()
		return nil, err
	}
	if b.file == nil {
		c := FromBytes(b.buf)
		b.end()
		return c, nil
	}
	if err := b.flush(nil); err != nil {
		b.end()
		return nil, err
	}
	f := &tempFile{File: b.file}
	f.owners.Store(1)
	b.file = nil
	c := newPieces([]piece{{length: b.size}}, b.size, f)
	b.end()
	return c, nil
}

// Discard ends the builder and gives up what was written. After Content it does nothing, so it may be deferred.
func (b *Builder) Discard() { b.end() }

func (b *Builder) end() {
	if b.file != nil {
		_ = b.file.Close()
		b.file = nil
	}
	b.buf = nil
	if b.err == nil {
		b.err = errBuilderDone
	}
}

func (b *Builder) open() error {
	f, err := os.CreateTemp(b.dir, "stagecoach-*")
	if err != nil {
		return fmt.Errorf("build content: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return fmt.Errorf("build content: %w", err)
	}
	b.file = f
	return nil
}

// flush writes what is gathered, and p.
func (b *Builder) flush(p []byte) error {
	for _, q := range [][]byte{b.buf, p} {
		if len(q) == 0 {
			continue
		}
		n, err := b.file.Write(q)
		if err == nil && n < len(q) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("build content: %w", err)
		}
	}
	if cap(b.buf) > 2*fileBuffer {
		b.buf = make([]byte, 0, fileBuffer)
	}
	b.buf = b.buf[:0]
	return nil
}
