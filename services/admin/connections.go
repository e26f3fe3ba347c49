package admin

import (
	"net"
	"net/netip"
	"sync"
)

const (
	// maxConnections are open at the port at once, and maxFromOne of them from one address (IPv6: a /64). More are closed
	// at once: who is slow cannot keep others out.
	maxConnections = 2048
	maxFromOne     = 128
)

// limited is a listener that bounds its open connections.
type limited struct {
	net.Listener

	mu   sync.Mutex
	open int
	from map[netip.Prefix]int
}

func limit(l net.Listener) *limited { return &limited{Listener: l, from: map[netip.Prefix]int{}} }

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := sourceOf(c.RemoteAddr().String())
		if l.take(source) {
			return &counted{Conn: c, give: sync.OnceFunc(func() { l.give(source) })}, nil
		}
		_ = c.Close() //nolint:errcheck // nothing was said
	}
}

func (l *limited) take(source netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= maxConnections || l.from[source] >= maxFromOne {
		return false
	}
	l.open++
	l.from[source]++
	return true
}

func (l *limited) give(source netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.from[source]--; l.from[source] == 0 {
		delete(l.from, source)
	}
}

// counted is a connection that is given back once.
type counted struct {
	net.Conn
	give func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.give()
	return c.Conn.Close()
}
