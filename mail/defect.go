package mail

// DefectKind is a way in which a message is not what the RFCs say.
type DefectKind string

// The defects that Walk notes.
const (
	// The header section.
	DefectHeaderEnd    DefectKind = "header-end"    // a line that is no field ends the section
	DefectHeaderLimit  DefectKind = "header-limit"  // MaxHeaderSize, MaxHeaderFields, or the budget of all parts
	DefectHeaderName   DefectKind = "header-name"   // empty, or with a space or another character that is not allowed
	DefectHeaderByte   DefectKind = "header-byte"   // NUL, bare CR, another control character
	DefectHeader8Bit   DefectKind = "header-8bit"   // not ASCII; legal only with SMTPUTF8 (RFC 6532)
	DefectHeaderFold   DefectKind = "header-fold"   // a folded line with nothing but white space, which some take for the end, before a Content field
	DefectHeaderRepeat DefectKind = "header-repeat" // a second Content-Type, Content-Transfer-Encoding or Content-Disposition that says something else
	// Content-Type and its like.
	DefectMediaType       DefectKind = "media-type"       // cannot be read; taken for text/plain
	DefectParam           DefectKind = "param"            // cannot be read
	DefectParamRepeat     DefectKind = "param-repeat"     // two boundaries or file names in one field
	DefectUnknownEncoding DefectKind = "unknown-encoding" // a transfer encoding that nobody defined; the bytes are taken as they are
	DefectOddEncoding     DefectKind = "odd-encoding"     // one that some may take for base64 or the like, and others not
	DefectEncodedEntity   DefectKind = "encoded-entity"   // a multipart or message/rfc822 in base64, quoted-printable, …
	// Boundaries.
	DefectNoBoundary       DefectKind = "no-boundary"       // a multipart without a usable boundary parameter
	DefectBadBoundary      DefectKind = "bad-boundary"      // longer than 70 characters, or with characters that are not allowed
	DefectBoundaryReuse    DefectKind = "boundary-reuse"    // the boundary of an enclosing multipart, or one that begins with it or the other way round
	DefectBoundaryLike     DefectKind = "boundary-like"     // a line that begins as a delimiter and goes on
	DefectNoParts          DefectKind = "no-parts"          // a multipart with a body and without a single delimiter
	DefectUnterminated     DefectKind = "unterminated"      // a multipart without its terminating delimiter
	DefectAfterTermination DefectKind = "after-termination" // a delimiter after the terminating one
	DefectBareCR           DefectKind = "bare-cr"           // a delimiter after a CR that is no line end, which some take for one
	// Limits.
	DefectDepth DefectKind = "depth" // nested deeper than MaxDepth; what is below is not looked at
	DefectParts DefectKind = "parts" // more than MaxParts; the rest is not looked at
)

// Defect is one of them, with its place.
type Defect struct {
	Kind DefectKind
	// Offset is where it was noticed, in the message.
	Offset int64
}

// Ambiguous says that two readers of the message may see different parts or contents, one of which was not scanned.
// The other defects are bad style.
func (k DefectKind) Ambiguous() bool {
	switch k {
	case DefectHeader8Bit, DefectMediaType, DefectParam, DefectUnknownEncoding, DefectUnterminated:
		return false
	}
	return true
}

// flag notes a defect once for each part.
func (p *Part) flag(kind DefectKind, offset int64) {
	for _, d := range p.Defects {
		if d.Kind == kind {
			return
		}
	}
	p.Defects = append(p.Defects, Defect{Kind: kind, Offset: offset})
}
