package disclaimer

import (
	"errors"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/encoding/unicode"
)

// errCharset: the text cannot be expressed in the charset of the part.
var errCharset = errors.New("the charset lacks a character of the text")

// family is what of a charset matters for finding a place in a text.
type family int

const (
	// superset: an octet below 0x80 that is not a part of a longer character is ASCII. "<" never is such a part.
	superset family = iota
	// shifted: escape sequences switch to other sets of 7-bit octets (ISO-2022).
	shifted
	// wide: two octets for each unit (UTF-16).
	wide
	// opaque: nothing is known about it.
	opaque
)

// charset is the character set of a part.
type charset struct {
	family family
	// codec is nil for ASCII and UTF-8, and where nothing is known.
	codec encoding.Encoding
	utf8  bool
	// endian of a wide charset; nil if the first octets tell (RFC 2781, section 3.3).
	endian *unicode.Endianness
}

// charsetOf finds a charset by its name in a Content-Type (RFC 2978).
func charsetOf(name string) charset {
	name = strings.ToLower(strings.Trim(name, " \t"))
	switch name {
	case "us-ascii", "ascii", "ansi_x3.4-1968", "iso646-us", "":
		return charset{}
	case "utf-8", "utf8":
		return charset{utf8: true}
	case "utf-16", "utf16":
		return charset{family: wide}
	case "utf-16le":
		e := unicode.LittleEndian
		return charset{family: wide, endian: &e, codec: unicode.UTF16(e, unicode.IgnoreBOM)}
	case "utf-16be":
		e := unicode.BigEndian
		return charset{family: wide, endian: &e, codec: unicode.UTF16(e, unicode.IgnoreBOM)}
	}
	// IANA's index first: HTML's takes iso-8859-1 for windows-1252, which not every mail client does.
	codec, err := ianaindex.MIME.Encoding(name)
	if err != nil || codec == nil {
		if codec, err = htmlindex.Get(name); err != nil {
			return charset{family: opaque}
		}
	}
	c := charset{codec: codec}
	if !strings.HasPrefix(name, "iso-2022-") {
		if !keepsASCII(codec) {
			c.family = opaque
		}
		return c
	}
	if c.family = shifted; !keepsASCII(codec) {
		c.family = opaque
	}
	return c
}

// keepsASCII says whether ASCII text is the same in the charset.
func keepsASCII(codec encoding.Encoding) bool {
	var b [95 + 2]byte
	for i := range 95 {
		b[i] = byte(' ' + i)
	}
	b[95], b[96] = '\r', '\n'
	// "~" and "\" stand for other characters in some; what counts is that the octets go through.
	got, err := codec.NewDecoder().Bytes(b[:])
	if err != nil {
		return false
	}
	same := 0
	for i, r := range []rune(string(got)) {
		if i < len(b) && r == rune(b[i]) {
			same++
		}
	}
	return same >= len(b)-2
}

// wideCharset settles the byte order of UTF-16 by its first octets.
func (c charset) ordered(first []byte) charset {
	if c.family != wide || c.endian != nil {
		return c
	}
	e := unicode.BigEndian
	if len(first) >= 2 && first[0] == 0xff && first[1] == 0xfe {
		e = unicode.LittleEndian
	}
	return charset{family: wide, endian: &e, codec: unicode.UTF16(e, unicode.IgnoreBOM)}
}

// encode gives s in the charset, or errCharset.
func (c charset) encode(s string) ([]byte, error) {
	if c.utf8 || isASCII(s) && c.family == superset {
		return []byte(s), nil
	}
	if c.codec == nil {
		return nil, errCharset
	}
	b, err := c.codec.NewEncoder().Bytes([]byte(s))
	if err != nil {
		return nil, errCharset
	}
	return b, nil
}

// decode gives b as UTF-8, as well as it can.
func (c charset) decode(b []byte) string {
	if c.codec != nil {
		if s, err := c.codec.NewDecoder().Bytes(b); err == nil {
			return string(s)
		}
	}
	return strings.ToValidUTF8(string(b), string(utf8.RuneError))
}

// lossless gives b as UTF-8 if that is reversible, octet for octet; else errCharset.
func (c charset) lossless(b []byte) ([]byte, error) {
	switch {
	case c.utf8:
		return b, nil
	case c.codec == nil:
		// Text that says it is ASCII and is not: if it is UTF-8 instead, it may as well say so.
		if c.family != superset || !utf8.Valid(b) {
			return nil, errCharset
		}
		return b, nil
	}
	s, err := c.codec.NewDecoder().Bytes(b)
	if err != nil {
		return nil, errCharset
	}
	back, err := c.codec.NewEncoder().Bytes(s)
	if err != nil || string(back) != string(b) {
		return nil, errCharset
	}
	return s, nil
}

// reader turns decoded octets into characters, as far as finding a place needs them: ASCII as it is, everything else as
// 0x80 or above. It knows at which place the character began.
type reader struct {
	charset charset
	char    func(c byte)

	decoder *decoder
	first   []byte
	begin   place // of the unit of a wide charset
	high    byte
	half    bool
	escape  int // octets of an escape sequence seen
	shifted bool
}

func (r *reader) octet(d *decoder, c byte) {
	r.decoder = d
	if len(r.first) < 3 {
		r.first = append(r.first, c)
	}
	switch r.charset.family {
	case wide:
		r.wideOctet(d, c)
		return
	case shifted:
		c = r.shiftedOctet(c)
	}
	r.char(c)
}

// here is the place of the character that char was called with.
func (r *reader) here() place {
	if r.charset.family == wide {
		return r.begin
	}
	return r.decoder.here()
}

func (r *reader) wideOctet(d *decoder, c byte) {
	if !r.half {
		r.high, r.half, r.begin = c, true, d.here()
		return
	}
	r.half = false
	r.charset = r.charset.ordered(r.first)
	high, low := r.high, c
	if *r.charset.endian == unicode.LittleEndian {
		high, low = low, high
	}
	if high != 0 || low >= 0x80 {
		low = 0xff
	}
	r.char(low)
}

// shiftedOctet follows the escape sequences of ISO-2022: ESC, intermediates, final octet. "(B" and "(J" are ASCII.
func (r *reader) shiftedOctet(c byte) byte {
	const esc = 0x1b
	switch {
	case c == esc:
		r.escape, r.high = 1, 0
		return 0xff
	case r.escape > 0 && c >= 0x20 && c <= 0x2f:
		r.escape++
		r.high = c
		return 0xff
	case r.escape > 0:
		r.escape = 0
		r.shifted = r.high != '(' || c != 'B' && c != 'J'
		return 0xff
	case c == '\n' || c == '\r':
		return c
	case r.shifted:
		return 0xff
	}
	return c
}
