package mail

import (
	"bufio"
	"bytes"
)

// base64Reader decodes base64 (RFC 2045, section 6.8) and skips everything that is not of its alphabet. Padding ends
// a run, not the data: some readers go on after it.
type base64Reader struct {
	r    *bufio.Reader
	acc  uint32
	bits int
	err  error
}

func (d *base64Reader) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) && d.err == nil {
		c, err := d.r.ReadByte()
		if err != nil {
			d.err = err
			break
		}
		if c == '=' {
			d.acc, d.bits = 0, 0
			continue
		}
		v := base64Value(c)
		if v < 0 {
			continue
		}
		d.acc = d.acc<<6 | uint32(v)
		if d.bits += 6; d.bits >= 8 {
			d.bits -= 8
			p[n] = byte(d.acc >> d.bits)
			n++
		}
	}
	if n == 0 && len(p) > 0 {
		return 0, d.err
	}
	return n, nil
}

func base64Value(c byte) int {
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

// maxPending bounds the white space that qpReader keeps until it knows whether a line ends after it.
const maxPending = 64 << 10

// qpReader decodes quoted-printable (RFC 2045, section 6.7). White space at the end of a line is dropped (rule 3);
// line ends stay as they are; an "=" that begins nothing stays.
type qpReader struct {
	r       *bufio.Reader
	pending []byte // read, and not to be decoded before more is known
	ready   []byte // decoded, not yet read
	out     []byte // what ready is a part of
	err     error
}

func (d *qpReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(d.ready) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		d.fill()
	}
	n := copy(p, d.ready)
	d.ready = d.ready[n:]
	return n, nil
}

// fill decodes one line, or as much of a long one as the buffer holds.
func (d *qpReader) fill() {
	line, err := d.r.ReadSlice('\n')
	if err != nil && err != bufio.ErrBufferFull {
		d.err = err
	}
	if len(d.pending) > 0 {
		line = append(d.pending, line...)
		d.pending = nil
	}
	text, end := line, []byte(nil)
	if err == bufio.ErrBufferFull {
		if cut := undecided(line); cut > 0 || len(line) < maxPending {
			text = line[:cut]
			d.pending = bytes.Clone(line[cut:])
		}
	} else {
		text = trimLineEnd(line)
		end = line[len(text):]
		text = bytes.TrimRight(text, " \t")
		if soft := bytes.TrimSuffix(text, []byte{'='}); len(soft) < len(text) {
			text, end = soft, nil
		}
	}
	out := d.out[:0]
	for i := 0; i < len(text); i++ {
		if text[i] == '=' && i+2 < len(text) {
			if hi, lo := unhex(text[i+1]), unhex(text[i+2]); hi >= 0 && lo >= 0 {
				out = append(out, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		out = append(out, text[i])
	}
	d.out = append(out, end...)
	d.ready = d.out
}

// undecided gives where the end of b begins whose meaning depends on what follows: white space, a CR, a part of an
// escape.
func undecided(b []byte) int {
	b = bytes.TrimRight(b, " \t\r")
	if i := bytes.LastIndexByte(b[max(0, len(b)-2):], '='); i >= 0 {
		return max(0, len(b)-2) + i
	}
	return len(b)
}

// uuReader decodes uuencode, which nobody standardized for mail but which readers still show. What stands before
// "begin" and after "end" is dropped.
type uuReader struct {
	r     *bufio.Reader
	ready []byte
	begun bool
	err   error
}

func (d *uuReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(d.ready) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		d.fill()
	}
	n := copy(p, d.ready)
	d.ready = d.ready[n:]
	return n, nil
}

func (d *uuReader) fill() {
	line, err := d.r.ReadSlice('\n')
	if err != nil && err != bufio.ErrBufferFull {
		d.err = err
	}
	line = trimLineEnd(line)
	switch {
	case !d.begun:
		d.begun = bytes.HasPrefix(line, []byte("begin "))
		return
	case string(bytes.TrimRight(line, " ")) == "end":
		d.begun = false
		return
	case len(line) == 0:
		return
	}
	want := int(line[0]-' ') & 63
	out := make([]byte, 0, want+3)
	for rest := line[1:]; len(out) < want && len(rest) > 0; {
		var q [4]byte
		rest = rest[copy(q[:], rest):]
		for i := range q {
			q[i] = (q[i] - ' ') & 63
		}
		out = append(out, q[0]<<2|q[1]>>4, q[1]<<4|q[2]>>2, q[2]<<6|q[3])
	}
	d.ready = out[:min(len(out), want)]
}
