package faults

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// perSession is how many messages a client sends over one connection.
	perSession = 20
	// smallBody and largeBody are sizes in bytes; a large one goes to the log in chunks of its own.
	smallBody, largeBody = 1 << 10, 300 << 10
	// largeEvery message of a client is large.
	largeEvery = 50
	// patience is how long a client waits for an answer: longer than an ingress is stopped.
	patience = 90 * time.Second
)

// deferral is an answer before the final dot that was not what the client hoped for.
type deferral struct {
	at   time.Time
	verb string
	code int
	took time.Duration
}

// load is clients that send without pause, and what they saw.
type load struct {
	t    testing.TB
	quit chan struct{}
	wg   sync.WaitGroup

	mu        sync.Mutex
	sent      []sending
	faults    []fault
	deferrals []deferral
}

// newLoad makes a load without clients.
func newLoad(t testing.TB) *load {
	l := &load{t: t, quit: make(chan struct{})}
	t.Cleanup(l.stop)
	return l
}

// clients starts n clients of an ingress; their names begin with name, and they rest between two messages.
func (l *load) clients(name string, n int, addr string, rest time.Duration, to ...[]string) {
	for i := range n {
		c := &client{load: l, name: fmt.Sprintf("%s%d", name, i), addr: addr, rest: rest, to: to}
		l.wg.Go(c.run)
	}
}

// stop lets the clients end what they are at.
func (l *load) stop() {
	l.mu.Lock()
	select {
	case <-l.quit:
	default:
		close(l.quit)
	}
	l.mu.Unlock()
	l.wg.Wait()
}

// pause waits, or returns false when the load ends.
func (l *load) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.quit:
		return false
	case <-t.C:
		return true
	}
}

func (l *load) note(s sending) {
	l.mu.Lock()
	l.sent = append(l.sent, s)
	l.mu.Unlock()
}

// seen gives what was seen so far.
func (l *load) seen() ([]sending, []fault, []deferral) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]sending(nil), l.sent...), append([]fault(nil), l.faults...), append([]deferral(nil), l.deferrals...)
}

func count(sent []sending, o outcome) int {
	n := 0
	for _, s := range sent {
		if s.outcome == o {
			n++
		}
	}
	return n
}

// client sends one message after the other.
type client struct {
	load *load
	name string
	addr string
	rest time.Duration
	to   [][]string // taken in turn
	n    int
}

func (c *client) run() {
	for c.load.pause(rand.N(c.rest + 1)) {
		_ = c.session() // its end is in the ledger; then a new one
	}
}

// conn is one SMTP connection.
type conn struct {
	net.Conn
	text *textproto.Conn
}

func dial(addr string) (*conn, error) {
	nc, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	c := &conn{nc, textproto.NewConn(nc)}
	err = c.SetDeadline(time.Now().Add(patience))
	if err == nil {
		_, _, err = c.text.ReadResponse(220)
	}
	if err == nil {
		err = c.cmd(250, "EHLO client.example.com")
	}
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return c, nil
}

// cmd says a line and waits for the answer.
func (c *conn) cmd(want int, format string, args ...any) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := c.text.PrintfLine(format, args...); err != nil {
		return err
	}
	_, _, err := c.text.ReadResponse(want)
	return err
}

func (c *client) session() error {
	nc, err := dial(c.addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	for range perSession {
		if err := c.message(nc); err != nil {
			return err
		}
		if !c.load.pause(rand.N(c.rest + 1)) {
			break
		}
	}
	return nc.cmd(221, "QUIT")
}

// message makes one transaction; an error ends the session.
func (c *client) message(nc *conn) error {
	c.n++
	size := smallBody
	if c.n%largeEvery == 0 {
		size = largeBody
	}
	s := sending{token: fmt.Sprintf("%s-%d-%d", c.name, c.n, size), to: c.to[c.n%len(c.to)]}
	open, err := c.open(nc, s)
	if err != nil || !open {
		return err
	}
	if err := nc.body(s.token); err != nil {
		c.load.note(s)
		return err
	}
	err = nc.dot(&s)
	c.load.note(s)
	return err
}

// open says MAIL, RCPT and DATA; false: refused, and the session goes on.
func (c *client) open(nc *conn, s sending) (bool, error) {
	// With its size, as an ingress reserves for the largest message where it is not told.
	lines := []string{fmt.Sprintf("MAIL FROM:<alice@example.com> SIZE=%d", len(payload(s.token))+(1<<10))}
	for _, to := range s.to {
		lines = append(lines, "RCPT TO:<"+to+">")
	}
	for i, line := range append(lines, "DATA") {
		want := 250
		if i == len(lines) {
			want = 354
		}
		start := time.Now()
		err := nc.cmd(want, "%s", line)
		refusal := (*textproto.Error)(nil)
		if errors.As(err, &refusal) {
			verb, _, _ := strings.Cut(line, " ")
			c.load.mu.Lock()
			c.load.deferrals = append(c.load.deferrals, deferral{at: start, verb: verb, code: refusal.Code, took: time.Since(start)})
			c.load.mu.Unlock()
			return false, nc.cmd(250, "RSET")
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// body sends a message without its final dot.
func (c *conn) body(token string) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.text.W, "From: Alice <alice@example.com>\r\nTo: somebody@example.net\r\nSubject: load %s\r\nDate: Tue, 03 Feb 2026 04:05:06 +0000\r\n\r\n%s", token, payload(token))
	if err == nil {
		err = c.text.W.Flush()
	}
	return err
}

// dot gives the final dot and notes the answer; an error says that there was none.
func (c *conn) dot(s *sending) error {
	s.dot = time.Now()
	s.outcome = unanswered
	err := c.SetDeadline(s.dot.Add(patience))
	if err == nil {
		err = c.text.PrintfLine(".")
	}
	if err != nil {
		s.answered = time.Now()
		return err
	}
	code, text, err := c.text.ReadResponse(0)
	s.answered = time.Now()
	if err != nil {
		return err
	}
	s.reply = fmt.Sprintf("%d %s", code, text)
	if s.outcome = refused; code == 250 {
		s.outcome = acked
		s.id, _, _ = strings.Cut(strings.TrimPrefix(text, "2.0.0 "), " ")
	}
	return nil
}

// payload is the body that belongs to a token: what arrives must have it, byte for byte.
func payload(token string) []byte {
	var size int
	_, _ = fmt.Sscanf(token[strings.LastIndex(token, "-")+1:], "%d", &size) //nolint:errcheck // 0 gives a body of one line
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "Line %d of %s: the mail coach changed horses, and went on.\r\n", i, token)
	}
	fmt.Fprintf(&b, "The end of %s.\r\n", token)
	return b.Bytes()
}
