package disclaimer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/stagecoachmail/stagecoach/mail"
)

// errEncoding: the transfer encoding is not well-formed, so that a place in the text has no sure place in the message.
var errEncoding = errors.New("the transfer encoding is malformed")

// place is where an octet of a decoded body stands in the message, or where the next one would.
type place struct {
	// raw is the offset in the message: of the encoded octet, in base64 of its quantum.
	raw int64
	// octets come before it in the decoded body.
	octets int64
	// In base64: the octets of the quantum, how many of them come before the place, where the quantum ends in the message,
	// and the column at which it begins.
	quantum []byte
	before  int
	end     int64
	column  int
}

// decoder takes the transfer encoding off a body and knows where in the message each octet comes from. It streams; what
// mail.Part.Decoded would let pass as garbage is errEncoding here, since it has to put something in between.
type decoder struct {
	in  *bufio.Reader
	ctx context.Context
	// emit gets each octet; place is valid while it runs, and after the end.
	emit func(c byte)

	at     int64 // offset in the message of what in gives next
	octets int64

	raw int64
	// last is the quantum of base64 that was read last.
	last  quantum
	width int // of the longest line of base64
	lines int // of base64
	// soft: quoted-printable ends with a soft line break that has no line end.
	soft bool
	// eight: an octet above 127 stands in the message as it is.
	eight bool
}

// decoderSize is the longest line of quoted-printable that is accepted.
const decoderSize = 64 << 10

// decode runs over the body of p.
func decode(ctx context.Context, c mail.Content, p *mail.Part, emit func(d *decoder, c byte)) (*decoder, error) {
	d := &decoder{in: bufio.NewReaderSize(p.Raw(c), decoderSize), ctx: ctx, at: p.Body, raw: p.Body}
	d.emit = func(c byte) { emit(d, c) }
	var err error
	switch p.Encoding {
	case "7bit", "8bit", "binary":
		err = d.identity()
	case "quoted-printable":
		err = d.quotedPrintable()
	case "base64":
		err = d.base64()
	default:
		err = errEncoding
	}
	return d, err
}

// quantum is a group of four characters of base64.
type quantum struct {
	octets [3]byte
	filled int
	// before: how many of the octets were emitted.
	before     int
	start, end int64
	// Columns of its first character, and behind its last.
	column, endColumn int
}

// here is the place of the octet that is being emitted; after the end, the place behind the last one.
func (d *decoder) here() place {
	q := &d.last
	switch {
	case q.filled == 0: // not base64, or nothing yet
		return place{raw: d.raw, octets: d.octets, end: d.raw}
	case q.before == 3:
		return place{raw: q.end, octets: d.octets, end: q.end, column: q.endColumn}
	}
	return place{
		raw: q.start, octets: d.octets, end: q.end, column: q.column,
		quantum: bytes.Clone(q.octets[:q.filled]), before: q.before,
	}
}

func (d *decoder) octet(c byte) {
	d.emit(c)
	d.octets++
}

func (d *decoder) identity() error {
	block := make([]byte, decoderSize)
	for {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		n, err := d.in.Read(block)
		for _, c := range block[:n] {
			d.eight = d.eight || c >= 0x80
			d.octet(c)
			d.raw++
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (d *decoder) quotedPrintable() error {
	for {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		line, err := d.in.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			return errEncoding
		}
		if err != nil && err != io.EOF {
			return err
		}
		d.quotedLine(line)
		if err == io.EOF {
			d.raw = d.at
			return nil
		}
	}
}

// quotedLine decodes one line (RFC 2045, section 6.7).
func (d *decoder) quotedLine(line []byte) {
	body := bytes.TrimSuffix(bytes.TrimSuffix(line, []byte{'\n'}), []byte{'\r'})
	text := bytes.TrimRight(body, " \t")
	soft := bytes.HasSuffix(text, []byte{'='})
	if soft {
		text = text[:len(text)-1]
	}
	for i := 0; i < len(text); i++ {
		d.raw = d.at + int64(i)
		c := text[i]
		if c == '=' && i+2 < len(text) {
			if hi, lo := unhex(text[i+1]), unhex(text[i+2]); hi >= 0 && lo >= 0 {
				c = byte(hi<<4 | lo)
				i += 2
			}
		}
		d.eight = d.eight || text[i] >= 0x80
		d.octet(c)
	}
	if !soft {
		for i := len(body); i < len(line); i++ {
			d.raw = d.at + int64(i)
			d.octet(line[i])
		}
	}
	if len(line) > 0 {
		d.soft = soft && len(body) == len(line)
	}
	d.at += int64(len(line))
}

func (d *decoder) base64() error {
	var acc uint32
	var start int64
	chars, padding, column, startColumn := 0, 0, 0, 0
	for {
		c, err := d.in.ReadByte()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		at := d.at
		if d.at++; d.at&0xffff == 0 && d.ctx.Err() != nil {
			return d.ctx.Err()
		}
		switch c {
		case '\n':
			column = 0
			continue
		case '\r', ' ', '\t':
			continue
		}
		if column++; column == 1 {
			d.lines++
		}
		d.width = max(d.width, column)
		v := sixBits(c)
		switch {
		case c == '=' && chars+padding >= 2:
			padding++
		case v < 0 || padding > 0 || d.last.filled%3 != 0: // garbage, or something behind the padding
			return errEncoding
		default:
			if chars == 0 {
				start, startColumn = at, column-1
			}
			acc = acc<<6 | uint32(v)
			chars++
		}
		if chars+padding < 4 {
			continue
		}
		acc <<= 6 * padding
		d.last = quantum{
			octets: [3]byte{byte(acc >> 16), byte(acc >> 8), byte(acc)}, filled: 3 - padding,
			start: start, end: d.at, column: startColumn, endColumn: column,
		}
		for q := &d.last; q.before < q.filled; q.before++ {
			d.octet(q.octets[q.before])
		}
		acc, chars, padding = 0, 0, 0
	}
	if chars > 0 || padding > 0 {
		return errEncoding
	}
	return nil
}

func sixBits(c byte) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 26
	case c >= '0' && c <= '9':
		return int(c-'0') + 52
	case c == '+':
		return 62
	case c == '/':
		return 63
	}
	return -1
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
