package mail

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// describe fills in what the header says about the part, and notes what is wrong with it.
func (p *Part) describe(digest bool) {
	p.MediaType, p.Encoding = "text/plain", "7bit"
	var shown, named []string // the names of Content-Disposition come before those of Content-Type
	if digest {
		p.MediaType = "message/rfc822"
	}
	switch p.Header.End {
	case EndNoField:
		p.flag(DefectHeaderEnd, p.Body)
	case EndLimit:
		p.flag(DefectHeaderLimit, p.Offset+p.Header.Size)
	}
	var seen [fieldCount]string
	fold := int64(-1) // the place of a folded line with nothing in it
	for n, f := range p.Header.Fields {
		p.inspect(f, n == 0)
		if i := blankFold(f.Raw); i > 0 && fold < 0 {
			fold = f.Offset + int64(i)
		}
		i := singular(f.Name)
		if i < 0 {
			continue
		}
		if fold >= 0 {
			p.flag(DefectHeaderFold, fold)
		}
		value := f.Value()
		if seen[i] != "" {
			if seen[i] != value {
				p.flag(DefectHeaderRepeat, f.Offset)
			}
			continue
		}
		seen[i] = value
		switch i {
		case fieldType:
			named = p.contentType(f)
		case fieldEncoding:
			p.transferEncoding(f)
		case fieldDisposition:
			v := parseValue(value)
			p.flagAll(v.defects, f.Offset)
			p.Disposition, p.DispositionParams = strings.ToLower(v.value), v.params
			shown = v.all("filename")
		}
	}
	p.names = append(shown, named...)
	if !isIdentity(p.Encoding) && (p.IsMultipart() || p.IsMessage()) {
		p.flag(DefectEncodedEntity, p.Offset)
	}
}

const (
	fieldType = iota
	fieldEncoding
	fieldDisposition
	fieldCount
)

// singular gives the number of a field that may stand only once because readers differ in which one they take.
func singular(name string) int {
	for i, n := range [...]string{"Content-Type", "Content-Transfer-Encoding", "Content-Disposition"} {
		if strings.EqualFold(n, name) {
			return i
		}
	}
	return -1
}

// inspect looks at the form of a field.
func (p *Part) inspect(f Field, first bool) {
	// A mailbox line is left in many a forwarded message, and everybody knows it.
	if checkName(f.Name) != nil && !(first && strings.HasPrefix(strings.TrimPrefix(f.Name, ">"), "From ")) {
		p.flag(DefectHeaderName, f.Offset)
	}
	for i, c := range f.Raw {
		switch {
		case c >= utf8.RuneSelf:
			p.flag(DefectHeader8Bit, f.Offset)
		case c == '\r' && i+1 < len(f.Raw) && f.Raw[i+1] == '\n':
		case c < ' ' && c != '\t' && c != '\n' || c == 0x7f:
			p.flag(DefectHeaderByte, f.Offset)
		}
	}
}

// blankFold gives where in a field a folded line with nothing but white space is, or 0.
func blankFold(raw []byte) int {
	at := 0
	for l := range bytes.Lines(raw) {
		if at > 0 && len(bytes.Trim(l, " \t\r\n")) == 0 {
			return at
		}
		at += len(l)
	}
	return 0
}

// contentType gives the names in the field.
func (p *Part) contentType(f Field) []string {
	v := parseValue(f.Value())
	p.flagAll(v.defects, f.Offset)
	p.Params = v.params
	p.oddBoundary = v.extended["boundary"] || len(v.defects) > 0
	typ, sub, _ := strings.Cut(v.value, "/")
	typ, sub = strings.Trim(typ, " \t"), strings.Trim(sub, " \t")
	// RFC 2045, section 5.2: a Content-Type that cannot be read counts as text/plain. Where there is a type and
	// something after the subtype, most readers take the type.
	sub, extra, _ := strings.Cut(sub, " ")
	if extra != "" {
		p.flag(DefectMediaType, f.Offset)
	}
	if !isToken(typ) || !isToken(sub) {
		p.MediaType = "text/plain"
		p.flag(DefectMediaType, f.Offset)
		if v.params["boundary"] != "" || strings.Contains(strings.ToLower(v.value), "multipart") {
			p.flag(DefectNoBoundary, f.Offset)
		}
		return v.all("name")
	}
	p.MediaType = strings.ToLower(typ + "/" + sub)
	return v.all("name")
}

func (p *Part) transferEncoding(f Field) {
	v := parseValue(f.Value())
	words := strings.Fields(strings.ToLower(v.value))
	if len(words) == 0 {
		return
	}
	first, single := words[0], len(words) == 1
	p.Encoding = first
	known := isIdentity(first) || isEncoded(first)
	switch {
	case known && single && len(v.params) == 0 && len(v.defects) == 0:
	case isIdentity(first) && single:
		p.flag(DefectUnknownEncoding, f.Offset)
	case known || looksEncoded(v.value):
		p.flag(DefectOddEncoding, f.Offset)
	default:
		p.flag(DefectUnknownEncoding, f.Offset)
	}
}

// looksEncoded: somebody may take it for an encoding, and decode.
func looksEncoded(s string) bool {
	s = strings.ToLower(s)
	for _, known := range [...]string{"64", "quoted", "print", "uu", "hex", "hqx", "yenc", "zip"} {
		if strings.Contains(s, known) {
			return true
		}
	}
	return false
}

func (p *Part) flagAll(kinds []DefectKind, offset int64) {
	for _, k := range kinds {
		p.flag(k, offset)
	}
}

// boundary gives the delimiter of a multipart, "--" and the boundary parameter, or nil if it cannot be split.
func (p *Part) boundary(open []*frame) []byte {
	value := p.Params["boundary"]
	trimmed := strings.TrimRight(value, " \t")
	if trimmed == "" {
		p.flag(DefectNoBoundary, p.Offset)
		return nil
	}
	if p.oddBoundary || trimmed != value || len(value) > 70 || !isBoundary(value) {
		p.flag(DefectBadBoundary, p.Offset)
	}
	b := []byte("--" + trimmed)
	for _, f := range open {
		if f.boundary != nil && (bytes.HasPrefix(f.boundary, b) || bytes.HasPrefix(b, f.boundary)) {
			p.flag(DefectBoundaryReuse, p.Offset)
		}
	}
	return b
}

// isBoundary: bchars of RFC 2046, section 5.1.1.
func isBoundary(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("'()+_,-./:=? ", c) >= 0) {
			return false
		}
	}
	return true
}

// isIdentity says that the encoding leaves the bytes as they are (RFC 2045, section 6.2).
func isIdentity(encoding string) bool {
	return encoding == "7bit" || encoding == "8bit" || encoding == "binary"
}

// isEncoded says that Decoded knows the encoding.
func isEncoded(encoding string) bool {
	switch encoding {
	case "base64", "quoted-printable", "x-uuencode", "uuencode", "x-uue", "uue":
		return true
	}
	return false
}
