//go:build compose

package compose

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// session is one connection of a client that logs in.
type session struct {
	conn net.Conn
	c    *smtp.Client
}

// dial connects to a published port. With login it does what a mail client does: STARTTLS and AUTH.
func dial(port int, login bool) (*session, error) {
	nc, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
	if err != nil {
		return nil, err
	}
	s := &session{conn: nc}
	if err := s.open(login); err != nil {
		_ = nc.Close()
		return nil, err
	}
	return s, nil
}

func (s *session) open(login bool) (err error) {
	if err := s.conn.SetDeadline(time.Now().Add(90 * time.Second)); err != nil {
		return err
	}
	if s.c, err = smtp.NewClient(s.conn, "relay.example.com"); err != nil {
		return err
	}
	if err := s.c.Hello("client.example.com"); err != nil || !login {
		return err
	}
	// The listener has made its certificate itself.
	if err := s.c.StartTLS(&tls.Config{InsecureSkipVerify: true}); err != nil { //nolint:gosec // see above
		return err
	}
	return s.c.Auth(smtp.PlainAuth("", user, password, "relay.example.com"))
}

// send makes one transaction. answered says that the final dot was answered: with 250 if err is nil.
func (s *session) send(from, to, raw string) (answered bool, err error) {
	if err := s.conn.SetDeadline(time.Now().Add(90 * time.Second)); err != nil {
		return true, err
	}
	if err := s.c.Mail(from); err != nil {
		return true, err
	}
	if err := s.c.Rcpt(to); err != nil {
		return true, err
	}
	w, err := s.c.Data()
	if err != nil {
		return true, err
	}
	if _, err := w.Write([]byte(raw)); err != nil {
		return false, err
	}
	err = w.Close()
	_, refused := errors.AsType[*textproto.Error](err)
	return err == nil || refused, err
}

// submit sends one message at port 587, with a login.
func (in *install) submit(from, to, raw string) error {
	s, err := dial(in.ports["SUBMISSION"], true)
	if err != nil {
		return err
	}
	defer s.conn.Close()
	if _, err := s.send(from, to, raw); err != nil {
		return err
	}
	return s.c.Quit()
}

// text is a plain message.
func text(from, to, subject, body string) string {
	return fmt.Sprintf("From: %s\r\nTo: %s\r\nSubject: %s\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%s@client.example.com>\r\n\r\n%s\r\n", from, to, subject, strings.ReplaceAll(subject, " ", "."), body)
}

// arrived finds the messages in a maildir whose Subject is this.
func arrived(dir, subject string) (found []string) {
	files, _ := filepath.Glob(filepath.Join(dir, "new", "*")) // an error is a bad pattern
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		m, err := mail.ReadMessage(strings.NewReader(string(raw)))
		if err == nil && m.Header.Get("Subject") == subject {
			found = append(found, string(raw))
		}
	}
	return found
}
