package mail

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"strings"
)

// The line limits of RFC 5322, section 2.1.1, without CRLF.
const (
	foldAt  = 78
	maxLine = 998
)

// PrependField makes the splice that puts a field before all others. The value is folded at 78 characters where it
// has white space (RFC 5322, section 2.2.3), and may not need lines of more than 998. A value with CR, LF, NUL or
// another control character is refused, since it could become a field of its own; so is what is not ASCII: use
// EncodeWords first, or, for a message with SMTPUTF8, PrependRaw.
func PrependField(name, value string) (Splice, error) {
	raw, err := formatField(name, value)
	if err != nil {
		return Splice{}, err
	}
	return Splice{Insert: raw}, nil
}

// PrependRaw makes the splice that puts a field, written and folded by the caller and ended with CRLF, before all
// others. Its bytes go out as they are, as a signature needs it. What is not exactly one well-formed field is refused:
// a bad name, a bare CR or LF, a control character, a line that does not begin with white space or has nothing else,
// a line of more than 998 bytes. UTF-8 is allowed (RFC 6532).
func PrependRaw(field []byte) (Splice, error) {
	if err := checkRaw(field); err != nil {
		return Splice{}, err
	}
	return Splice{Insert: bytes.Clone(field)}, nil
}

// ReplaceField makes the splice that gives f, a field of the message, another value. The rules are PrependField's.
func ReplaceField(f Field, value string) (Splice, error) {
	raw, err := formatField(f.Name, value)
	if err != nil {
		return Splice{}, err
	}
	return Splice{Offset: f.Offset, Length: int64(len(f.Raw)), Insert: raw}, nil
}

// RemoveField makes the splice that takes f, a field of the message, out.
func RemoveField(f Field) Splice {
	return Splice{Offset: f.Offset, Length: int64(len(f.Raw))}
}

// EncodeWords gives s as it may stand in an unstructured field such as Subject: as it is if it is ASCII, else in
// encoded words (RFC 2047). Control characters become spaces.
func EncodeWords(s string) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return mime.QEncoding.Encode("utf-8", clean)
}

// DecodeWords gives the value of a field with its encoded words (RFC 2047) decoded: for people. What cannot be decoded
// stays as it is.
func DecodeWords(s string) string { return decodeWords(s) }

func checkName(name string) error {
	if name == "" {
		return errors.New("header field has no name")
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' || c == ':' {
			return errors.New("name of a header field holds a character that is not allowed")
		}
	}
	return nil
}

func formatField(name, value string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c >= 0x7f {
			return nil, fmt.Errorf("header field %s: the value holds the byte %#02x", name, c)
		}
	}
	var b bytes.Buffer
	b.WriteString(name)
	b.WriteByte(':')
	width := len(name) + 1
	value = strings.Trim(value, " \t")
	for first := true; value != ""; first = false {
		// One word with the white space before it.
		space := len(value) - len(strings.TrimLeft(value, " \t"))
		end := len(value)
		if i := strings.IndexAny(value[space:], " \t"); i >= 0 {
			end = space + i
		}
		word := value[:end]
		value = value[end:]
		if first {
			word = " " + word
		}
		// The first word stays with the name: a line that holds only a name is legal, and not understood everywhere.
		if !first && width+len(word) > foldAt {
			b.WriteString("\r\n")
			width = 0
		}
		b.WriteString(word)
		if width += len(word); width > maxLine {
			return nil, fmt.Errorf("header field %s: a line of %d characters has no place to fold", name, width)
		}
	}
	b.WriteString("\r\n")
	return b.Bytes(), nil
}

func checkRaw(field []byte) error {
	name, _, ok := bytes.Cut(field, []byte{':'})
	if !ok {
		return errors.New("header field has no colon")
	}
	if err := checkName(string(name)); err != nil {
		return err
	}
	if !bytes.HasSuffix(field, []byte("\r\n")) {
		return fmt.Errorf("header field %s does not end with CRLF", name)
	}
	for i, line := range bytes.Split(bytes.TrimSuffix(field, []byte("\r\n")), []byte("\r\n")) {
		switch {
		case len(line) > maxLine:
			return fmt.Errorf("header field %s has a line of %d bytes", name, len(line))
		case i > 0 && (len(line) == 0 || line[0] != ' ' && line[0] != '\t'):
			return fmt.Errorf("header field %s has a line that is not folded", name)
		case i > 0 && len(bytes.Trim(line, " \t")) == 0:
			return fmt.Errorf("header field %s has a line of white space only", name)
		}
		for _, c := range line {
			if c < ' ' && c != '\t' || c == 0x7f {
				return fmt.Errorf("header field %s holds the byte %#02x", name, c)
			}
		}
	}
	return nil
}
