package demo

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"
)

// send hands a message over as the company's mail server would, and gives the id that stands in the 250.
func send(ctx context.Context, addr net.Addr, s *sample) (id string, err error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, addr.Network(), addr.String())
	if err != nil {
		return "", err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	c := textproto.NewConn(nc)
	if _, _, err := c.ReadResponse(220); err != nil {
		return "", err
	}
	for _, step := range []struct {
		line string
		code int
	}{
		{"EHLO mail." + company, 250},
		{"MAIL FROM:<alice@" + company + ">", 250},
		{"RCPT TO:<" + s.to + ">", 250},
		{"DATA", 354},
	} {
		if err := c.PrintfLine("%s", step.line); err != nil {
			return "", err
		}
		if _, _, err := c.ReadResponse(step.code); err != nil {
			return "", fmt.Errorf("%s: %w", step.line, err)
		}
	}
	w := bufio.NewWriterSize(nc, 64<<10)
	for line := range bytes.Lines(s.raw) {
		if line[0] == '.' {
			_ = w.WriteByte('.') // what fails is told by Flush
		}
		_, _ = w.Write(line)
	}
	_, _ = w.WriteString(".\r\n")
	if err := w.Flush(); err != nil {
		return "", err
	}
	_, text, err := c.ReadResponse(250)
	if err != nil {
		return "", err
	}
	for f := range strings.FieldsSeq(text) {
		if len(f) == 26 {
			return f, c.PrintfLine("QUIT")
		}
	}
	return "", fmt.Errorf("no id in %q", text)
}
