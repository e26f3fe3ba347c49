package bus

import (
	"strings"
	"time"
)

const (
	// enoughSpace is the free space, in bytes, with which a server that ran out of it is started again.
	enoughSpace = 128 << 20
	// look is how often the free space is looked at meanwhile.
	look = time.Second
	// reconnectWait is the pause of our own connections between attempts to reach a server that is started again.
	reconnectWait = 250 * time.Millisecond
)

// lostDisk says that a line of the server's log is about a stream that it has shut. The server tells it nowhere else
// within the process.
func lostDisk(line string) bool {
	return strings.Contains(line, "critical write error") || strings.Contains(line, "will be DISABLED")
}

// keep starts the server again when a stream is shut and there is space, until Stop, or until the server ends by itself.
func (s *Server) keep() {
	defer close(s.over)
	for {
		s.mu.Lock()
		ns := s.ns
		s.mu.Unlock()
		ended := make(chan struct{})
		go func() { ns.WaitForShutdown(); close(ended) }()
		select {
		case <-s.stop:
			return
		case <-ended:
			return
		case <-s.broken:
		}
		if !s.awaitSpace() {
			return
		}
		s.log.Warn("nats: a stream could not be written and is shut: the server is started again")
		s.halt()
		for len(s.broken) > 0 {
			<-s.broken // of the server that is gone
		}
		if err := s.start(); err != nil {
			s.log.Error("nats: the server cannot be started again", "error", err)
			return
		}
	}
}

// awaitSpace waits until there is space on the disk; false after Stop.
func (s *Server) awaitSpace() bool {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if free, err := s.FreeSpace(); err == nil && free >= enoughSpace {
			return true
		}
		select {
		case <-s.stop:
			return false
		case <-tick.C:
		}
	}
}
