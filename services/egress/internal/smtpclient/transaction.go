package smtpclient

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Opening is what the peer said to MAIL, RCPT and DATA.
type Opening struct {
	// Mail is nil if MAIL was not answered.
	Mail *mail.Reply
	// Rcpt has one place for each recipient; nil where none was given, or asked for, an answer.
	Rcpt []*mail.Reply
	// Data is nil if DATA was not sent or not answered, or was answered by 354.
	Data *mail.Reply
	// Open: the peer waits for the body (354).
	Open bool
}

// Open begins a transaction: MAIL, one RCPT for each recipient, DATA, in one go where the peer offers PIPELINING.
// DATA is left out where no recipient was accepted and that is known in time. A refusal is in the Opening; the error, an
// *Error, says that the session broke, and the Opening then holds what was answered before.
func (c *Client) Open(ctx context.Context, e *Envelope) (Opening, error) {
	o := Opening{Rcpt: make([]*mail.Reply, len(e.To))}
	lines := make([]string, 0, len(e.To)+2)
	first, err := c.mailLine(e)
	if err != nil {
		return o, &Error{Step: StepMAIL, Err: err}
	}
	lines = append(lines, first)
	for i := range e.To {
		l, err := c.rcptLine(&e.To[i])
		if err != nil {
			return o, &Error{Step: StepRCPT, Err: err}
		}
		lines = append(lines, l)
	}
	lines = append(lines, "DATA")
	if c.Offers("PIPELINING") {
		return o, c.openAtOnce(ctx, &o, lines)
	}
	return o, c.openByStep(ctx, &o, lines)
}

func (c *Client) openAtOnce(ctx context.Context, o *Opening, lines []string) error {
	stop := c.arm(ctx, c.deadlines.Mail)
	defer stop()
	for _, l := range lines {
		if err := c.line(l); err != nil {
			return c.broken(ctx, StepMAIL, err)
		}
	}
	if err := c.w.Flush(); err != nil {
		// A server that closes says why, if it can (421); the answer to MAIL may be waiting.
		if rep, e := readReply(c.r); e == nil {
			o.Mail = rep.mail()
		}
		return c.broken(ctx, StepMAIL, err)
	}
	rep, err := c.await(ctx, StepMAIL, c.deadlines.Mail)
	if err != nil {
		return err
	}
	o.Mail = rep.mail()
	for i := range o.Rcpt {
		if rep, err = c.await(ctx, StepRCPT, c.deadlines.Rcpt); err != nil {
			return err
		}
		o.Rcpt[i] = rep.mail()
	}
	if rep, err = c.await(ctx, StepDATA, c.deadlines.Data); err != nil {
		return err
	}
	return o.data(rep)
}

func (c *Client) openByStep(ctx context.Context, o *Opening, lines []string) error {
	rep, err := c.command(ctx, StepMAIL, c.deadlines.Mail, lines[0])
	if err != nil {
		return err
	}
	o.Mail = rep.mail()
	if rep.code/100 != 2 {
		return nil
	}
	accepted := 0
	for i := range o.Rcpt {
		if rep, err = c.command(ctx, StepRCPT, c.deadlines.Rcpt, lines[i+1]); err != nil {
			return err
		}
		o.Rcpt[i] = rep.mail()
		if rep.code/100 == 2 {
			accepted++
		}
		if rep.code == 421 {
			return nil
		}
	}
	if accepted == 0 {
		return nil
	}
	if rep, err = c.command(ctx, StepDATA, c.deadlines.Data, "DATA"); err != nil {
		return err
	}
	return o.data(rep)
}

func (o *Opening) data(rep reply) error {
	switch {
	case rep.code == 354:
		o.Open = true
	case rep.code < 400:
		return &Error{Step: StepDATA, Err: errors.New("the answer to DATA is neither 354 nor a refusal")}
	default:
		o.Data = rep.mail()
	}
	return nil
}

// Body sends the message, dot-stuffed (RFC 5321, section 4.5.2) and otherwise byte for byte, without the final dot.
// progress is called before the first and after each block with the number of bytes of the message sent so far.
//
// Where the peer answers before the end, a refusal is an *Error with that Reply. After any error the connection can only
// be closed; the peer has then seen no end of data.
func (c *Client) Body(ctx context.Context, message io.WriterTo, progress func(sent int64)) error {
	stop := c.arm(ctx, c.deadlines.Block)
	defer stop()
	progress(0)
	d := &dotWriter{out: &blockWriter{ctx: ctx, conn: c.conn, limit: c.deadlines.Block}, progress: progress}
	if _, err := message.WriteTo(d); err != nil {
		return c.bodyFailed(ctx, d.bodyError(err))
	}
	if err := d.finish(); err != nil {
		return c.bodyFailed(ctx, d.bodyError(err))
	}
	if c.r.Buffered() > 0 {
		return c.bodyFailed(ctx, errors.New("an answer before the end of data"))
	}
	return nil
}

// bodyFailed looks for the reason that a peer gives when it hangs up in the middle of a message.
func (c *Client) bodyFailed(ctx context.Context, err error) error {
	var timeout net.Error
	if ctx.Err() != nil || errors.Is(err, ErrBareControl) || errors.As(err, &timeout) && timeout.Timeout() {
		return c.broken(ctx, StepBody, err)
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(min(c.deadlines.Reset, time.Second)))
	if rep, e := readReply(c.r); e == nil && rep.code >= 400 {
		return &Error{Step: StepBody, Reply: rep.mail()}
	}
	return c.broken(ctx, StepBody, err)
}

// Dot ends the data and waits for the answer, for the full deadline whatever happens elsewhere: the message has been
// handed over. The dot must leave within the time given. An error after that is an unknown outcome.
func (c *Client) Dot(within time.Duration) (*mail.Reply, error) {
	now := time.Now()
	_ = c.conn.SetReadDeadline(now.Add(c.deadlines.Dot))
	_ = c.conn.SetWriteDeadline(now.Add(within))
	if _, err := c.conn.Write([]byte(".\r\n")); err != nil {
		return nil, &Error{Step: StepDot, Err: err}
	}
	rep, err := readReply(c.r)
	if err != nil {
		return nil, c.broken(context.Background(), StepDot, err)
	}
	if rep.code < 400 && rep.code/100 != 2 {
		return nil, &Error{Step: StepDot, Err: errReplySyntax}
	}
	return rep.mail(), nil
}
