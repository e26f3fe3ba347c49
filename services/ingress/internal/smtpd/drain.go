package smtpd

import "github.com/stagecoachmail/stagecoach/mail"

var errDrained = &mail.Reply{Code: 421, Enhanced: "4.3.2", Text: "out of service, try again later"}

// Drain takes no more mail: connections hear 421, sessions that wait for a command as well, and a message that is being
// received is finished. With false mail is taken again.
func (s *Server) Drain(drain bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drained = drain
	if !drain {
		return
	}
	for one := range s.sessions {
		if one.started.Load() { // else it is told once it has begun
			one.guard.Leave(errDrained)
		}
	}
}

// Sessions is how many there are.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// leaving is what a session that begins now hears at once; nil: nothing.
func (s *Server) leaving() *mail.Reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		return errClosing
	case s.drained:
		return errDrained
	}
	return nil
}
