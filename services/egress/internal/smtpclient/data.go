package smtpclient

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// Traits are what must be known of a message before it can be sent.
type Traits struct {
	// EightBit: it holds bytes above 127.
	EightBit bool
}

// Inspect reads a message through once. It fails with ErrBareControl if SMTP cannot carry it.
func Inspect(message io.WriterTo) (Traits, error) {
	w := &inspector{}
	if _, err := message.WriteTo(w); err != nil {
		return Traits{}, err
	}
	if w.lines.cr {
		return Traits{}, ErrBareControl
	}
	return Traits{EightBit: w.eightBit}, nil
}

type inspector struct {
	lines    lineCheck
	eightBit bool
}

func (w *inspector) Write(p []byte) (int, error) {
	if err := w.lines.check(p); err != nil {
		return 0, err
	}
	if !w.eightBit {
		for _, b := range p {
			if b >= 0x80 {
				w.eightBit = true
				break
			}
		}
	}
	return len(p), nil
}

// lineCheck refuses bare CR, bare LF and NUL in a stream of blocks.
type lineCheck struct {
	cr bool // the last byte was a CR, and its LF is still due
}

func (l *lineCheck) check(p []byte) error {
	if bytes.IndexByte(p, 0) >= 0 {
		return ErrBareControl
	}
	for len(p) > 0 {
		if l.cr {
			if p[0] != '\n' {
				return ErrBareControl
			}
			l.cr, p = false, p[1:]
			continue
		}
		i := bytes.IndexByte(p, '\n')
		switch {
		case i == 0:
			return ErrBareControl
		case i < 0:
			j := bytes.IndexByte(p, '\r')
			if j < 0 {
				return nil
			}
			if j != len(p)-1 {
				return ErrBareControl
			}
			l.cr = true
			return nil
		default:
			if j := bytes.IndexByte(p[:i], '\r'); j != i-1 {
				return ErrBareControl
			}
			p = p[i+1:]
		}
	}
	return nil
}

// dotWriter stuffs dots at line starts. It checks again what Inspect has checked: this is the last door.
type dotWriter struct {
	out      io.Writer
	progress func(int64)
	lines    lineCheck
	begun    bool // the next byte does not begin the message
	last     byte
	sent     int64
	buf      []byte
	failed   bool // the connection failed, not the message
}

func (d *dotWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), bodyBlock)
		if err := d.block(p[:n]); err != nil {
			return total - len(p), err
		}
		p = p[n:]
	}
	return total, nil
}

func (d *dotWriter) block(p []byte) error {
	if err := d.lines.check(p); err != nil {
		return err
	}
	for rest := p; len(rest) > 0; {
		if rest[0] == '.' && (!d.begun || d.last == '\n') {
			d.buf = append(d.buf, '.')
		}
		i := bytes.IndexByte(rest, '\n') + 1
		if i == 0 {
			i = len(rest)
		}
		d.buf = append(d.buf, rest[:i]...)
		d.begun, d.last = true, rest[i-1]
		rest = rest[i:]
	}
	d.sent += int64(len(p))
	if len(d.buf) >= bodyBlock {
		return d.flush()
	}
	return nil
}

func (d *dotWriter) flush() error {
	if _, err := d.out.Write(d.buf); err != nil {
		d.failed = true
		return err
	}
	d.buf = d.buf[:0]
	d.progress(d.sent)
	return nil
}

// finish sends what is left. A last line without its end gets one: the final dot stands on a line of its own.
func (d *dotWriter) finish() error {
	if d.lines.cr {
		return ErrBareControl
	}
	if d.begun && d.last != '\n' {
		d.buf = append(d.buf, '\r', '\n')
	}
	return d.flush()
}

// bodyError tells a message that cannot be read from a connection that cannot be written.
func (d *dotWriter) bodyError(err error) error {
	if d.failed {
		return err
	}
	return fmt.Errorf("reading the message: %w", err)
}

// blockWriter gives each block its own deadline: a slow peer is one that makes no progress.
type blockWriter struct {
	ctx   context.Context
	conn  net.Conn
	limit time.Duration
}

func (w *blockWriter) Write(p []byte) (int, error) {
	_ = w.conn.SetWriteDeadline(time.Now().Add(w.limit))
	// After the deadline, not before: the end of ctx sets one of its own, which must not be undone.
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.conn.Write(p)
}
