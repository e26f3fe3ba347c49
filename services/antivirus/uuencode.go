package antivirus

import (
	"bytes"
	"io"
)

// uuFinder finds uuencoded files in a text: some clients show them as attachments, wherever they stand. Each is given
// to open, with the name from its "begin" line; open answers where its bytes go.
type uuFinder struct {
	open func(name string) (io.WriteCloser, error)

	line    []byte
	tooLong bool
	file    io.WriteCloser
	out     []byte
}

// maxUULine bounds a line in bytes: a data line has 61 characters, a begin line a name.
const maxUULine = 1024

func (u *uuFinder) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		rest := p
		if i >= 0 {
			rest = p[:i]
		}
		if !u.tooLong {
			if u.tooLong = len(u.line)+len(rest) > maxUULine; !u.tooLong {
				u.line = append(u.line, rest...)
			}
		}
		if i < 0 {
			break
		}
		if err := u.endLine(); err != nil {
			return 0, err
		}
		p = p[i+1:]
	}
	return n, nil
}

func (u *uuFinder) endLine() error {
	line := bytes.TrimSuffix(u.line, []byte{'\r'})
	if u.tooLong {
		line = nil
	}
	defer func() { u.line, u.tooLong = u.line[:0], false }()
	if name, ok := uuBegin(line); ok {
		if err := u.closeFile(); err != nil {
			return err
		}
		f, err := u.open(name)
		u.file = f
		return err
	}
	if u.file == nil {
		return nil
	}
	if string(bytes.TrimRight(line, " \t")) == "end" {
		return u.closeFile()
	}
	u.out = uuLine(u.out, line)
	if len(u.out) >= decodeBuffer {
		return flush(u.file, &u.out)
	}
	return nil
}

func (u *uuFinder) closeFile() error {
	if u.file == nil {
		return nil
	}
	f := u.file
	u.file = nil
	if err := flush(f, &u.out); err != nil {
		return err
	}
	return f.Close()
}

// Close ends a file that has no "end".
func (u *uuFinder) Close() error {
	if err := u.endLine(); err != nil {
		return err
	}
	return u.closeFile()
}

// uuBegin reads "begin 644 name".
func uuBegin(line []byte) (string, bool) {
	rest, ok := bytes.CutPrefix(line, []byte("begin "))
	if !ok {
		return "", false
	}
	mode, name, ok := bytes.Cut(bytes.TrimLeft(rest, " "), []byte{' '})
	if !ok || len(mode) < 3 || len(mode) > 6 || len(bytes.Trim(mode, "01234567")) > 0 {
		return "", false
	}
	name = bytes.TrimSpace(name)
	return string(name), len(name) > 0
}

// uuLine decodes a data line; what is none adds nothing.
func uuLine(out, line []byte) []byte {
	if len(line) == 0 || line[0] < ' ' || line[0] > '`' {
		return out
	}
	n := int(line[0]-' ') & 63
	line = line[1:]
	for n > 0 {
		var v [4]byte // trailing spaces may have got lost
		for i := range v {
			if i < len(line) {
				v[i] = (line[i] - ' ') & 63
			}
		}
		b := [3]byte{v[0]<<2 | v[1]>>4, v[1]<<4 | v[2]>>2, v[2]<<6 | v[3]}
		out = append(out, b[:min(n, 3)]...)
		n -= 3
		line = line[min(len(line), 4):]
	}
	return out
}

// decodeBuffer is how much is decoded before it is written on.
const decodeBuffer = 16 << 10

func flush(w io.Writer, out *[]byte) error {
	if len(*out) == 0 {
		return nil
	}
	_, err := w.Write(*out)
	*out = (*out)[:0]
	return err
}
