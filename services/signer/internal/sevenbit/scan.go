package sevenbit

import (
	"fmt"
	"io"
)

// needs is what of a body would not survive as it is.
type needs struct {
	// eightBit: octets above 127, or NUL.
	eightBit bool
	// long: a line of more than maxLine octets.
	long bool
	// bare: a CR or LF that is not part of a CRLF.
	bare bool
	// blank: white space at the end of a line, or of the body.
	blank bool
	// from: a line begins with "From ".
	from bool
	// escapes counts the octets that quoted-printable would write as three.
	escapes int64
}

// hard says that 7-bit transport does not carry it.
func (n needs) hard() bool { return n.eightBit || n.long || n.bare }

// soft says that some hop may change it.
func (n needs) soft() bool { return n.blank || n.from }

// scanner looks at octets one after the other.
type scanner struct {
	needs
	line  int  // octets of the line so far
	head  int  // how much of "From " the line begins with, -1 if it does not
	cr    bool // the last octet was a CR
	space bool // the last octet was white space
}

const fromLine = "From "

func (s *scanner) octet(c byte) {
	if s.cr {
		s.cr = false
		if c == '\n' {
			if s.line > maxLine {
				s.long = true
			}
			s.line, s.head, s.space = 0, 0, false
			return
		}
		s.bare = true
		s.escapes++
	}
	switch {
	case c == '\r':
		if s.space {
			s.blank = true
		}
		s.cr = true
		return
	case c == '\n':
		s.bare = true
		s.escapes++
	case c >= 0x80 || c == 0:
		s.eightBit = true
		s.escapes++
	case c < ' ' && c != '\t', c == '=', c == 0x7f:
		s.escapes++
	}
	s.space = c == ' ' || c == '\t'
	if s.head >= 0 {
		if s.head < len(fromLine) && c == fromLine[s.head] {
			if s.head++; s.head == len(fromLine) {
				s.from, s.head = true, -1
			}
		} else {
			s.head = -1
		}
	}
	s.line++
}

// end is the end of the body: a line end follows it that is not its own.
func (s *scanner) end() needs {
	s.bare = s.bare || s.cr
	s.blank = s.blank || s.space
	s.long = s.long || s.line > maxLine
	return s.needs
}

// scan looks at [from, to) of the message in a fixed amount of memory.
func (p *planner) scan(from, to int64) (needs, error) {
	var s scanner
	err := p.blocks(from, to, func(b []byte) {
		for _, c := range b {
			s.octet(c)
		}
	})
	return s.end(), err
}

const block = 64 << 10

// blocks gives [from, to) of the message to f, piece by piece.
func (p *planner) blocks(from, to int64, f func([]byte)) error {
	buf := make([]byte, min(block, to-from))
	for from < to {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), to-from)]
		if n, err := p.c.ReadAt(b, from); n < len(b) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read the message: %w", err)
		}
		f(b)
		from += int64(len(b))
	}
	return nil
}
