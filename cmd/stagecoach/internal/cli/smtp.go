package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"net/textproto"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

const (
	dialWithin = 30 * time.Second
	// commandWithin and dataWithin are what RFC 5321, section 4.5.3.2 wants of a client, at least.
	commandWithin = 5 * time.Minute
	dataWithin    = 10 * time.Minute
)

type smtpOptions struct {
	server string
	tls    string // none, starttls, implicit; empty: starttls if offered
	ca     string
	login  *credentials
	note   func(string)
}

// smtpClient sends messages over one connection. EHLO, STARTTLS and AUTH are the standard library's; MAIL, RCPT and DATA
// are made here, from parsed addresses alone, so that replies are not lost and no byte of a message is changed.
type smtpClient struct {
	conn net.Conn
	c    *smtp.Client
	stop func() bool
}

// dialSMTP connects, encrypts, and logs in.
func dialSMTP(ctx context.Context, o smtpOptions) (_ *smtpClient, err error) {
	host, _, err := net.SplitHostPort(o.server)
	if err != nil {
		return nil, usagef("--server %q: %w; it is host:port", o.server, err)
	}
	if !slices.Contains([]string{"", "none", "starttls", "implicit"}, o.tls) {
		return nil, usagef("--tls %q: one of none, starttls, implicit", o.tls)
	}
	conf, err := tlsConfig(host, o)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: dialWithin}
	conn, err := d.DialContext(ctx, "tcp", o.server)
	if err != nil {
		return nil, fmt.Errorf("nothing takes mail at %s: %w: is the address right (--server), and does it run?", o.server, err)
	}
	// An interrupt ends whatever is waited for.
	s := &smtpClient{conn: conn, stop: context.AfterFunc(ctx, func() { _ = conn.Close() })} //nolint:errcheck // it ends the wait
	defer func() {
		if err != nil {
			s.stop()
			err = errors.Join(err, ignoreClosed(conn.Close()))
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(commandWithin)); err != nil {
		return nil, err
	}
	if o.tls == "implicit" {
		t := tls.Client(conn, conf)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, tlsError(o.server, err)
		}
		s.conn = t
	}
	if s.c, err = smtp.NewClient(s.conn, host); err != nil {
		return nil, fmt.Errorf("%s did not greet: %w", o.server, err)
	}
	return s, s.begin(o, conf)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *smtpClient) begin(o smtpOptions, conf *tls.Config) error {
	if err := s.c.Hello(helloName()); err != nil {
		return fmt.Errorf("%s refused EHLO: %w", o.server, err)
	}
	offered, _ := s.c.Extension("STARTTLS")
	switch {
	case o.tls == "starttls" && !offered:
		return fmt.Errorf("%s offers no STARTTLS: --tls none sends without", o.server)
	case offered && (o.tls == "starttls" || o.tls == ""):
		if err := s.c.StartTLS(conf); err != nil {
			return tlsError(o.server, err)
		}
	}
	if o.login == nil {
		return nil
	}
	if ok, _ := s.c.Extension("AUTH"); !ok {
		return fmt.Errorf("%s offers no login here: it may want TLS (--tls), or another port", o.server)
	}
	host, _, err := net.SplitHostPort(o.server)
	if err != nil {
		return err
	}
	if _, encrypted := s.c.TLSConnectionState(); !encrypted && !isLoopback(host) {
		return fmt.Errorf("%s is not spoken to by TLS: a password is not sent like that", o.server)
	}
	if err := s.c.Auth(smtp.PlainAuth("", o.login.user, o.login.password, host)); err != nil {
		return fmt.Errorf("%s refused the login of %s: %w", o.server, o.login.user, err)
	}
	return nil
}

func tlsError(server string, err error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("the certificate of %s cannot be verified: %w: name the one to trust with --ca FILE", server, err)
	}
	return fmt.Errorf("TLS with %s: %w", server, err)
}

// helloName is the machine's name, if it is one that can be said.
func helloName() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	if _, err := mail.ParseAddress("x@" + name); err != nil {
		return "localhost"
	}
	return name
}

// tlsConfig verifies the server; on this machine it only says so where that fails, unless --ca asks for it.
func tlsConfig(host string, o smtpOptions) (*tls.Config, error) {
	conf := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", o.ca)
		}
		return conf, nil
	}
	if !isLoopback(host) {
		return conf, nil
	}
	conf.InsecureSkipVerify = true //nolint:gosec // VerifyConnection does it, and tells
	conf.VerifyConnection = func(state tls.ConnectionState) error {
		between := x509.NewCertPool()
		for _, c := range state.PeerCertificates[1:] {
			between.AddCert(c)
		}
		if _, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: host, Intermediates: between}); err != nil {
			o.note(fmt.Sprintf("note: the certificate of %s is not verified (%v); it is taken since it is this machine's", o.server, err))
		}
		return nil
	}
	return conf, nil
}

// isLoopback says that a host is this machine.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (s *smtpClient) close() {
	if err := s.conn.SetDeadline(time.Now().Add(5 * time.Second)); err == nil {
		_ = s.c.Quit() //nolint:errcheck // all that matters was answered
	}
	s.stop()
	_ = s.conn.Close() //nolint:errcheck // all that matters was answered
}

// command sends a line and reads its reply, whatever its code is.
func (s *smtpClient) command(within time.Duration, format string, args ...any) (code int, reply string, err error) {
	if err := s.conn.SetDeadline(time.Now().Add(within)); err != nil {
		return 0, "", err
	}
	id, err := s.c.Text.Cmd(format, args...)
	if err != nil {
		return 0, "", err
	}
	s.c.Text.StartResponse(id)
	defer s.c.Text.EndResponse(id)
	return s.response()
}

func (s *smtpClient) response() (int, string, error) {
	code, message, err := s.c.Text.ReadResponse(0)
	if _, ok := errors.AsType[*textproto.Error](err); err != nil && !ok {
		return 0, "", fmt.Errorf("no answer: %w", err)
	}
	return code, fmt.Sprintf("%d %s", code, strings.ReplaceAll(message, "\n", " ")), nil
}

// send sends one message. An error means that the connection is of no use any more; a refusal is none.
func (s *smtpClient) send(d *draft) (sent, error) {
	out := sent{File: d.name}
	mailFrom, err := s.mailFrom(d)
	if err != nil {
		return out, err
	}
	code, reply, err := s.command(commandWithin, "%s", mailFrom)
	if err != nil {
		return out, err
	}
	if code/100 != 2 {
		return out.refused(d, reply), s.reset()
	}
	accepted := 0
	for _, to := range d.to {
		code, reply, err := s.command(commandWithin, "RCPT TO:<%s>", to)
		if err != nil {
			return out, err
		}
		if code/100 == 2 {
			accepted++
		}
		out.Recipients = append(out.Recipients, sentRecipient{Address: to.String(), Accepted: code/100 == 2, Reply: reply})
		out.Reply = reply
	}
	if accepted == 0 {
		return out, s.reset()
	}
	code, reply, err = s.data(d.content)
	if err != nil {
		return out, err
	}
	out.Reply = reply
	// What was said of the message holds for every recipient that was taken so far.
	for i := range out.Recipients {
		if r := &out.Recipients[i]; r.Accepted {
			r.Accepted, r.Reply = code/100 == 2, reply
		}
	}
	if code/100 != 2 {
		return out, s.reset()
	}
	out.ID = idIn.FindString(reply)
	return out, nil
}

// idIn finds the id that Stagecoach gives with its 250.
var idIn = regexp.MustCompile(`\b[0-9a-z]{26}\b`)

func (s sent) refused(d *draft, reply string) sent {
	s.Reply = reply
	for _, to := range d.to {
		s.Recipients = append(s.Recipients, sentRecipient{Address: to.String(), Reply: reply})
	}
	return s
}

func (s *smtpClient) reset() error {
	_, _, err := s.command(commandWithin, "RSET")
	return err
}

func (s *smtpClient) mailFrom(d *draft) (string, error) {
	line := fmt.Sprintf("MAIL FROM:<%s>", d.from)
	if ok, _ := s.c.Extension("SIZE"); ok {
		line += fmt.Sprintf(" SIZE=%d", len(d.content))
	}
	eight := slices.ContainsFunc(d.content, func(b byte) bool { return b >= 0x80 })
	if ok, _ := s.c.Extension("8BITMIME"); ok && eight {
		line += " BODY=8BITMIME"
	}
	ascii := d.from.IsASCII() && !slices.ContainsFunc(d.to, func(a mail.Address) bool { return !a.IsASCII() })
	if !ascii {
		if ok, _ := s.c.Extension("SMTPUTF8"); !ok {
			return "", errors.New("an address is not ASCII, and the server offers no SMTPUTF8")
		}
		line += " SMTPUTF8"
	}
	return line, nil
}

// data sends the message with its dots stuffed (RFC 5321, section 4.5.2).
func (s *smtpClient) data(content []byte) (int, string, error) {
	code, reply, err := s.command(commandWithin, "DATA")
	if err != nil || code != 354 {
		return code, reply, err
	}
	if err := s.conn.SetDeadline(time.Now().Add(dataWithin)); err != nil {
		return 0, "", err
	}
	w := s.c.Text.Writer.W
	for line := range bytes.Lines(content) {
		if line[0] == '.' {
			_ = w.WriteByte('.') //nolint:errcheck // Flush tells
		}
		_, _ = w.Write(line) //nolint:errcheck // Flush tells
	}
	if len(content) > 0 && !bytes.HasSuffix(content, []byte("\r\n")) {
		_, _ = w.WriteString("\r\n") //nolint:errcheck // Flush tells
	}
	_, _ = w.WriteString(".\r\n") //nolint:errcheck // Flush tells
	if err := w.Flush(); err != nil {
		return 0, "", err
	}
	return s.response()
}
