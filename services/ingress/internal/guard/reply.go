package guard

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// coalesced is how many octets of replies are kept back at most.
const coalesced = 16 << 10

// Write takes go-smtp's reply, line by line, and sends it, or what stands for it. It never fails: the next Read does.
func (c *Conn) Write(p []byte) (int, error) {
	c.answer = append(c.answer, p...)
	for {
		whole, code, first := c.takeAnswer()
		if !whole {
			return len(p), nil
		}
		c.libraryReply(code, first)
	}
}

// takeAnswer takes a whole reply off c.answer: its code, and the text of its lines.
func (c *Conn) takeAnswer() (whole bool, code int, text string) {
	rest := c.answer
	var lines []string
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return false, 0, ""
		}
		line := strings.TrimRight(string(rest[:i]), "\r")
		rest = rest[i+1:]
		if len(line) >= 4 {
			lines = append(lines, line[4:])
			if line[3] == '-' {
				continue
			}
		}
		c.answer = append(c.answer[:0], rest...)
		if len(line) < 3 {
			return true, 421, ""
		}
		code, err := strconv.Atoi(line[:3])
		if err != nil {
			return true, 421, ""
		}
		return true, code, strings.Join(lines, "\n")
	}
}

// libraryReply turns go-smtp's reply into ours, and follows its state by it.
func (c *Conn) libraryReply(code int, text string) {
	r := c.replace
	c.replace = nil
	if !c.greeted {
		c.greeted = true
		if code == 220 {
			c.say(replyOf(220, "", c.opts.Hostname+" ESMTP Stagecoach"))
			return
		}
	}
	switch {
	case r != nil:
	case code == 354:
		c.beginBody()
		r = replyOf(354, "", "end data with <CR><LF>.<CR><LF>")
	case code == 334:
		c.mode = inAuth
		r = replyOf(334, "", text)
	case code == 250 && (c.verb == "EHLO" || c.verb == "HELO"):
		c.hello = true
		if c.verb == "EHLO" {
			c.sayLines(250, append([]string{c.opts.Hostname}, c.extensions()...))
			return
		}
		r = replyOf(250, "", c.opts.Hostname)
	case code == 250 && c.verb == "MAIL":
		r = replyOf(250, "2.1.0", "sender accepted")
	case code == 250 && c.verb == "RCPT":
		r = replyOf(250, "2.1.5", "recipient accepted")
	case code == 235:
		r = replyOf(235, "2.7.0", "authenticated")
	case code == 221:
		r = replyOf(221, "2.0.0", c.opts.Hostname+" closing")
	case code == 502:
		r = replyOf(503, "5.5.1", "bad sequence of commands")
	case code == 454 && strings.HasSuffix(text, "Invalid base64 data"):
		r = replyOf(501, "5.5.2", "not base64")
	case code == 421 && strings.HasSuffix(text, "Internal server error"):
		r = replyOf(421, "4.3.0", "internal error")
	default:
		r = split(code, text)
	}
	c.say(r)
	if c.verb == "DATA" && r.Code >= 400 {
		c.afterRefusedData()
	}
	if c.doubtful && c.err == nil {
		c.fault("bare CR in a message: its end is in doubt")
		c.unread = true
		c.fail(ErrCut)
	}
}

// split separates the enhanced code from the text of a reply. The library puts it into the last line only.
func split(code int, text string) *mail.Reply {
	last := strings.LastIndexByte(text, '\n') + 1
	enhanced, rest, ok := strings.Cut(text[last:], " ")
	if ok && len(enhanced) >= 5 && enhanced[1] == '.' && strings.Trim(enhanced, "0123456789.") == "" {
		return replyOf(code, enhanced, text[:last]+rest)
	}
	return replyOf(code, "", text)
}

func (c *Conn) extensions() []string {
	ext := c.handler.Extensions()
	if c.opts.TLS != nil && c.state == nil {
		ext = append(ext, "STARTTLS")
	}
	return ext
}

// say puts a reply into the queue of what is to be sent, and counts what the client did wrong.
func (c *Conn) say(r *mail.Reply) {
	lines := strings.Split(r.Text, "\n")
	if r.Enhanced != "" {
		for i := range lines {
			lines[i] = r.Enhanced + " " + lines[i]
		}
	}
	c.sayLines(r.Code, lines)
	switch {
	case r.Code == 421:
		c.fail(ErrCut)
	case (r.Code >= 500 && r.Code <= 504) || r.Code == 555:
		if c.faults++; c.faults == c.opts.Limits.Errors {
			c.cut(replyOf(421, "4.7.0", "too many errors"), "too many errors")
		}
	}
}

// replyLine bounds the text of a reply line (RFC 5321, section 4.5.3.1.5).
const replyLine = 500

func (c *Conn) sayLines(code int, lines []string) {
	if c.said421 {
		return
	}
	c.said421 = code == 421
	for i, line := range lines {
		sep := byte('-')
		if i == len(lines)-1 {
			sep = ' '
		}
		c.out = strconv.AppendInt(c.out, int64(code), 10)
		c.out = append(c.out, sep)
		c.out = append(c.out, clean(line)...)
		c.out = append(c.out, '\r', '\n')
	}
	if len(c.out) > coalesced {
		c.flush()
	}
}

// clean keeps a reply to printable US-ASCII: nothing that came from outside makes a line of its own.
func clean(s string) string {
	if len(s) > replyLine {
		s = s[:replyLine]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
