package mail

import "io"

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
