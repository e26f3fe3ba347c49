package guard

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Handler is the session behind the guard. It is called by the goroutine that serves the connection.
type Handler interface {
	// Command decides about one of EHLO, HELO, MAIL, RCPT, DATA, AUTH and RSET; the guard answers all others itself.
	Command(cmd Command) Action
	// Extensions are the EHLO keywords that are offered now, without STARTTLS, which the guard adds.
	Extensions() []string
	// Secured is called after a STARTTLS handshake: whatever the client said before is forgotten (RFC 3207, section 4.2).
	Secured()
	// Closed is called once, when the connection has ended.
	Closed()
}

// Options of a Conn.
type Options struct {
	// Hostname stands in the greeting and in the reply to EHLO.
	Hostname string
	// TLS is nil where TLS is not offered.
	TLS *tls.Config
	// Implicit: TLS from the first byte (RFC 8314, section 3.3); Start does the handshake.
	Implicit bool
	Limits   Limits
	// OnFault hears of what the guard refuses on its own account; the text is ours, not the client's. May be nil.
	OnFault func(reason string)
}

// Limits of a Conn; a zero takes the default.
type Limits struct {
	// CommandLine is the longest command line in octets, CRLF included: 4096. RFC 5321 asks for 512, RFC 3461 for more.
	CommandLine int
	// AuthLine is the longest line of an AUTH exchange: 12288 (RFC 4954, section 4).
	AuthLine int
	// DataLine is the longest line of message data: 1 MiB. RFC 5321 asks for 1000; longer ones are carried as they are.
	DataLine int
	// Commands between two accepted messages: 20000.
	Commands int
	// Errors are replies of 500 to 504 and 555 in one connection: 20.
	Errors int
	// Discard is how many octets of a message that is already refused are read for the sake of a reply: 64 MiB.
	Discard int64

	// Command is how long a client may take for a whole command line: 5 min (RFC 5321, section 4.5.3.2.7).
	Command time.Duration
	// Data is how long a client may be silent within message data: 5 min.
	Data time.Duration
	// Grace and Rate bound how long message data may take: Grace (10 min) and its octets divided by Rate (100 a second).
	// Only the time spent waiting for the client counts.
	Grace time.Duration
	Rate  int64
	// Stall is how long a client may be silent within message data, or under Rate, before it is called slow: 10 s.
	Stall time.Duration
	// Write is how long one write may take: 1 min. Handshake is for TLS: 30 s.
	Write, Handshake time.Duration
}

func (l Limits) withDefaults() Limits {
	fill := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	long := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	wait := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	fill(&l.CommandLine, 4096)
	fill(&l.AuthLine, 12288)
	fill(&l.DataLine, 1<<20)
	fill(&l.Commands, 20000)
	fill(&l.Errors, 20)
	long(&l.Discard, 64<<20)
	long(&l.Rate, 100)
	wait(&l.Command, 5*time.Minute)
	wait(&l.Data, 5*time.Minute)
	wait(&l.Grace, 10*time.Minute)
	wait(&l.Stall, 10*time.Second)
	wait(&l.Write, time.Minute)
	wait(&l.Handshake, 30*time.Second)
	return l
}

type mode int

const (
	inCommand mode = iota
	inAuth         // the library said 334: the next line belongs to the SASL exchange
	inData         // the library said 354: message data follows
	afterData      // the end of data has been read; the library still waits for its own
)

// ErrTimeout says that the client took too long.
var ErrTimeout = errors.New("guard: the client is too slow")

// ErrCut says that the guard ended the connection.
var ErrCut = errors.New("guard: connection cut")

// Conn is the guard of one connection. It is the net.Conn that go-smtp is given.
type Conn struct {
	opts    Options
	handler Handler
	remote  net.Addr
	local   net.Addr

	mu     sync.Mutex // for net, idle, farewell and closed
	net    net.Conn
	idle   bool // waiting for a command
	since  time.Time
	leave  *mail.Reply
	closed bool
	rate   rate

	in       []byte // what was read; [head, tail) is not yet used
	head     int
	tail     int
	out      []byte
	pass     []byte // what the library has still to read
	answer   []byte // the library's reply, as far as it is here
	mode     mode
	verb     string
	replace  *mail.Reply // stands for the library's next reply
	greeted  bool        // the greeting is out
	hello    bool        // EHLO or HELO was accepted since the start, or since STARTTLS
	state    *tls.ConnectionState
	commands int
	faults   int
	body     bodyState
	doubtful bool // the message that was refused may go on behind its end
	unread   bool // the connection ends with input that nobody will read
	err      error
	said421  bool
	once     sync.Once
}

// New guards nc. The handler must be set with Handle before Start.
func New(nc net.Conn, opts Options) *Conn {
	opts.Limits = opts.Limits.withDefaults()
	return &Conn{opts: opts, net: nc, remote: nc.RemoteAddr(), local: nc.LocalAddr(), since: time.Now()}
}

// Handle sets the handler.
func (c *Conn) Handle(h Handler) { c.handler = h }

// Handler is what Handle was given.
func (c *Conn) Handler() Handler { return c.handler }

// TLS is the state of the encrypted session, or nil.
func (c *Conn) TLS() *tls.ConnectionState { return c.state }

// Accepted starts the count of commands again: a message was taken.
func (c *Conn) Accepted() { c.commands = 0 }

// Read gives go-smtp its next line. Every error is final, and told as io.EOF: the guard has said what was to be said.
func (c *Conn) Read(p []byte) (int, error) {
	for len(c.pass) == 0 {
		if c.err != nil {
			c.flush()
			return 0, io.EOF
		}
		switch c.mode {
		case inData:
			c.discardBody()
		case afterData:
			c.mode = inCommand
			c.pass = append(c.pass, ".\r\n"...)
		default:
			c.next()
		}
	}
	n := copy(p, c.pass)
	c.pass = c.pass[n:]
	if len(c.pass) == 0 {
		c.pass = nil
	}
	return n, nil
}

// Close ends the connection: what is to be said is sent, and input that nobody will read is read away for a moment,
// because a reset would take the reply with it.
func (c *Conn) Close() error {
	var err error
	c.once.Do(func() {
		c.flush()
		if c.unread {
			c.linger()
		}
		c.mu.Lock()
		c.closed = true
		nc := c.net
		c.mu.Unlock()
		c.fail(ErrCut)
		err = nc.Close()
		if c.handler != nil {
			c.handler.Closed()
		}
	})
	return err
}

const (
	lingerTime  = time.Second
	lingerBytes = 1 << 20
)

func (c *Conn) linger() {
	half, ok := c.net.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.setReadDeadline(lingerTime)
	_, _ = io.CopyN(io.Discard, c.net, lingerBytes)
}

// Kill ends the connection at once, from any goroutine.
func (c *Conn) Kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave = &mail.Reply{Code: 421, Enhanced: "4.3.2", Text: "closing"}
	c.closed = true
	_ = c.net.SetDeadline(time.Unix(1, 0))
}

// Leave ends the connection with the reply (a 421) as soon as it waits for a command; a message under way is
// finished first. It may be called from any goroutine, and more than once.
func (c *Conn) Leave(r *mail.Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leave != nil {
		return
	}
	c.leave = r
	if c.idle {
		_ = c.net.SetReadDeadline(time.Unix(1, 0))
	}
}

// Activity says, from any goroutine, whether the client has been awaited for a command, and since when; and, while
// it sends message data, whether it is silent, or slower than Limits.Rate over the time that it was waited for.
func (c *Conn) Activity() (idle bool, since time.Time, slow bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idle, c.since, c.rate.slow(c.opts.Limits.Rate, c.opts.Limits.Stall)
}

// LocalAddr of the connection.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr of the connection.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline does nothing: the guard keeps the time.
func (c *Conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (c *Conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

func (c *Conn) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *Conn) fault(reason string) {
	if c.opts.OnFault != nil {
		c.opts.OnFault(reason)
	}
}

// cut answers and ends the connection; input that is left is never parsed.
func (c *Conn) cut(r *mail.Reply, reason string) {
	c.fault(reason)
	c.say(r)
	c.unread = true
	c.fail(ErrCut)
}
