package guard

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"
)

// Start does what comes before the greeting: the TLS handshake of an implicit TLS listener. After an error the
// connection is to be closed.
func (c *Conn) Start(ctx context.Context) error {
	if !c.opts.Implicit {
		return nil
	}
	if c.opts.TLS == nil {
		return errors.New("guard: implicit TLS without a TLS configuration")
	}
	return c.handshake(ctx)
}

// startTLS follows RFC 3207. What a client sent behind the command was sent by someone who did not wait for the
// answer: perhaps not by the client at all (CVE-2011-0411).
func (c *Conn) startTLS(arg string) {
	switch {
	case c.state != nil:
		c.say(replyOf(503, "5.5.1", "TLS is already active"))
	case c.opts.TLS == nil:
		c.say(replyOf(502, "5.5.1", "TLS is not offered"))
	case arg != "":
		c.say(replyOf(501, "5.5.4", "STARTTLS takes no argument"))
	case c.buffered() > 0:
		c.cut(replyOf(554, "5.5.0", "no input is allowed between STARTTLS and its answer"), "input behind STARTTLS")
	default:
		c.say(replyOf(220, "2.0.0", "ready for TLS"))
		if !c.flush() {
			return
		}
		if err := c.handshake(context.Background()); err != nil {
			c.fault(err.Error())
			c.fail(ErrCut)
			return
		}
		c.hello = false
		c.handler.Secured()
	}
}

func (c *Conn) handshake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Limits.Handshake)
	defer cancel()
	// Who is slow to shake hands is idle like one who is slow to speak, and can be asked to leave.
	now := time.Now()
	c.mu.Lock()
	raw := c.net
	gone := c.closed || c.leave != nil
	c.idle, c.since = true, now
	_ = raw.SetReadDeadline(now.Add(c.opts.Limits.Handshake))
	c.mu.Unlock()
	if gone {
		return ErrCut
	}
	t := tls.Server(raw, c.opts.TLS)
	err := t.HandshakeContext(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = false
	if err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	if c.closed {
		return ErrCut
	}
	c.net = t
	state := t.ConnectionState()
	c.state = &state
	return nil
}
