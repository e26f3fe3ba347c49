package bus

import (
	"fmt"
	"strings"
	"time"
)

const (
	// leastSpace is the free space, in bytes, under which the server is stopped: a stream that meets the end of the disk
	// is shut for good, and one whose sequence does not begin at 1 makes NATS count, and take memory, for ever.
	leastSpace = 64 << 20
	// enoughSpace is the free space with which it is started again.
	enoughSpace = 2 * leastSpace
	// look is how often the free space is looked at.
	look = 250 * time.Millisecond
	// reconnectWait is the pause of our own connections between attempts to reach a server that is started again.
	reconnectWait = 250 * time.Millisecond
)

// lostDisk says that a line of the server's log is about a stream that it has shut. The server tells it nowhere else
// within the process.
func lostDisk(line string) bool {
	return strings.Contains(line, "critical write error") || strings.Contains(line, "will be DISABLED")
}

// keep stops the server while there is no space, or when a stream is shut, and starts it again when there is space;
// until Stop, or until the server ends by itself.
func (s *Server) keep() {
	defer close(s.over)
	for {
		s.mu.Lock()
		ns := s.ns
		s.mu.Unlock()
		ended := make(chan struct{})
		go func() { ns.WaitForShutdown(); close(ended) }()
		why := s.watch(ended)
		if why == "" {
			return
		}
		s.log.Error("nats: stopped until there is space", "why", why, "wanted", enoughSpace)
		s.halt()
		for len(s.broken) > 0 {
			<-s.broken // of the server that is gone
		}
		if !s.awaitSpace() {
			return
		}
		if err := s.start(); err != nil {
			s.log.Error("nats: the server cannot be started again", "error", err)
			return
		}
		s.log.Info("nats: started again")
	}
}

// watch waits for a reason to stop the server; empty: it has ended, or Stop was called.
func (s *Server) watch(ended <-chan struct{}) (why string) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return ""
		case <-ended:
			return ""
		case <-s.broken:
			return "a stream could not be written and is shut"
		case <-tick.C:
			if free, err := s.FreeSpace(); err == nil && free < leastSpace {
				return fmt.Sprintf("the disk has %d bytes left", free)
			}
			s.renew()
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
