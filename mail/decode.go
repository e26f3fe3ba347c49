package mail

import (
	"bufio"
	"io"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/htmlindex"
)

// Raw reads the body of the part as it stands in c, the content that was walked.
func (p *Part) Raw(c Content) *io.SectionReader {
	return io.NewSectionReader(c, p.Body, p.End-p.Body)
}

// Decoded reads the body of the part without its transfer encoding (RFC 2045, section 6), streaming. It is as
// tolerant as the most tolerant reader: garbage in base64 is skipped, data after padding is decoded, broken escapes
// of quoted-printable stay. An encoding that nobody defined leaves the bytes as they are (the part has
// DefectUnknownEncoding). The error is for a part that does not lie in c.
func (p *Part) Decoded(c Content) (io.Reader, error) {
	if p.Body < 0 || p.End < p.Body || p.End > c.Size() {
		return nil, io.ErrUnexpectedEOF
	}
	raw := p.Raw(c)
	switch p.Encoding {
	case "base64":
		return &base64Reader{r: bufio.NewReader(raw)}, nil
	case "quoted-printable":
		return &qpReader{r: bufio.NewReader(raw)}, nil
	case "x-uuencode", "uuencode", "x-uue", "uue":
		return &uuReader{r: bufio.NewReader(raw)}, nil
	}
	return raw, nil
}

// Charset is the charset parameter in lower case, "us-ascii" if there is none (RFC 2046, section 4.1.2).
func (p *Part) Charset() string {
	if c := p.Params["charset"]; c != "" {
		return strings.ToLower(c)
	}
	return "us-ascii"
}

// Filename is the name that a reader would most likely show: the filename of Content-Disposition, else the name of
// Content-Type, decoded (RFC 2231, and RFC 2047 although it does not belong there); "" if there is none. It comes from
// outside and may hold anything: separators, "..", control characters.
func (p *Part) Filename() string {
	if n := p.Filenames(); len(n) > 0 {
		return n[0]
	}
	return ""
}

// Filenames gives every name that some reader could show, the likeliest first. Who judges by name judges all of them.
func (p *Part) Filenames() []string {
	var names []string
	for _, n := range p.names {
		for _, form := range [...]string{decodeWords(n), n} {
			if form != "" && !slices.Contains(names, form) {
				names = append(names, form)
			}
		}
	}
	return names
}

// IsSigned says that the part is signed, so that changing a byte of it breaks a signature: multipart/signed
// (RFC 1847), or S/MIME with an enclosed signature (RFC 8551, section 3.5).
func (p *Part) IsSigned() bool {
	return p.MediaType == "multipart/signed" || p.isCMS() && strings.EqualFold(p.Params["smime-type"], "signed-data")
}

// IsEncrypted says that the part is encrypted: multipart/encrypted (RFC 1847, RFC 3156), or S/MIME that does not say
// it is something else.
func (p *Part) IsEncrypted() bool {
	if p.MediaType == "multipart/encrypted" {
		return true
	}
	t := strings.ToLower(p.Params["smime-type"])
	return p.isCMS() && t != "signed-data" && t != "certs-only" && t != "compressed-data"
}

func (p *Part) isCMS() bool {
	switch p.MediaType {
	case "application/pkcs7-mime", "application/x-pkcs7-mime":
		return true
	case "application/octet-stream":
		// RFC 8551, section 3.9: by its name, because agents without S/MIME send it so.
		return slices.ContainsFunc(p.Filenames(), func(n string) bool {
			return strings.HasSuffix(strings.ToLower(n), ".p7m")
		})
	}
	return false
}

func decodeWords(s string) string {
	if !strings.Contains(s, "=?") {
		return s
	}
	d := mime.WordDecoder{CharsetReader: func(charset string, r io.Reader) (io.Reader, error) {
		e, err := htmlindex.Get(charset)
		if err != nil {
			return nil, err
		}
		return e.NewDecoder().Reader(r), nil
	}}
	t, err := d.DecodeHeader(s)
	if err != nil {
		return s
	}
	return t
}

// toUTF8 decodes s; what cannot be decoded stays, with its broken bytes replaced.
func toUTF8(charset, s string) string {
	if isASCII(s) && charset == "" {
		return s
	}
	if !strings.EqualFold(charset, "utf-8") {
		if e, err := htmlindex.Get(charset); err == nil {
			if t, err := e.NewDecoder().String(s); err == nil {
				return t
			}
		}
	}
	return strings.ToValidUTF8(s, string(utf8.RuneError))
}
