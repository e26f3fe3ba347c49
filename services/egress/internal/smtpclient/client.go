package smtpclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// TLSMode is how a session speaks TLS.
type TLSMode int

// The TLS modes.
const (
	// PlainText never asks for TLS.
	PlainText TLSMode = iota
	// Opportunistic uses STARTTLS where it is offered and granted.
	Opportunistic
	// Required fails without STARTTLS.
	Required
	// Implicit speaks TLS from the first byte (RFC 8314).
	Implicit
)

// Options are what a session needs to know.
type Options struct {
	// Helo is the name given in EHLO.
	Helo string
	TLS  TLSMode
	// TLSConfig says what is verified; needed unless TLS is PlainText.
	TLSConfig *tls.Config
	// Auth, if not nil, logs in. It is used over TLS only.
	Auth      *Auth
	Deadlines Deadlines
}

// Client is one SMTP session, ready for a transaction.
type Client struct {
	conn      net.Conn
	r         *bufio.Reader
	w         *bufio.Writer
	ext       map[string]string
	deadlines Deadlines
	tls       *tls.ConnectionState
	auth      string
}

const bodyBlock = 64 << 10 // bytes in one write of a body

// Start speaks on conn up to where a transaction can begin: greeting, EHLO (or HELO), STARTTLS, AUTH.
// It owns conn, and closes it when it fails. Its errors are *Error.
func Start(ctx context.Context, conn net.Conn, o Options) (*Client, error) {
	c := &Client{conn: conn, deadlines: o.Deadlines.withDefaults()}
	if err := c.start(ctx, o); err != nil {
		// A refusal in words deserves a farewell; a broken connection cannot take one.
		if e, ok := AsError(err); ok && e.Reply != nil && e.Reply.Code != 421 {
			c.Quit()
		} else {
			c.Close()
		}
		return nil, err
	}
	return c, nil
}

func (c *Client) start(ctx context.Context, o Options) error {
	if o.Auth != nil && o.TLS != Required && o.TLS != Implicit {
		return &Error{Step: StepAUTH, Err: errors.New("AUTH is used over TLS only")}
	}
	c.use(c.conn)
	if o.TLS == Implicit {
		if err := c.handshake(ctx, o.TLSConfig); err != nil {
			return err
		}
	}
	rep, err := c.await(ctx, StepGreeting, c.deadlines.Greeting)
	if err != nil {
		return err
	}
	if rep.code != 220 {
		return &Error{Step: StepGreeting, Reply: rep.mail()}
	}
	if err := c.hello(ctx, o.Helo); err != nil {
		return err
	}
	if o.TLS == Opportunistic || o.TLS == Required {
		if err := c.startTLS(ctx, o); err != nil {
			return err
		}
	}
	if o.Auth != nil {
		return c.login(ctx, o.Auth)
	}
	return nil
}

func (c *Client) use(conn net.Conn) {
	c.conn = conn
	c.r = bufio.NewReaderSize(conn, 2*maxReplyLine)
	c.w = bufio.NewWriterSize(conn, 4<<10)
}

// hello says EHLO, and HELO to those who do not know EHLO (RFC 5321, section 3.2).
func (c *Client) hello(ctx context.Context, name string) error {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return &Error{Step: StepEHLO, Err: fmt.Errorf("invalid HELO name %q", name)}
	}
	c.ext = nil
	rep, err := c.command(ctx, StepEHLO, c.deadlines.Hello, "EHLO "+name)
	if err != nil {
		return err
	}
	switch rep.code {
	case 250:
		c.ext = extensions(rep.lines)
		return nil
	case 500, 501, 502, 504, 550:
	default:
		return &Error{Step: StepEHLO, Reply: rep.mail()}
	}
	rep, err = c.command(ctx, StepEHLO, c.deadlines.Hello, "HELO "+name)
	if err != nil {
		return err
	}
	if rep.code != 250 {
		return &Error{Step: StepEHLO, Reply: rep.mail()}
	}
	return nil
}

// extensions reads the keywords of an EHLO answer; the first line is the greeting. "AUTH=PLAIN LOGIN" is how servers
// before RFC 2554 wrote it.
func extensions(lines []string) map[string]string {
	ext := make(map[string]string, len(lines))
	for _, l := range lines[1:] {
		if len(l) > 5 && strings.EqualFold(l[:5], "AUTH=") {
			l = "AUTH " + l[5:]
		}
		key, params, _ := strings.Cut(strings.TrimSpace(l), " ")
		key = strings.ToUpper(key)
		if old := ext[key]; old != "" {
			params = old + " " + params
		}
		ext[key] = strings.TrimSpace(params)
	}
	return ext
}

func (c *Client) startTLS(ctx context.Context, o Options) error {
	if !c.Offers("STARTTLS") {
		if o.TLS == Required {
			return &Error{Step: StepSTARTTLS, Err: ErrNoTLS}
		}
		return nil
	}
	rep, err := c.command(ctx, StepSTARTTLS, c.deadlines.Hello, "STARTTLS")
	if err != nil {
		return err
	}
	if c.r.Buffered() > 0 {
		return &Error{Step: StepSTARTTLS, Err: ErrInjected}
	}
	if rep.code != 220 {
		if o.TLS == Opportunistic && rep.code != 421 {
			return nil
		}
		return &Error{Step: StepSTARTTLS, Reply: rep.mail()}
	}
	if err := c.handshake(ctx, o.TLSConfig); err != nil {
		return err
	}
	// What was offered before the handshake anybody may have written (RFC 3207, section 4.2).
	return c.hello(ctx, o.Helo)
}

func (c *Client) handshake(ctx context.Context, config *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, c.deadlines.Hello)
	defer cancel()
	_ = c.conn.SetDeadline(time.Time{})
	conn := tls.Client(c.conn, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return &Error{Step: StepTLS, Err: err}
	}
	state := conn.ConnectionState()
	c.tls = &state
	c.use(conn)
	return nil
}

// Offers says that the peer announced an extension, by its EHLO keyword.
func (c *Client) Offers(keyword string) bool {
	_, ok := c.ext[keyword]
	return ok
}

// SizeLimit is the largest message in bytes that the peer takes (RFC 1870); 0 if it does not say.
func (c *Client) SizeLimit() int64 {
	n, err := strconv.ParseInt(c.ext["SIZE"], 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// TLS is the name of the TLS version in use, or "".
func (c *Client) TLS() string {
	if c.tls == nil {
		return ""
	}
	return tls.VersionName(c.tls.Version)
}

// Mechanism is the AUTH mechanism that was used, or "".
func (c *Client) Mechanism() string { return c.auth }

// Idle says that nothing unasked-for has been read: the session may carry another transaction.
func (c *Client) Idle() bool { return c.r.Buffered() == 0 }

// command sends one line and reads its answer. 421 is returned like any other answer.
func (c *Client) command(ctx context.Context, step string, limit time.Duration, line string) (reply, error) {
	stop := c.arm(ctx, limit)
	defer stop()
	if err := c.line(line); err != nil {
		return reply{}, c.broken(ctx, step, err)
	}
	if err := c.w.Flush(); err != nil {
		return reply{}, c.broken(ctx, step, err)
	}
	rep, err := readReply(c.r)
	if err != nil {
		return reply{}, c.broken(ctx, step, err)
	}
	return rep, nil
}

// await reads one answer.
func (c *Client) await(ctx context.Context, step string, limit time.Duration) (reply, error) {
	stop := c.arm(ctx, limit)
	defer stop()
	rep, err := readReply(c.r)
	if err != nil {
		return reply{}, c.broken(ctx, step, err)
	}
	return rep, nil
}

// line buffers one command. It is the one door for commands, so this is where no second one gets through.
func (c *Client) line(s string) error {
	if strings.ContainsAny(s, "\r\n\x00") {
		return errors.New("line break or NUL in a command")
	}
	if _, err := c.w.WriteString(s); err != nil {
		return err
	}
	_, err := c.w.WriteString("\r\n")
	return err
}

// arm sets the deadline of a step, and lets the end of ctx cut it short. Once stop has returned, nothing of this step
// touches the deadlines any more: the next step may be the final dot, which no ctx may cut short.
func (c *Client) arm(ctx context.Context, limit time.Duration) (stop func()) {
	_ = c.conn.SetDeadline(time.Now().Add(limit))
	cut := make(chan struct{})
	conn := c.conn
	off := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0))
		close(cut)
	})
	return func() {
		if !off() {
			<-cut
		}
	}
}

func (c *Client) broken(ctx context.Context, step string, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	} else if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &Error{Step: step, Err: err}
}

// Reset ends a transaction that was not carried through (RSET).
func (c *Client) Reset(ctx context.Context) error {
	rep, err := c.command(ctx, StepRSET, c.deadlines.Reset, "RSET")
	if err != nil {
		return err
	}
	if rep.code != 250 {
		return &Error{Step: StepRSET, Reply: rep.mail()}
	}
	return nil
}

// Quit says good-bye, waits shortly for the answer, and closes.
func (c *Client) Quit() {
	defer c.Close()
	_ = c.conn.SetDeadline(time.Now().Add(c.deadlines.Farewell))
	if c.line("QUIT") == nil && c.w.Flush() == nil {
		_, _ = readReply(c.r)
	}
}

// Close cuts the connection.
func (c *Client) Close() { _ = c.conn.Close() }
