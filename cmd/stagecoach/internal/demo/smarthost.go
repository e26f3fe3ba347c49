package demo

import (
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// The login that the smarthost takes, and the recipient that it does not know.
const (
	hostName = "smarthost.example"
	userName = "coach"
	password = "four-horses"
	refused  = "nobody@customer.example"
)

// arrival is a message that the smarthost took.
type arrival struct {
	subject string
	to      []string
	raw     []byte
}

// smarthost is a provider's mail server: it demands TLS and a login, and keeps what it takes.
type smarthost struct {
	address        string
	user, password string
	// keep gets each message that it takes, before it answers. It is called by several at once.
	keep   func(arrival) error
	server *smtp.Server

	mu       sync.Mutex
	arrivals []arrival
}

// newSmarthost prepares one on a free port, where nothing answers until start.
func newSmarthost(certificate tls.Certificate) (*smarthost, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	h := &smarthost{address: address, user: userName, password: password}
	h.keep = h.remember
	h.serveWith(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})
	return h, nil
}

func (h *smarthost) serveWith(c *tls.Config) {
	h.server = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &hostSession{host: h}, nil }))
	h.server.Domain = hostName
	h.server.TLSConfig = c
	h.server.MaxMessageBytes = 100 << 20
	h.server.ErrorLog = silent{}
}

// remember keeps a message in memory.
func (h *smarthost) remember(a arrival) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.arrivals = append(h.arrivals, a)
	return nil
}

// freeAddress finds a port of loopback that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (h *smarthost) start() error {
	l, err := net.Listen("tcp", h.address)
	if err != nil {
		return err
	}
	go func() { _ = h.server.Serve(l) }() // ends by stop
	return nil
}

func (h *smarthost) stop() { _ = h.server.Close() }

// taken gives the message with a subject.
func (h *smarthost) taken(subject string) (arrival, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.arrivals {
		if a.subject == subject {
			return a, true
		}
	}
	return arrival{}, false
}

// hostSession is one connection to the smarthost.
type hostSession struct {
	host  *smarthost
	login bool
	to    []string
}

// AuthMechanisms implements smtp.AuthSession.
func (s *hostSession) AuthMechanisms() []string { return []string{sasl.Plain} }

// Auth implements smtp.AuthSession.
func (s *hostSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, pass string) error {
		if subtle.ConstantTimeCompare([]byte(user+"\x00"+pass), []byte(s.host.user+"\x00"+s.host.password)) != 1 {
			return smtp.ErrAuthFailed
		}
		s.login = true
		return nil
	}), nil
}

// Mail implements smtp.Session.
func (s *hostSession) Mail(string, *smtp.MailOptions) error {
	if !s.login {
		return smtp.ErrAuthRequired
	}
	return nil
}

// Rcpt implements smtp.Session.
func (s *hostSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if to == refused {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such mailbox here"}
	}
	s.to = append(s.to, to)
	return nil
}

// Data implements smtp.Session.
func (s *hostSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return s.host.keep(arrival{subject: subjectOf(raw), to: s.to, raw: raw})
}

// Reset implements smtp.Session.
func (s *hostSession) Reset() { s.to = nil }

// Logout implements smtp.Session.
func (s *hostSession) Logout() error { return nil }

// subjectOf is the value of the first Subject field.
func subjectOf(raw []byte) string {
	header, _, _ := strings.Cut(string(raw[:min(len(raw), 64<<10)]), "\r\n\r\n")
	for line := range strings.SplitSeq(header, "\r\n") {
		if v, ok := strings.CutPrefix(line, "Subject: "); ok {
			return v
		}
	}
	return ""
}

// silent drops what the library would log: the table says what became of each message.
type silent struct{}

func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}

var errNotTaken = errors.New("the smarthost did not get it")
