package sink

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"time"
)

// patience is how long a client may say nothing.
const patience = 5 * time.Minute

// session is one connection.
type session struct {
	sink   *Sink
	conn   net.Conn
	r      *bufio.Reader
	w      *bufio.Writer
	secure bool
	authed bool
	// mail and rcpt: the transaction has a sender, a recipient.
	mail, rcpt bool
}

func newSession(s *Sink, c net.Conn) *session {
	x := &session{sink: s, secure: s.options.TLS == nil, authed: s.options.User == ""}
	x.use(c)
	return x
}

func (x *session) use(c net.Conn) {
	x.conn, x.r, x.w = c, bufio.NewReaderSize(c, 64<<10), bufio.NewWriter(c)
}

// serve goes on until either side has had enough.
func (x *session) serve() {
	x.say("220 sink.example.com ESMTP")
	for {
		// Answers to commands that came together go together.
		if x.r.Buffered() == 0 && x.w.Flush() != nil {
			return
		}
		if x.conn.SetDeadline(time.Now().Add(patience)) != nil {
			return
		}
		line, err := x.r.ReadSlice('\n')
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
		if err := x.command(strings.ToUpper(verb), rest); err != nil {
			_ = x.w.Flush() // the answer to QUIT
			return
		}
	}
}

// errQuit ends a session in good order.
var errQuit = errors.New("QUIT")

func (x *session) command(verb, rest string) error {
	switch verb {
	case "EHLO", "HELO":
		x.hello()
	case "STARTTLS":
		return x.startTLS()
	case "AUTH":
		x.auth(rest)
	case "MAIL":
		switch {
		case !x.secure:
			x.say("530 5.7.0 STARTTLS first")
		case !x.authed:
			x.say("530 5.7.0 authentication required")
		default:
			x.mail, x.rcpt = true, false
			x.say("250 2.1.0 sender ok")
		}
	case "RCPT":
		if !x.mail {
			x.say("503 5.5.1 MAIL first")
			break
		}
		x.rcpt = true
		x.say("250 2.1.5 recipient ok")
	case "DATA":
		if !x.rcpt {
			x.say("503 5.5.1 RCPT first")
			break
		}
		return x.data()
	case "RSET", "NOOP":
		x.mail, x.rcpt = x.mail && verb == "NOOP", x.rcpt && verb == "NOOP"
		x.say("250 2.0.0 ok")
	case "QUIT":
		x.say("221 2.0.0 bye")
		return errQuit
	default:
		x.say("502 5.5.2 unknown command")
	}
	return nil
}

func (x *session) hello() {
	lines := []string{"sink.example.com", "PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SIZE 1000000000"}
	if !x.secure {
		lines = append(lines, "STARTTLS")
	} else if x.sink.options.User != "" {
		lines = append(lines, "AUTH PLAIN")
	}
	for i, l := range lines {
		if i < len(lines)-1 {
			x.say("250-" + l)
		} else {
			x.say("250 " + l)
		}
	}
}

func (x *session) startTLS() error {
	if x.secure {
		x.say("503 5.5.1 not now")
		return nil
	}
	if x.r.Buffered() > 0 {
		return errors.New("plaintext behind STARTTLS")
	}
	x.say("220 2.0.0 go ahead")
	if err := x.w.Flush(); err != nil {
		return err
	}
	c := tls.Server(x.conn, x.sink.options.TLS)
	if err := c.Handshake(); err != nil {
		return err
	}
	x.use(c)
	x.secure, x.mail, x.rcpt = true, false, false
	return nil
}

func (x *session) auth(rest string) {
	mechanism, initial, _ := strings.Cut(rest, " ")
	response, err := base64.StdEncoding.DecodeString(initial)
	if !x.secure || !strings.EqualFold(mechanism, "PLAIN") || err != nil || initial == "" {
		x.say("504 5.5.4 only PLAIN with an initial response")
		return
	}
	if string(response) != "\x00"+x.sink.options.User+"\x00"+x.sink.options.Password {
		x.say("535 5.7.8 authentication failed")
		return
	}
	x.authed = true
	x.say("235 2.7.0 welcome")
}

func (x *session) say(line string) {
	_, _ = x.w.WriteString(line) // an error stays until Flush
	_, _ = x.w.WriteString("\r\n")
}

// end is the final dot with the line ends around it.
var end = []byte("\r\n.\r\n")

// data takes one message.
func (x *session) data() error {
	x.mail, x.rcpt = false, false
	x.say("354 go ahead")
	if err := x.w.Flush(); err != nil {
		return err
	}
	keep := x.sink.keeps()
	// A line end before the message, so that a dot at its very beginning is one, too.
	head := append(make([]byte, 0, headSize), "\r\n"...)
	var whole []byte
	size := int64(0)
	take := func(b []byte) {
		head = append(head, b[:min(len(b), cap(head)-len(head))]...)
		size += int64(len(b))
		if keep {
			whole = append(whole, b...)
		}
	}
	if err := x.toDot(take); err != nil {
		return err
	}
	a := Arrival{Size: size, At: time.Now(), Raw: whole}
	a.Token, a.Signed = examine(head, x.sink.options.TokenSize)
	x.sink.options.Arrived(a)
	x.say("250 2.0.0 taken")
	return nil
}

// toDot gives the bytes up to the final dot to take, with the line end before it.
func (x *session) toDot(take func([]byte)) error {
	if b, err := x.r.Peek(3); err != nil || string(b) == ".\r\n" { // an empty message
		_, derr := x.r.Discard(len(b))
		return errors.Join(err, derr)
	}
	for {
		if err := x.conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := x.r.Peek(len(end)); err != nil { // waits for more
			return err
		}
		b, err := x.r.Peek(x.r.Buffered())
		if err != nil {
			return err
		}
		if i := bytes.Index(b, end); i >= 0 {
			take(b[:i+2])
			_, err := x.r.Discard(i + len(end))
			return err
		}
		// The last bytes may be the beginning of the end; they are looked at again with what follows.
		n := len(b) - (len(end) - 1)
		take(b[:n])
		if _, err := x.r.Discard(n); err != nil {
			return err
		}
	}
}
