package disclaimer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// maxConvert bounds the text, in decoded octets, that is written anew in another charset.
const maxConvert = 1 << 20

var (
	errLarge       = errors.New("the charset lacks a character of the text, and the part is too large to change its charset")
	errContentType = errors.New("the charset lacks a character of the text, and the Content-Type cannot be changed")
)

// convert makes the splices that put a text/plain part into UTF-8, with s at its end: for a text whose charset, or 7-bit
// encoding, cannot express s. The part keeps every character, or is not converted: errCharset.
func (f *finding) convert(ctx context.Context, c mail.Content, s string, root bool) ([]mail.Splice, error) {
	if f.html() || f.shifted {
		return nil, errCharset
	}
	if f.last.octets > maxConvert {
		return nil, errLarge
	}
	old := make([]byte, 0, f.last.octets)
	if _, err := decode(ctx, c, f.part, func(_ *decoder, c byte) { old = append(old, c) }); err != nil {
		return nil, err
	}
	text, err := f.charset.lossless(old)
	if err != nil {
		return nil, err
	}
	text = append(bytes.Clone(text), s...)
	body := mail.Splice{Offset: f.part.Body, Length: f.part.End - f.part.Body}
	encoding := "quoted-printable"
	if f.part.Encoding == "base64" {
		encoding = "base64"
		body.Insert = wrapBase64(text, 0, f.decoder.lineWidth())
		if root {
			body.Insert = append(body.Insert, "\r\n"...)
		}
	} else {
		body.Insert = quoted(nil, text)
	}
	header, err := f.relabel(c, encoding, root)
	if err != nil {
		return nil, err
	}
	return append(header, body), nil
}

// relabel makes the splices that give the part charset=utf-8 and the transfer encoding.
func (f *finding) relabel(c mail.Content, encoding string, root bool) ([]mail.Splice, error) {
	h := f.part.Header
	var splices []mail.Splice
	// Fields that are missing go to the end of the header section, before the empty line.
	var missing strings.Builder
	if root && len(h.Find("MIME-Version")) == 0 {
		missing.WriteString("MIME-Version: 1.0\r\n")
	}
	if types := h.Find("Content-Type"); len(types) > 0 {
		if !f.charset.utf8 {
			s, err := setCharset(types[0])
			if err != nil {
				return nil, err
			}
			splices = append(splices, s)
		}
	} else {
		missing.WriteString("Content-Type: text/plain; charset=utf-8\r\n")
	}
	if fields := h.Find("Content-Transfer-Encoding"); len(fields) == 0 {
		missing.WriteString("Content-Transfer-Encoding: " + encoding + "\r\n")
	} else if f.part.Encoding != encoding {
		s, err := mail.ReplaceField(fields[0], encoding)
		if err != nil {
			return nil, fmt.Errorf("change the transfer encoding: %w", err)
		}
		splices = append(splices, s)
	}
	if missing.Len() > 0 {
		at, err := emptyLine(c, f.part)
		if err != nil {
			return nil, err
		}
		splices = append(splices, mail.Splice{Offset: at, Insert: []byte(missing.String())})
	}
	return splices, nil
}

// emptyLine gives the place of the empty line that ends the header section, which blocking has made sure of.
func emptyLine(c mail.Content, p *mail.Part) (int64, error) {
	if p.Body-p.Offset >= 2 {
		b, err := byteAt(c, p.Body-2)
		if err != nil {
			return 0, err
		}
		if b == '\r' {
			return p.Body - 2, nil
		}
	}
	return p.Body - 1, nil
}

// setCharset makes the splice that gives a Content-Type charset=utf-8 and changes nothing else of it.
func setCharset(field mail.Field) (mail.Splice, error) {
	raw := field.Raw
	from, to, found := findParam(raw, "charset")
	value := "utf-8"
	if !found {
		end := len(bytes.TrimRight(raw, " \t\r\n;"))
		from, to, value = end, end, "; charset=utf-8"
		if bytes.HasSuffix(bytes.TrimRight(raw, " \t\r\n"), []byte{';'}) {
			value = "; charset=utf-8"
			to = len(bytes.TrimRight(raw, " \t\r\n"))
		}
	}
	changed := append(append(append([]byte(nil), raw[:from]...), value...), raw[to:]...)
	f := mail.Field{Name: field.Name, Raw: changed}
	_, params, err := mime.ParseMediaType(f.Value())
	if err != nil || params["charset"] != "utf-8" {
		return mail.Splice{}, errContentType
	}
	return mail.Splice{Offset: field.Offset + int64(from), Length: int64(to - from), Insert: []byte(value)}, nil
}

// findParam finds the value of a parameter in a raw field (RFC 2045, section 5.1), quoted or not.
func findParam(raw []byte, name string) (from, to int, found bool) {
	i := bytes.IndexByte(raw, ';')
	for i >= 0 && i < len(raw) {
		i++ // behind the ";"
		for i < len(raw) && strings.IndexByte(" \t\r\n", raw[i]) >= 0 {
			i++
		}
		eq := i
		for eq < len(raw) && raw[eq] != '=' && raw[eq] != ';' && raw[eq] != '"' && raw[eq] != '(' {
			eq++
		}
		if eq == len(raw) || raw[eq] == '"' || raw[eq] == '(' {
			return 0, 0, false
		}
		if raw[eq] == ';' {
			i = eq
			continue
		}
		end := valueEnd(raw, eq+1)
		if strings.EqualFold(string(bytes.TrimSpace(raw[i:eq])), name) {
			return eq + 1, end, true
		}
		i = end
		for i < len(raw) && raw[i] != ';' {
			i++
		}
	}
	return 0, 0, false
}

// valueEnd gives the place behind the value that begins at i.
func valueEnd(raw []byte, i int) int {
	if i < len(raw) && raw[i] == '"' {
		for i++; i < len(raw) && raw[i] != '"'; i++ {
			if raw[i] == '\\' {
				i++
			}
		}
		return min(i+1, len(raw))
	}
	for i < len(raw) && strings.IndexByte("; \t\r\n(", raw[i]) < 0 {
		i++
	}
	return i
}
