// Package sink is a smarthost that counts: it takes mail with as little work as possible, and says of each message which
// one it was and when it came.
package sink

import (
	"bytes"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// Arrival is one message that the sink took.
type Arrival struct {
	// Token is what the message carries to be known by; empty if there is none.
	Token string
	// Size is what came after the answer to DATA, without the final dot, as it was on the wire (dot-stuffed).
	Size int64
	// Signed says that there is a DKIM-Signature field near its beginning.
	Signed bool
	// At is when the final dot had come, before the answer.
	At time.Time
	// Raw is the whole message as it was on the wire, of those that are kept.
	Raw []byte
}

// Options are how a sink works.
type Options struct {
	// TLS makes STARTTLS mandatory; nil: there is none.
	TLS *tls.Config
	// User and Password make AUTH PLAIN mandatory; empty: there is none.
	User, Password string
	// TokenSize is the length of tokens in bytes.
	TokenSize int
	// Keep is how many messages are kept whole: the first ones.
	Keep int
	// Arrived is called for each message before it is answered, from several goroutines.
	Arrived func(Arrival)
}

// Sink is a running one.
type Sink struct {
	options Options
	l       net.Listener
	wg      sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]bool
	kept   int
}

// Serve starts a sink on l, which it closes in the end.
func Serve(l net.Listener, o Options) *Sink {
	s := &Sink{options: o, l: l, conns: map[net.Conn]bool{}}
	s.wg.Go(s.accept)
	return s
}

// Close ends all connections and waits until nothing runs any more.
func (s *Sink) Close() error {
	s.mu.Lock()
	s.closed = true
	err := s.l.Close()
	for c := range s.conns {
		_ = c.Close() // its session sees it
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

func (s *Sink) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return // closed, or nothing that the bench could go on with: mail does not arrive, and it says so
		}
		s.mu.Lock()
		if s.closed {
			_ = c.Close()
		}
		s.conns[c] = true
		s.mu.Unlock()
		s.wg.Go(func() {
			newSession(s, c).serve()
			_ = c.Close() // it has ended either way
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// keeps says whether one more message is kept whole.
func (s *Sink) keeps() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept >= s.options.Keep {
		return false
	}
	s.kept++
	return true
}

// headSize is how many bytes at the beginning of a message are searched for its token: enough for some signatures and trace
// fields before it.
const headSize = 16 << 10

var (
	tokenField     = []byte("\nMessage-ID: <bench-")
	signatureField = []byte("\nDKIM-Signature:")
)

// examine finds the token in the beginning of a message, and says whether that is signed. head has a line end before it.
func examine(head []byte, tokenSize int) (token string, signed bool) {
	if i := bytes.Index(head, tokenField); i >= 0 && len(head) >= i+len(tokenField)+tokenSize {
		token = string(head[i+len(tokenField):][:tokenSize])
	}
	return token, bytes.Contains(head, signatureField)
}
