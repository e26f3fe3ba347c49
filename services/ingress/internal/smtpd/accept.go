package smtpd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/guard"
)

const (
	// defaultConnections holds where the configuration says nothing.
	defaultConnections = 1000
	// defaultPatience is how long a stranger may be idle before its connection can be given to another, when all are in use.
	defaultPatience = time.Second
	// ownPatience is how many times that long one of the company's own machines may be idle.
	ownPatience = 30
	// letGo is how long a connection that was cut may take to end.
	letGo = time.Second
)

var (
	errCrowded = &mail.Reply{Code: 421, Enhanced: "4.3.2", Text: "too many connections, try again later"}
	errClosing = &mail.Reply{Code: 421, Enhanced: "4.3.2", Text: "shutting down"}
)

// accept takes connections from l. Running out of descriptors is waited out.
func (s *Server) accept(name string, l net.Listener) error {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, l)
	}()
	delay := time.Duration(0)
	for {
		nc, err := l.Accept()
		if err == nil {
			delay = 0
			s.receive(name, nc)
			continue
		}
		s.mu.Lock()
		closing := s.closing
		s.mu.Unlock()
		var ne net.Error
		switch {
		case closing:
			return nil
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.As(err, &ne):
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.opts.Logger.Error("accept failed", "listener", name, "error", err, "retry", delay)
			sleep(s.ctx, delay)
		default:
			return fmt.Errorf("listener %s: %w", name, err)
		}
	}
}

// take guards one connection and gives it to go-smtp, or refuses it.
func (s *Server) take(name string, nc net.Conn) {
	cfg := s.cfg.Load()
	client := clientAddr(nc.RemoteAddr())
	l, ok := cfg.ListenerNamed(name)
	if !ok {
		s.refuse(nc, name, client, false, errClosing, "listener is gone from the configuration")
		return
	}
	one := &session{
		server:   s,
		listener: &l,
		client:   client,
		known:    s.opts.Policy.View().Known(name, client),
		gone:     make(chan struct{}),
		count:    s.opts.Tally.Listener(name),
		logger:   s.opts.Logger.With("listener", name, "client", client.String()),
	}
	one.guard = guard.New(nc, guard.Options{
		Hostname: cfg.Hostname,
		TLS:      s.tlsFor(&l),
		Implicit: l.TLS == config.ListenerImplicit,
		Limits:   s.opts.Limits,
		OnFault:  one.fault,
	})
	one.guard.Handle(one)
	if reply, reason := s.register(one, cfg); reply != nil {
		s.refuse(nc, name, client, l.TLS == config.ListenerImplicit, reply, reason)
		return
	}
	go func() {
		if err := one.guard.Start(s.ctx); err != nil {
			one.logger.Info("connection refused", "reason", err.Error())
			_ = one.guard.Close()
			return
		}
		one.started.Store(true)
		if r := s.leaving(); r != nil {
			one.guard.Leave(r)
		}
		if !s.feed.put(one.guard) {
			_ = one.guard.Close()
		}
	}()
}

// refuse turns a connection away that no session was made for.
func (s *Server) refuse(nc net.Conn, name string, client netip.Addr, implicit bool, r *mail.Reply, reason string) {
	s.opts.Logger.Warn("connection refused", "listener", name, "client", client.String(), "reason", reason)
	s.opts.Tally.Listener(name).Refused("connect", r)
	if !implicit {
		_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = nc.Write([]byte(r.Public() + "\r\n"))
	}
	_ = nc.Close()
}

// register admits a connection. A fifth of all is kept for clients that a relay rule knows, and one stranger may have
// half of the rest. When all are in use, whoever has been idle the longest makes room: slow clients do not keep
// others out.
func (s *Server) register(one *session, cfg *config.Config) (*mail.Reply, string) {
	limit := cfg.Ingress.Limits.Connections
	if limit <= 0 {
		limit = defaultConnections
	}
	share := limit - limit/5
	if one.known {
		share = limit
	}
	who := clientKey(one.client)

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return errClosing, "shutting down"
	}
	if s.drained {
		return errDrained, "drained"
	}
	// Those asked to leave take a moment to go; they count again when there are too many of them.
	crowd := len(s.sessions) >= limit+limit/4+8
	if !one.known && s.strangers[who] >= max(share/2, 1) && (crowd || !s.makeRoom(who, false)) {
		return errCrowded, "too many connections of this client"
	}
	if len(s.sessions)-s.going >= share && (crowd || !s.makeRoom("", one.known)) {
		return errCrowded, "too many connections"
	}
	s.sessions[one] = struct{}{}
	if !one.known {
		s.strangers[who]++
	}
	s.conns.Add(1)
	one.count.Opened()
	return nil, ""
}

// makeRoom asks one stranger to leave: the one that has been idle the longest, else one that trickles its message. For
// one of the company's own machines another of them may have to, if it has been idle for long.
func (s *Server) makeRoom(who string, known bool) bool {
	var idlest, slow, own *session
	var since, ownSince time.Time
	for one := range s.sessions {
		if one.leaving || (who != "" && clientKey(one.client) != who) {
			continue
		}
		idle, from, trickles := one.guard.Activity()
		silent := time.Since(from)
		switch {
		case one.trusted():
			if known && idle && silent >= ownPatience*s.opts.patience && (own == nil || from.Before(ownSince)) {
				own, ownSince = one, from
			}
		case idle && silent >= s.opts.patience && (idlest == nil || from.Before(since)):
			idlest, since = one, from
		case trickles:
			slow = one
		}
	}
	if idlest == nil && slow == nil {
		idlest = own
	}
	switch {
	case idlest != nil:
		s.evict(idlest)
		idlest.guard.Leave(errCrowded)
	case slow != nil:
		s.evict(slow)
		slow.guard.Kill()
	default:
		return false
	}
	return true
}

// freeBytes cuts one stranger that holds room for a message and does not send it, and waits until it has let go. It is
// for a session that got no room: else a few silent clients would keep all others' mail out.
func (s *Server) freeBytes() bool {
	s.mu.Lock()
	var slow *session
	for one := range s.sessions {
		if one.leaving || one.trusted() {
			continue
		}
		if _, _, trickles := one.guard.Activity(); trickles {
			slow = one
			break
		}
	}
	if slow != nil {
		s.evict(slow)
		slow.guard.Kill()
	}
	s.mu.Unlock()
	if slow == nil {
		return false
	}
	timer := time.NewTimer(letGo)
	defer timer.Stop()
	select {
	case <-slow.gone:
		return true
	case <-timer.C:
		return false
	}
}

// trusted says that the session is one of the company's own, by its address or its login.
func (s *session) trusted() bool { return s.known || s.authenticated.Load() }

// evict takes a session out of the counts before it has gone.
func (s *Server) evict(one *session) {
	one.leaving = true
	s.going++
	s.forgetStranger(one)
	one.logger.Info("connection given to another", "reason", "all connections are in use")
}

func (s *Server) forgetStranger(one *session) {
	if one.known || one.uncounted {
		return
	}
	one.uncounted = true
	who := clientKey(one.client)
	if s.strangers[who]--; s.strangers[who] <= 0 {
		delete(s.strangers, who)
	}
}

// unregister forgets a connection that has ended.
func (s *Server) unregister(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, one)
	if one.leaving {
		s.going--
	}
	s.forgetStranger(one)
	one.count.Closed()
	s.conns.Done()
}

// clientKey is what counts as one client: an IPv4 address, or an IPv6 network of 64 bits.
func clientKey(a netip.Addr) string {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

func clientAddr(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}
