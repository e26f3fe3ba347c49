package disclaimer

import (
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// maxQuoted is the longest line of quoted-printable, and of base64 (RFC 2045, sections 6.7 and 6.8).
const maxQuoted = 76

// insert makes the splice that puts s at the place of f, in the part's charset and transfer encoding; every other byte
// stays. errCharset says that this is not possible as the part is.
func (f *finding) insert(c mail.Content, s string) (mail.Splice, error) {
	if f.shifted && f.atEnd() || f.charset.family == wide && f.part.Encoding != "base64" {
		return mail.Splice{}, errCharset
	}
	octets, err := f.charset.encode(s)
	if err != nil {
		return mail.Splice{}, err
	}
	switch f.part.Encoding {
	case "quoted-printable":
		if f.decoder.soft && f.atEnd() {
			// The "=" at the very end would take the first line end for its own.
			octets = append([]byte("\r\n"), octets...)
		}
		return mail.Splice{Offset: f.place.raw, Insert: quoted(nil, octets)}, nil
	case "base64":
		return f.insertBase64(c, s)
	}
	if !isASCII(string(octets)) && f.part.Encoding == "7bit" && !f.decoder.eight {
		return mail.Splice{}, errCharset
	}
	return mail.Splice{Offset: f.place.raw, Insert: octets}, nil
}

// insertBase64 replaces the one quantum that the place is in. What follows keeps its place within its quantum, and so its
// bytes.
func (f *finding) insertBase64(c mail.Content, s string) (mail.Splice, error) {
	p := f.place
	data, err := f.charset.encode(s)
	for !f.atEnd() && err == nil && len(p.quantum) == 3 && len(data)%3 != 0 {
		// White space before the last line end, where it means nothing: only HTML has places that are not at the end.
		s = strings.TrimSuffix(s, "\r\n") + " \r\n"
		data, err = f.charset.encode(s)
	}
	if err != nil {
		return mail.Splice{}, err
	}
	data = append(append(append([]byte(nil), p.quantum[:p.before]...), data...), p.quantum[p.before:]...)
	out := wrapBase64(data, p.column, f.decoder.lineWidth())
	if p.end < f.part.End && !f.atEnd() {
		next, err := byteAt(c, p.end)
		if err != nil {
			return mail.Splice{}, err
		}
		if next != '\r' && next != '\n' {
			out = append(out, "\r\n"...)
		}
	}
	return mail.Splice{Offset: p.raw, Length: p.end - p.raw, Insert: out}, nil
}

func byteAt(c mail.Content, off int64) (byte, error) {
	var b [1]byte
	if _, err := io.ReadFull(io.NewSectionReader(c, off, 1), b[:]); err != nil {
		return 0, fmt.Errorf("read octet %d: %w", off, err)
	}
	return b[0], nil
}

// lineWidth gives the width to wrap base64 at, that of the part so far.
func (d *decoder) lineWidth() int {
	width := d.width &^ 3
	if d.lines < 2 || width < 4 || width > maxQuoted {
		return maxQuoted
	}
	return width
}

// wrapBase64 encodes data in lines of width characters, the first of which has column characters already.
func wrapBase64(data []byte, column, width int) []byte {
	var out []byte
	for encoded := base64.StdEncoding.AppendEncode(nil, data); len(encoded) > 0; encoded = encoded[4:] {
		if column+4 > width {
			out = append(out, "\r\n"...)
			column = 0
		}
		out = append(out, encoded[:4]...)
		column += 4
	}
	return out
}

const upperHex = "0123456789ABCDEF"

// quoted appends text in quoted-printable, from the start of a line. CRLF is a line end; a CR or LF alone is not.
func quoted(out, text []byte) []byte {
	column := 0
	put := func(token ...byte) {
		if column+len(token) > maxQuoted-1 {
			out = append(out, "=\r\n"...)
			column = 0
		}
		out = append(out, token...)
		column += len(token)
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		lineEnd := strings.HasPrefix(string(text[i:min(i+2, len(text))]), "\r\n")
		if lineEnd {
			out = append(out, "\r\n"...)
			column = 0
			i++
			continue
		}
		last := i+1 == len(text) || strings.HasPrefix(string(text[i+1:min(i+3, len(text))]), "\r\n")
		switch {
		case (c == ' ' || c == '\t') && !last:
			put(c)
		case c == 'F' && column == 0 && strings.HasPrefix(string(text[i:min(i+5, len(text))]), "From "):
			put('=', '4', '6') // some mail stores put a ">" before it
		case c > ' ' && c < 0x7f && c != '=':
			put(c)
		default:
			put('=', upperHex[c>>4], upperHex[c&15])
		}
	}
	return out
}
