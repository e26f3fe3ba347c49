package rig

import (
	"bytes"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"sync"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Delivery is one message that the sink answered with 250.
type Delivery struct {
	// ID is the relay's id of the message, from its Received field.
	ID   string
	From string
	To   []string
	Raw  []byte
	// Dot is when the last byte had arrived, Answered when the 250 was given to the library.
	Dot, Answered time.Time
}

// Sink is a smarthost for tests: it demands TLS and AUTH, and keeps what it takes.
type Sink struct {
	Addr string

	mu         sync.Mutex
	password   string
	refuse     map[string]*smtp.SMTPError
	deliveries []Delivery
	keepBodies bool
	keep       func(raw []byte) []byte
	beforeDot  func(id string)
	onHead     func(head []byte)
	afterBody  func(id string) error
	logins     int

	conns  map[*smtp.Conn]bool
	rig    *Rig
	server *smtp.Server
}

// The login that the sink takes.
const (
	SinkUser     = "relay-user"
	SinkPassword = "correct horse"
)

// NewSink starts a smarthost on the port of name; its certificate is for smarthost.example.
func (r *Rig) NewSink(name string) *Sink {
	r.T.Helper()
	pair := r.CA.Issue(r.T, r.Path("sink"), "smarthost", "smarthost.example")
	s := &Sink{Addr: r.Addr(name), password: SinkPassword, refuse: map[string]*smtp.SMTPError{}, conns: map[*smtp.Conn]bool{}, keepBodies: true, rig: r}
	s.server = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conns[c] = true
		return &sinkSession{sink: s, conn: c}, nil
	}))
	s.server.Domain = "smarthost.example"
	s.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.server.MaxMessageBytes = 200 << 20
	s.server.EnableDSN = true
	s.server.ErrorLog = quiet{}
	s.listen()
	r.WriteFile("secrets/smarthost", SinkPassword+"\n")
	r.T.Cleanup(func() { _ = s.server.Close() })
	return s
}

// Route is the configuration of a smarthost route to the sink.
func (s *Sink) Route() string {
	return fmt.Sprintf("{smarthost: {address: %q, tls: required, server_name: smarthost.example, ca_file: sink/ca.pem, auth: {username: %s, password_file: secrets/smarthost}}}", s.Addr, SinkUser)
}

func (s *Sink) listen() {
	l, err := net.Listen("tcp", s.Addr)
	if err != nil {
		s.rig.T.Fatal(err)
	}
	go func() { _ = s.server.Serve(l) }()
}

// Refuse answers RCPT for an address with this reply from now on; code 0 takes it again.
func (s *Sink) Refuse(address string, code int, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if code == 0 {
		delete(s.refuse, address)
		return
	}
	s.refuse[address] = &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 1, 1}, Message: text}
}

// SetPassword changes the password that the sink takes.
func (s *Sink) SetPassword(p string) {
	s.mu.Lock()
	s.password = p
	s.mu.Unlock()
}

// HangUp cuts every connection: the next message needs a new login.
func (s *Sink) HangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Conn().Close() // it may have ended
	}
}

// DropBodies keeps the ledger but not the bytes.
func (s *Sink) DropBodies() {
	s.mu.Lock()
	s.keepBodies = false
	s.mu.Unlock()
}

// Keep keeps of each message what f makes of its bytes.
func (s *Sink) Keep(f func(raw []byte) []byte) {
	s.mu.Lock()
	s.keep = f
	s.mu.Unlock()
}

// OnBody calls f when the body has arrived, before the answer; an error of f is the answer.
func (s *Sink) OnBody(f func(id string) error) {
	s.mu.Lock()
	s.afterBody = f
	s.mu.Unlock()
}

// OnData calls f when the header of a message has arrived, while its body may still be on its way.
func (s *Sink) OnData(f func(id string)) {
	s.mu.Lock()
	s.beforeDot = f
	s.mu.Unlock()
}

// OnHead calls f with the first bytes of a message, at most 4096, while its body may still be on its way.
func (s *Sink) OnHead(f func(head []byte)) {
	s.mu.Lock()
	s.onHead = f
	s.mu.Unlock()
}

// Deliveries are what the sink has taken so far.
func (s *Sink) Deliveries() []Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Delivery(nil), s.deliveries...)
}

// Find gives the deliveries of one message.
func (s *Sink) Find(id string) []Delivery {
	var out []Delivery
	for _, d := range s.Deliveries() {
		if d.ID == id {
			out = append(out, d)
		}
	}
	return out
}

// Wait waits until a message has arrived.
func (s *Sink) Wait(id string, limit time.Duration) Delivery {
	s.rig.T.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if found := s.Find(id); len(found) > 0 {
			return found[0]
		}
		if time.Now().After(end) {
			s.rig.T.Fatalf("message %s has not arrived within %v", id, limit)
		}
	}
}

type sinkSession struct {
	sink   *Sink
	conn   *smtp.Conn
	authed bool
	from   string
	to     []string
}

func (s *sinkSession) AuthMechanisms() []string {
	if _, ok := s.conn.TLSConnectionState(); !ok {
		return nil
	}
	return []string{sasl.Plain}
}

func (s *sinkSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		s.sink.mu.Lock()
		defer s.sink.mu.Unlock()
		s.sink.logins++
		if user != SinkUser || subtle.ConstantTimeCompare([]byte(password), []byte(s.sink.password)) != 1 {
			return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "authentication failed"}
		}
		s.authed = true
		return nil
	}), nil
}

func (s *sinkSession) Mail(from string, _ *smtp.MailOptions) error {
	if !s.authed {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "authentication required"}
	}
	s.from, s.to = from, nil
	return nil
}

func (s *sinkSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.sink.mu.Lock()
	defer s.sink.mu.Unlock()
	if e := s.sink.refuse[to]; e != nil {
		return e
	}
	s.to = append(s.to, to)
	return nil
}

var receivedID = regexp.MustCompile(`(?i)\sid ([0-9a-z]{20,40}) \(stagecoach`)

// IDOf finds the relay's id in a header.
func IDOf(raw []byte) string {
	if m := receivedID.FindSubmatch(raw); m != nil {
		return string(m[1])
	}
	return ""
}

func (s *sinkSession) Data(r io.Reader) error {
	s.sink.mu.Lock()
	keep, digest, before, after, onHead := s.sink.keepBodies, s.sink.keep, s.sink.beforeDot, s.sink.afterBody, s.sink.onHead
	s.sink.mu.Unlock()
	head := make([]byte, 4096)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	d := Delivery{ID: IDOf(head[:n]), From: s.from, To: s.to}
	if onHead != nil {
		onHead(head[:n])
	}
	if before != nil {
		before(d.ID)
	}
	body := bytes.NewBuffer(append([]byte(nil), head[:n]...))
	if keep {
		_, err = io.Copy(body, r)
	} else {
		_, err = io.Copy(io.Discard, r)
	}
	if err != nil {
		return err
	}
	d.Raw, d.Dot = body.Bytes(), time.Now()
	if digest != nil {
		d.Raw = digest(d.Raw)
	}
	if after != nil {
		if err := after(d.ID); err != nil {
			return err
		}
	}
	s.sink.mu.Lock()
	d.Answered = time.Now()
	s.sink.deliveries = append(s.sink.deliveries, d)
	s.sink.mu.Unlock()
	return nil
}

func (s *sinkSession) Reset() { s.from, s.to = "", nil }

func (s *sinkSession) Logout() error {
	s.sink.mu.Lock()
	defer s.sink.mu.Unlock()
	delete(s.sink.conns, s.conn)
	return nil
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}
