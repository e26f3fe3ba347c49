package smtpd

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pires/go-proxyproto"
)

const (
	// proxyHeader is how long a proxy may take for the line in which it names the client.
	proxyHeader = 5 * time.Second
	// proxying is how many connections may be at that line.
	proxying = 256
)

// receive takes a connection. One that comes from a proxy of the listener says first who its client is, by the PROXY
// protocol (version 1 or 2); without that it is closed. From elsewhere such a line is a command like any other, and no good one.
func (s *Server) receive(name string, nc net.Conn) {
	l, ok := s.cfg.Load().ListenerNamed(name)
	from := clientAddr(nc.RemoteAddr())
	if !ok || !slices.ContainsFunc(l.Proxy, func(p netip.Prefix) bool { return p.Contains(from) }) {
		s.take(name, nc)
		return
	}
	select {
	case s.proxied <- struct{}{}:
	default:
		s.refuse(nc, name, from, true, errCrowded, "too many connections of the proxy have not said whose they are")
		return
	}
	s.served.Add(1)
	go func() {
		defer s.served.Done()
		// A stop does not wait for silent proxies.
		stop := context.AfterFunc(s.ctx, func() { _ = nc.SetReadDeadline(time.Unix(1, 0)) })
		conn, err := readProxy(nc)
		stop()
		<-s.proxied
		if err != nil {
			s.refuse(nc, name, from, true, errClosing, "the proxy does not say who the client is: "+err.Error())
			return
		}
		s.take(name, conn)
	}()
}

// readProxy reads the header of the PROXY protocol. The connection that it gives has the client's address.
func readProxy(nc net.Conn) (net.Conn, error) {
	conn := proxyproto.NewConn(nc, proxyproto.SetReadHeaderTimeout(proxyHeader), proxyproto.WithPolicy(proxyproto.REQUIRE))
	header := conn.ProxyHeader()
	if header == nil {
		return nil, fmt.Errorf("no header of the PROXY protocol within %v", proxyHeader)
	}
	// LOCAL and UNKNOWN are the proxy itself, looking whether we live.
	if header.Command.IsProxy() && !header.TransportProtocol.IsUnspec() && !clientAddr(header.SourceAddr).IsValid() {
		return nil, fmt.Errorf("the PROXY header names no TCP client")
	}
	return conn, nil
}
