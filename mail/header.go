package mail

import (
	"bytes"
	"strings"
	"sync"
	"sync/atomic"
)

// The limits of one header section. What is beyond them is not parsed (the section has EndLimit); it stays in the
// message as it is.
const (
	MaxHeaderSize   = 1 << 20
	MaxHeaderFields = 10_000
)

// HeaderEnd says what ended a header section.
type HeaderEnd int

const (
	// EndEmptyLine is the proper end: the empty line belongs to the section.
	EndEmptyLine HeaderEnd = iota
	// EndNoField: a line that is no field, where the body begins.
	EndNoField
	// EndOfMessage: the message (or part) has no body at all.
	EndOfMessage
	// EndLimit: MaxHeaderSize or MaxHeaderFields was reached. Size is where the last whole field ends; it is not known
	// where the body begins.
	EndLimit
	// EndUnreadable: the content could not be read; Header.Err says why. Never a property of the message.
	EndUnreadable
)

// Header is the header section of a message, byte-exact (RFC 5322, section 2.2). Lines end with CRLF or LF. It is
// shared: nobody may change it.
type Header struct {
	// Fields are in the order of the message. What is no field (a line without a colon) ends the section.
	Fields []Field
	// Size is the length in bytes of the section with the empty line that ends it; it is where the body begins.
	Size int64
	// End says what ended the section.
	End HeaderEnd
	// Err is why the content could not be read: an error, never a verdict. It is nil unless End is EndUnreadable.
	Err error
}

// Field is one header field with its place in the message.
type Field struct {
	// Name as written, without the colon and without white space before it (RFC 5322, section 4.5).
	Name string
	// Raw is the whole field as it stands: name, colon, folded value, line end.
	Raw []byte
	// Offset is where Raw begins in the message.
	Offset int64
}

// Value is what stands after the colon, unfolded (RFC 5322, section 2.2.3) and without white space around it. Encoded
// words are not decoded.
func (f Field) Value() string {
	_, v, _ := bytes.Cut(f.Raw, []byte{':'})
	if bytes.IndexByte(v, '\n') < 0 {
		return string(bytes.Trim(v, " \t"))
	}
	var b strings.Builder
	b.Grow(len(v))
	for line := range bytes.Lines(v) {
		b.Write(trimLineEnd(line))
	}
	return strings.Trim(b.String(), " \t")
}

// Find gives the fields of that name, without regard to case, in the order of the message.
func (h *Header) Find(name string) []Field {
	var found []Field
	for _, f := range h.Fields {
		if strings.EqualFold(f.Name, name) {
			found = append(found, f)
		}
	}
	return found
}

// Get gives the value of the first field of that name, or "".
func (h *Header) Get(name string) string {
	for _, f := range h.Fields {
		if strings.EqualFold(f.Name, name) {
			return f.Value()
		}
	}
	return ""
}

// Values gives the values of all fields of that name, in the order of the message.
func (h *Header) Values(name string) []string {
	var values []string
	for _, f := range h.Fields {
		if strings.EqualFold(f.Name, name) {
			values = append(values, f.Value())
		}
	}
	return values
}

// lazyHeader parses the header of a content once. What could not be read is tried again.
type lazyHeader struct {
	mu     sync.Mutex
	parsed atomic.Pointer[Header]
}

func (l *lazyHeader) of(c Content) *Header {
	if h := l.parsed.Load(); h != nil {
		return h
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.parsed.Load(); h != nil {
		return h
	}
	h := readHeader(c)
	if h.End != EndUnreadable {
		l.parsed.Store(h)
	}
	return h
}

// readHeader reads as much of c as its header section needs.
func readHeader(c Content) *Header {
	if m, ok := c.(*buffer); ok {
		return parseHeader(m.b, 0, wholeHeader, true)
	}
	size := c.Size()
	for n := int64(16 << 10); ; n *= 4 {
		n = min(n, size, headerRead(MaxHeaderSize))
		b := make([]byte, n)
		if err := readFull(c, b, 0); err != nil {
			return &Header{End: EndUnreadable, Err: err}
		}
		whole := n == size || n > MaxHeaderSize // beyond the limit, the rest does not matter
		h := parseHeader(b, 0, wholeHeader, whole)
		if h != nil {
			return h
		}
	}
}

// lineKind is what a line is in a header section.
type lineKind int

const (
	lineEmpty lineKind = iota
	lineField
	lineFolded // goes on with the field before it
	lineOther  // no field: the body
)

// kindOf tells what a line is in a header section; field says that a field precedes it. The first maxLine bytes of
// the line decide, so that a reader with a bounded buffer comes to the same answer as one with the whole message.
func kindOf(line []byte, field bool) lineKind {
	switch {
	case len(trimLineEnd(line)) == 0:
		return lineEmpty
	case line[0] == ' ' || line[0] == '\t':
		if field {
			return lineFolded
		}
		return lineOther
	case bytes.IndexByte(line[:min(len(line), maxLine)], ':') >= 0:
		return lineField
	}
	return lineOther
}

// headerLimits bound one parse.
type headerLimits struct{ bytes, fields int }

var wholeHeader = headerLimits{MaxHeaderSize, MaxHeaderFields}

// headerRead is how many bytes a parse with that limit can want: the fields, and the CRLF of the empty line.
func headerRead(limit int) int64 { return int64(limit) + 2 }

// parseHeader reads the header section at the start of b; base is the offset of b in the message. If b is not the
// whole message (or more of it than the limit) and does not hold the end of the section, it gives nil.
func parseHeader(b []byte, base int64, limits headerLimits, whole bool) *Header {
	h := &Header{}
	for at := 0; at < len(b); {
		n := bytes.IndexByte(b[at:], '\n') + 1
		if n == 0 {
			if !whole {
				return nil
			}
			n = len(b) - at
		}
		line := b[at : at+n]
		kind := kindOf(line, len(h.Fields) > 0)
		switch kind {
		case lineEmpty:
			h.Size = int64(at + n)
			return h
		case lineOther:
			h.Size, h.End = int64(at), EndNoField
			return h
		case lineField:
			h.Size = int64(at)
			if at+n > limits.bytes || len(h.Fields) == limits.fields {
				h.End = EndLimit
				return h
			}
			name, _, _ := bytes.Cut(line, []byte{':'})
			h.Fields = append(h.Fields, Field{Name: string(bytes.TrimRight(name, " \t")), Offset: base + int64(at)})
		case lineFolded:
			if at+n > limits.bytes {
				// Half a field is worse than none.
				h.Fields, h.End = h.Fields[:len(h.Fields)-1], EndLimit
				return h
			}
		}
		f := &h.Fields[len(h.Fields)-1]
		start := int(f.Offset - base)
		at += n
		f.Raw = b[start:at:at]
	}
	if !whole {
		return nil
	}
	h.Size, h.End = int64(len(b)), EndOfMessage
	return h
}

// trimLineEnd takes a CRLF or LF off. A CR alone is no line end.
func trimLineEnd(line []byte) []byte {
	if !bytes.HasSuffix(line, []byte{'\n'}) {
		return line
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte{'\r'})
}
