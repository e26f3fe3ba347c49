package mail

import "iter"

// Span is the range of bytes [Start, End) of a message.
type Span struct{ Start, End int64 }

// Part is one entity of a message (RFC 2045, section 2.4) with its place in it. The root is the message itself.
type Part struct {
	// Offset is where the header begins, Body where the body begins, End where the body ends; all in the message.
	// The line end before a delimiter belongs to the delimiter (RFC 2046, section 5.1.1).
	Offset, Body, End int64
	// Header of the part; the offsets of its fields are in the message, its Size is Body - Offset unless a limit
	// ended it.
	Header *Header
	// MediaType is in lower case, "text/plain" if there is no Content-Type, or one that cannot be read. In a
	// multipart/digest the default is "message/rfc822".
	MediaType string
	// Params are those of the Content-Type, names in lower case, values decoded (RFC 2231).
	Params map[string]string
	// Encoding is the Content-Transfer-Encoding in lower case, "7bit" if there is none.
	Encoding string
	// Disposition is the Content-Disposition in lower case (RFC 2183), or "".
	Disposition       string
	DispositionParams map[string]string
	// Children are the parts of a multipart, or the message in a message/rfc822.
	Children []*Part
	// Delimiters of a multipart, each with the line end before it and its own. Between them are the children; before
	// the first is the preamble, after the terminating one the epilogue.
	Delimiters []Span
	// Terminated says that the last of the Delimiters is the terminating one.
	Terminated bool
	// Defects of this part alone, each kind once.
	Defects []Defect

	names       []string // what Filenames chooses from
	oddBoundary bool     // the boundary parameter is in an RFC 2231 form, or among parameters that are hard to read
}

// All gives the part and everything below it, in the order of the message.
func (p *Part) All() iter.Seq[*Part] {
	return func(yield func(*Part) bool) { p.each(yield) }
}

func (p *Part) each(yield func(*Part) bool) bool {
	if !yield(p) {
		return false
	}
	for _, c := range p.Children {
		if !c.each(yield) {
			return false
		}
	}
	return true
}

// Ambiguity gives the first defect, of the part or of what is below it, that lets two readers see different things.
func (p *Part) Ambiguity() (Defect, bool) {
	for q := range p.All() {
		for _, d := range q.Defects {
			if d.Kind.Ambiguous() {
				return d, true
			}
		}
	}
	return Defect{}, false
}

// IsMultipart says that the part is a multipart, whether or not its parts could be found.
func (p *Part) IsMultipart() bool { return hasPrefix(p.MediaType, "multipart/") }

// IsMessage says that the part holds a message (RFC 2046, section 5.2.1; RFC 6532, section 3.7).
func (p *Part) IsMessage() bool {
	return p.MediaType == "message/rfc822" || p.MediaType == "message/global"
}

func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }
