package antivirus

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Malformed MIME is held where two readers may see different parts, one of which nobody has scanned. It is not held
// where every reading is scanned anyway: names are judged in all of them, and a part whose encoding is in doubt is
// decoded in each way. Much honest mail is malformed.

// mimeFields are the fields that decide what a reader sees.
var mimeFields = []string{"content-type", "content-transfer-encoding", "content-disposition", "mime-version"}

// ambiguity gives the first defect of the part that makes readings differ, or "".
func (x *exam) ambiguity(p *mail.Part) (mail.DefectKind, error) {
	for _, d := range p.Defects {
		differs := d.Kind.Ambiguous()
		var err error
		switch d.Kind {
		case mail.DefectHeaderEnd:
			differs, err = x.hiddenFields(p)
		case mail.DefectHeaderName:
			differs = slices.ContainsFunc(p.Header.Fields, nearlyMIME)
		case mail.DefectHeaderByte:
			differs = slices.ContainsFunc(p.Header.Fields, breaksReaders)
		case mail.DefectHeaderRepeat:
			differs = repeatedTypes(p)
		case mail.DefectMediaType:
			differs = slices.ContainsFunc(p.Header.Values("Content-Type"), looksComposite)
		case mail.DefectParamRepeat:
			differs = p.IsMultipart()
		case mail.DefectBadBoundary:
			differs = !plainBoundary(p)
		case mail.DefectNoParts:
			differs, err = x.hasText(p)
		case mail.DefectUnknownEncoding, mail.DefectOddEncoding, mail.DefectEncodedEntity:
			differs = false // scanned both ways
		}
		if err != nil || differs {
			return d.Kind, err
		}
	}
	if p.IsMultipart() {
		// Comments, escapes and missing quotes are no defects, and yet readers differ in them.
		for _, v := range p.Header.Values("Content-Type") {
			if b := boundaries(v); len(b) > 1 {
				return mail.DefectBadBoundary, nil
			}
		}
	}
	return "", nil
}

// hiddenFields says whether a reader that skips the line at which the header ended would find MIME fields after it,
// before the next empty line.
func (x *exam) hiddenFields(p *mail.Part) (bool, error) {
	r := bufio.NewReader(patient{x.ctx, p.Raw(x.content)})
	inLine := false
	for {
		line, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return true, err
		}
		if !inLine {
			if len(bytes.TrimRight(line, "\r\n")) == 0 {
				return false, nil
			}
			name, _, ok := bytes.Cut(line, []byte(":"))
			if ok && slices.Contains(mimeFields, letters(string(bytes.ToLower(name)))) {
				return true, nil
			}
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		inLine = err != nil
	}
}

// hasText says whether the body holds anything but white space.
func (x *exam) hasText(p *mail.Part) (bool, error) {
	r := patient{x.ctx, p.Raw(x.content)}
	b := make([]byte, 32<<10)
	for {
		n, err := r.Read(b)
		if len(bytes.TrimSpace(b[:n])) > 0 {
			return true, nil
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return true, err
		}
	}
}

// nearlyMIME says that a field is one of the MIME fields for a reader that overlooks a wrong character in its name.
func nearlyMIME(f mail.Field) bool {
	name := strings.ToLower(f.Name)
	return slices.Contains(mimeFields, letters(name)) && !slices.Contains(mimeFields, name)
}

// letters takes out of a field name what does not belong there.
func letters(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r == '-' {
			return r
		}
		return -1
	}, name)
}

// breaksReaders says that a field's control characters may end it, or the header, for some readers.
func breaksReaders(f mail.Field) bool {
	if slices.Contains(mimeFields, strings.ToLower(f.Name)) {
		return bytes.ContainsFunc(f.Raw, func(r rune) bool { return r < ' ' && r != '\t' && r != '\r' && r != '\n' || r == 0x7f }) ||
			bytes.Count(f.Raw, []byte("\r")) != bytes.Count(f.Raw, []byte("\r\n"))
	}
	// Elsewhere it matters only what a reader would see that takes a bare CR for a line end.
	lines := bytes.Split(bytes.ReplaceAll(f.Raw, []byte("\r\n"), []byte("\n")), []byte("\r"))
	for _, rest := range lines[1:] {
		name, _, _ := bytes.Cut(bytes.ToLower(rest), []byte(":"))
		if len(rest) == 0 || rest[0] == '\n' || slices.Contains(mimeFields, letters(string(name))) {
			return true
		}
	}
	return false
}

// repeatedTypes says that there are several Content-Types of which one would have to be taken apart.
func repeatedTypes(p *mail.Part) bool {
	values := p.Header.Values("Content-Type")
	return len(values) > 1 && slices.ContainsFunc(values, looksComposite) &&
		slices.ContainsFunc(values[1:], func(v string) bool { return v != values[0] })
}

// looksComposite says that a Content-Type may be taken for one with parts in it.
func looksComposite(value string) bool {
	v := strings.ToLower(value)
	return strings.Contains(v, "multipart") || strings.Contains(v, "message/") || strings.Contains(v, "boundary")
}

// plainBoundary says that a boundary is wrong only in characters that every reader takes as they are.
func plainBoundary(p *mail.Part) bool {
	b := p.Params["boundary"]
	for i := range len(b) {
		if b[i] <= ' ' || b[i] > '~' {
			return false
		}
	}
	// An RFC 2231 form is understood by few readers.
	for _, v := range p.Header.Values("Content-Type") {
		for _, q := range splitParams(v, func(key string) bool { return strings.HasPrefix(key, "boundary") }) {
			if q.key != "boundary" {
				return false
			}
		}
	}
	return len(b) <= 70
}
