package guard

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

const (
	commandBuffer = 2 << 10
	dataBuffer    = 32 << 10
)

var (
	errLineTooLong = errors.New("guard: line too long")
	errBareLF      = errors.New("guard: bare LF")
	errLeave       = errors.New("guard: asked to leave")
)

// rate is how much message data came in how much waiting.
type rate struct {
	bytes  int64
	waited time.Duration
	from   time.Time // waiting since; zero if not
}

func (r *rate) slow(perSecond int64, stall time.Duration) bool {
	w := r.waited
	if !r.from.IsZero() {
		silent := time.Since(r.from)
		if silent > stall {
			return true // whatever it has sent before
		}
		w += silent
	}
	return w > stall && float64(r.bytes) < w.Seconds()*float64(perSecond)
}

func (c *Conn) buffered() int { return c.tail - c.head }

// room makes space for at least one more octet, and lets a large buffer go when it is empty.
func (c *Conn) room(size int) {
	if c.head == c.tail {
		c.head, c.tail = 0, 0
		if len(c.in) != size {
			c.in = make([]byte, size)
		}
		return
	}
	if c.tail < len(c.in) {
		return
	}
	if c.head > 0 {
		copy(c.in, c.in[c.head:c.tail])
		c.head, c.tail = 0, c.tail-c.head
		return
	}
	grown := make([]byte, 2*len(c.in))
	copy(grown, c.in[:c.tail])
	c.in = grown
}

// fill waits for more input, at most until wait has passed. Replies go out first: nobody waits for us to wait.
func (c *Conn) fill(wait time.Duration, size int, command bool) error {
	if c.err != nil {
		return c.err
	}
	if !c.flush() {
		return c.err
	}
	c.room(size)
	now := time.Now()

	c.mu.Lock()
	if c.closed || (command && c.leave != nil) {
		closed := c.closed
		c.mu.Unlock()
		if closed {
			c.fail(ErrCut)
			return ErrCut
		}
		return errLeave
	}
	nc := c.net
	_ = nc.SetReadDeadline(now.Add(wait))
	if command {
		c.idle, c.since = true, now
	} else {
		c.rate.from = now
	}
	c.mu.Unlock()

	n, err := nc.Read(c.in[c.tail:])

	c.mu.Lock()
	leave := c.leave != nil && !c.closed
	if command {
		c.idle = false
	} else {
		c.rate.from = time.Time{}
		c.rate.waited += time.Since(now)
		c.rate.bytes += int64(n)
	}
	c.mu.Unlock()
	c.tail += n
	if n > 0 || err == nil {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if leave && command {
			return errLeave
		}
		c.fail(ErrTimeout)
		return ErrTimeout
	}
	if errors.Is(err, net.ErrClosed) {
		err = ErrCut
	}
	if !errors.Is(err, io.EOF) {
		c.fail(err)
		return err
	}
	c.fail(io.ErrUnexpectedEOF)
	return io.ErrUnexpectedEOF
}

// readLine reads a command line without its CRLF. What it returns is valid until the next read.
func (c *Conn) readLine() ([]byte, error) {
	deadline := time.Now().Add(c.opts.Limits.Command)
	seen := 0
	for {
		window := c.in[c.head:c.tail]
		limit := c.opts.Limits.CommandLine
		if c.mode == inAuth || (len(window) >= 5 && bytes.EqualFold(window[:5], []byte("AUTH "))) {
			limit = c.opts.Limits.AuthLine
		}
		if i := bytes.IndexByte(window[seen:], '\n'); i >= 0 {
			end := seen + i
			c.head += end + 1
			switch {
			case end+1 > limit:
				return nil, errLineTooLong
			case end == 0 || window[end-1] != '\r':
				return nil, errBareLF
			}
			return window[:end-1], nil
		}
		if len(window) >= limit {
			return nil, errLineTooLong
		}
		seen = len(window)
		wait := time.Until(deadline)
		if wait <= 0 {
			c.fail(ErrTimeout)
			return nil, ErrTimeout
		}
		if err := c.fill(wait, commandBuffer, true); err != nil {
			return nil, err
		}
	}
}

func (c *Conn) setReadDeadline(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		_ = c.net.SetReadDeadline(time.Now().Add(d))
	}
}

// flush sends what is to be sent, and says whether the connection is still good.
func (c *Conn) flush() bool {
	if len(c.out) == 0 {
		return c.err == nil
	}
	out := c.out
	c.out = nil
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		c.fail(ErrCut)
		return false
	}
	nc := c.net
	_ = nc.SetWriteDeadline(time.Now().Add(c.opts.Limits.Write))
	c.mu.Unlock()
	if _, err := nc.Write(out); err != nil {
		c.fail(err)
		return false
	}
	if cap(out) <= commandBuffer {
		c.out = out[:0]
	}
	return c.err == nil
}

func replyOf(code int, enhanced, text string) *mail.Reply {
	return &mail.Reply{Code: code, Enhanced: enhanced, Text: text}
}
