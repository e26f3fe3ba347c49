package guard

import (
	"errors"
	"slices"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Command is one well-formed command line: printable US-ASCII, ended by CRLF.
type Command struct {
	// Verb in upper case.
	Verb string
	// Arg is what stands behind the verb, without the spaces around it.
	Arg string
}

// Action is what a Handler decides about a command. Make one with Pass, PassAs or Answer.
type Action struct {
	line  string
	reply *mail.Reply
}

// Pass gives go-smtp a line (without CRLF) in the place of the client's, and the client go-smtp's reply.
func Pass(line string) Action { return Action{line: line} }

// PassAs gives go-smtp a line, and the client another reply than go-smtp's.
func PassAs(line string, reply *mail.Reply) Action { return Action{line: line, reply: reply} }

// Answer keeps the command from go-smtp. After a 421 the connection ends.
func Answer(reply *mail.Reply) Action { return Action{reply: reply} }

// Cut answers and ends the connection: of the input that is already here nothing is taken for a command.
func (c *Conn) Cut(reply *mail.Reply, reason string) Action {
	c.cut(reply, reason)
	return Action{}
}

// foreign are the first words of other protocols: a browser made to talk to us, or a probe.
var foreign = []string{"GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "CONNECT", "PRI"}

// known are the verbs of the RFCs that are not offered here.
var known = []string{"EXPN", "TURN", "ETRN", "ATRN", "SEND", "SOML", "SAML", "XCLIENT", "XFORWARD", "LHLO"}

// next reads one line and sees to it that go-smtp gets something, or that something is answered.
func (c *Conn) next() {
	line, err := c.readLine()
	if err != nil {
		c.lineError(err)
		return
	}
	if c.commands++; c.commands > c.opts.Limits.Commands {
		c.cut(replyOf(421, "4.7.0", "too many commands"), "too many commands")
		return
	}
	if c.mode == inAuth {
		c.continueAuth(line)
		return
	}
	cmd, fault := parseLine(line)
	if fault != nil {
		c.say(fault)
		return
	}
	c.dispatch(cmd)
}

func (c *Conn) lineError(err error) {
	switch {
	case errors.Is(err, errBareLF):
		c.cut(replyOf(500, "5.5.2", "lines must end with CRLF (RFC 5321, section 2.3.8)"), "bare LF in a command")
	case errors.Is(err, errLineTooLong):
		c.cut(replyOf(500, "5.5.2", "line too long"), "command line too long")
	case errors.Is(err, errLeave):
		c.mu.Lock()
		r := c.leave
		c.mu.Unlock()
		c.say(r)
		c.fail(ErrCut)
	case errors.Is(err, ErrTimeout):
		c.fault("timeout")
		c.say(replyOf(421, "4.4.2", "timeout"))
	}
}

// continueAuth passes a line of a SASL exchange on. The library decodes it.
func (c *Conn) continueAuth(line []byte) {
	c.mode = inCommand
	for _, b := range line {
		if b < ' ' || b > '~' {
			// The library waits for a line; "*" ends its exchange (RFC 4954, section 4).
			c.replace = replyOf(501, "5.5.2", "not base64")
			c.pass = []byte("*\r\n")
			return
		}
	}
	c.pass = append(append([]byte(nil), line...), '\r', '\n')
}

func parseLine(line []byte) (Command, *mail.Reply) {
	for _, b := range line {
		switch {
		case b == 0:
			return Command{}, replyOf(500, "5.5.2", "NUL is not allowed")
		case b == '\r':
			return Command{}, replyOf(500, "5.5.2", "bare CR is not allowed")
		case b >= 0x80:
			return Command{}, replyOf(500, "5.5.2", "only US-ASCII is allowed (SMTPUTF8 is not offered)")
		case b < ' ' || b == 0x7f:
			return Command{}, replyOf(500, "5.5.2", "control characters are not allowed")
		}
	}
	verb, arg, _ := strings.Cut(string(line), " ")
	return Command{Verb: strings.ToUpper(verb), Arg: strings.Trim(arg, " ")}, nil
}

func (c *Conn) dispatch(cmd Command) {
	c.verb = cmd.Verb
	switch cmd.Verb {
	case "QUIT":
		if cmd.Arg != "" {
			c.say(replyOf(501, "5.5.4", "QUIT takes no argument"))
			return
		}
		c.pass = []byte("QUIT\r\n")
	case "NOOP":
		c.say(replyOf(250, "2.0.0", "OK"))
	case "VRFY":
		c.say(replyOf(252, "2.1.5", "cannot verify; send the message and see"))
	case "HELP":
		c.say(replyOf(214, "2.0.0", "see RFC 5321"))
	case "STARTTLS":
		c.startTLS(cmd.Arg)
	case "BDAT":
		// The chunk follows whatever is answered, and would be read as commands.
		c.cut(replyOf(502, "5.5.1", "CHUNKING is not offered"), "BDAT")
	case "EHLO", "HELO":
		c.ask(cmd)
	case "MAIL", "RCPT", "DATA", "AUTH", "RSET":
		if !c.hello && cmd.Verb != "RSET" {
			c.say(replyOf(503, "5.5.1", "EHLO first"))
			return
		}
		c.ask(cmd)
	default:
		c.unknown(cmd)
	}
}

func (c *Conn) unknown(cmd Command) {
	switch {
	case slices.Contains(foreign, cmd.Verb) || strings.HasSuffix(cmd.Verb, ":"):
		c.cut(replyOf(421, "4.7.0", "this is SMTP"), "another protocol")
	case slices.Contains(known, cmd.Verb):
		c.say(replyOf(502, "5.5.1", "not implemented"))
	default:
		c.say(replyOf(500, "5.5.2", "unknown command"))
	}
}

// ask lets the handler decide.
func (c *Conn) ask(cmd Command) {
	a := c.handler.Command(cmd)
	switch {
	case c.err != nil:
	case a.line != "":
		c.replace = a.reply
		c.pass = []byte(a.line + "\r\n")
		return
	case a.reply != nil:
		c.say(a.reply)
	}
	// What stands behind a DATA that was refused is a message sent without leave, not commands.
	if cmd.Verb == "DATA" {
		c.afterRefusedData()
	}
}

func (c *Conn) afterRefusedData() {
	if c.buffered() > 0 && c.err == nil {
		c.fault("input behind a refused DATA")
		c.unread = true
		c.fail(ErrCut)
	}
}
