package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/test/bench/internal/corpus"
)

// patience is how long a server may take for an answer, or for a message.
const patience = 2 * time.Minute

// Who writes to whom.
const (
	sender    = "alice@example.com"
	recipient = "bob@example.net"
)

// Target is the server that is loaded.
type Target struct {
	Addr string
	// TLS makes the loader say STARTTLS; nil: it does not.
	TLS *tls.Config
	// User and Password make it log in (AUTH PLAIN); empty: it does not.
	User, Password string
}

// reply is an answer of the server (RFC 5321, section 4.2): its code, and the text of its last line.
type reply struct {
	code int
	text string
}

func (r *reply) Error() string { return fmt.Sprintf("%d %s", r.code, r.text) }

// session is one SMTP connection.
type session struct {
	conn net.Conn
	r    *bufio.Reader
	stop func() bool
}

// dial connects, says EHLO, and does what the target wants before it takes mail. Cancelling ctx breaks the session.
func dial(ctx context.Context, t Target) (*session, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, r: bufio.NewReader(conn), stop: context.AfterFunc(ctx, func() { _ = conn.Close() })}
	if err := s.open(t); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) open(t Target) error {
	if err := errors.Join(s.expect(220), s.say("EHLO bench.example.com\r\n"), s.expect(250)); err != nil {
		return fmt.Errorf("greeting and EHLO: %w", err)
	}
	if t.TLS != nil {
		if err := errors.Join(s.say("STARTTLS\r\n"), s.expect(220)); err != nil {
			return fmt.Errorf("STARTTLS: %w", err)
		}
		s.conn = tls.Client(s.conn, t.TLS)
		s.r = bufio.NewReader(s.conn)
		if err := errors.Join(s.say("EHLO bench.example.com\r\n"), s.expect(250)); err != nil {
			return fmt.Errorf("EHLO under TLS: %w", err)
		}
	}
	if t.User != "" {
		initial := base64.StdEncoding.EncodeToString([]byte("\x00" + t.User + "\x00" + t.Password))
		if err := errors.Join(s.say("AUTH PLAIN "+initial+"\r\n"), s.expect(235)); err != nil {
			return fmt.Errorf("AUTH: %w", err)
		}
	}
	return nil
}

// close ends the connection without a word.
func (s *session) close() {
	s.stop()
	_ = s.conn.Close() // nothing depends on it any more
}

// quit ends it in good order.
func (s *session) quit() error {
	defer s.close()
	return errors.Join(s.say("QUIT\r\n"), s.expect(221))
}

// send makes one transaction: MAIL, RCPT and DATA in one write, then the message. A *reply is the server's answer that
// was not the one to go on with; the session is good after it. Any other error ends the session. began is called with
// the time at which the data begins.
func (s *session) send(m *corpus.Message, token string, began func(time.Time)) error {
	if err := s.say(fmt.Sprintf("MAIL FROM:<%s> SIZE=%d BODY=8BITMIME\r\nRCPT TO:<%s>\r\nDATA\r\n", sender, m.Size(), recipient)); err != nil {
		return err
	}
	var refused *reply
	for _, want := range []int{250, 250, 354} {
		err := s.expect(want)
		answer, ok := errors.AsType[*reply](err)
		switch {
		case err == nil && want == 354 && refused != nil:
			return fmt.Errorf("354 after %w", refused)
		case ok && refused == nil: // those that follow only follow from it
			refused = answer
		case err != nil && !ok:
			return err
		}
	}
	if refused != nil {
		if err := errors.Join(s.say("RSET\r\n"), s.expect(250)); err != nil {
			return fmt.Errorf("RSET after %w: %w", refused, err)
		}
		return refused
	}
	began(time.Now())
	b := append(m.Buffers(token), []byte(".\r\n"))
	if _, err := b.WriteTo(s.conn); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	return s.expect(250)
}

// say sends commands.
func (s *session) say(lines string) error {
	if err := s.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := s.conn.Write([]byte(lines))
	return err
}

// expect reads a reply. One with another code is an error.
func (s *session) expect(code int) error {
	got, err := s.reply()
	if err != nil {
		return fmt.Errorf("waiting for %d: %w", code, err)
	}
	if got.code != code {
		return &got
	}
	return nil
}

func (s *session) reply() (reply, error) {
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return reply{}, err
		}
		line = strings.TrimRight(line, "\r\n")
		var got reply
		if len(line) < 3 {
			return got, fmt.Errorf("no reply: %q", line)
		}
		if _, err := fmt.Sscanf(line[:3], "%d", &got.code); err != nil {
			return got, fmt.Errorf("no reply: %q", line)
		}
		if len(line) == 3 || line[3] == ' ' {
			got.text = strings.TrimSpace(line[3:])
			return got, nil
		}
	}
}
