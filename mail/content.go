package mail

import (
	"fmt"
	"io"
)

// InlineLimit is the size in bytes up to which a Content lives in one contiguous buffer; above it, in an
// unlinked temporary file with a piece table.
const InlineLimit = 1 << 20

// Content is the bytes of one message, header and body, with the line ends as they came in. It is immutable and
// safe for concurrent use. Hops in one process share it.
//
// Contents are counted: whoever makes one (a Spool, Apply) owns it and calls Release when done; who keeps one
// beyond the call that brought it calls Retain first. After the last Release the temporary file is closed.
// Forgetting a Release costs disk space until the garbage collector finds the file, never correctness.
type Content interface {
	io.ReaderAt
	io.WriterTo
	// Size is the length in bytes.
	Size() int64
	// Header is the header section, parsed once and shared. A message without a header section has an empty one.
	Header() *Header
	// Retain adds an owner and returns the Content itself.
	Retain() Content
	// Release removes an owner.
	Release()
}

// FromBytes makes a Content of b, which it takes over: nobody may change b afterwards.
func FromBytes(b []byte) Content { return &buffer{b: b} }

// NewReader reads c from the start. It does not add an owner.
func NewReader(c Content) *io.SectionReader { return io.NewSectionReader(c, 0, c.Size()) }

// ReadAll gives the bytes of c. They are c's own where it holds them in one buffer, and must not be changed. It is
// meant for small contents: a large one is read into memory whole.
func ReadAll(c Content) ([]byte, error) {
	if m, ok := c.(*buffer); ok {
		return m.b, nil
	}
	b := make([]byte, c.Size())
	if err := readFull(c, b, 0); err != nil {
		return nil, fmt.Errorf("read content: %w", err)
	}
	return b, nil
}

// readFull reads len(b) bytes at off. It does not take fewer bytes, nor an io.EOF with all of them, for what they are not.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// buffer is a Content in one piece of memory. There is nothing to close, so its owners are not counted.
type buffer struct {
	b      []byte
	header lazyHeader
}

func (m *buffer) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read content: negative offset %d", off)
	}
	if off >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *buffer) WriteTo(w io.Writer) (int64, error) {
	if len(m.b) == 0 {
		return 0, nil
	}
	n, err := w.Write(m.b)
	if err == nil && n < len(m.b) {
		err = io.ErrShortWrite
	}
	return int64(n), err
}

func (m *buffer) Size() int64     { return int64(len(m.b)) }
func (m *buffer) Header() *Header { return m.header.of(m) }
func (m *buffer) Retain() Content { return m }
func (m *buffer) Release()        {}
