package antivirus

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// script is what a fake clamd does with one connection.
type script struct {
	// reply is sent as it is; it needs a NUL of its own.
	reply string
	// after is how many bytes of the message are read before the reply; 0: all of it.
	after int
	// wait, if not nil, is waited for before the reply.
	wait <-chan struct{}
	// hang: after the reply the rest is neither read nor the connection closed, until the client goes.
	hang bool
}

// fakeClamd is a clamd that keeps to scripts: the first for the first connection, the last for all others.
type fakeClamd struct {
	url     string
	scripts []script
	stop    chan struct{}

	mu      sync.Mutex
	n       int
	at, max int      // scans at once: now, at most
	bodies  [][]byte // of whole messages
	scanned chan struct{}
}

func newFakeClamd(t testing.TB, network string, scripts ...script) *fakeClamd {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "clamd.sock")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeClamd{url: network + "://" + l.Addr().String(), scripts: scripts, stop: make(chan struct{}), scanned: make(chan struct{}, 1000)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				f.serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(f.stop)
		wg.Wait()
	})
	return f
}

func (f *fakeClamd) serve(conn net.Conn) {
	f.mu.Lock()
	s := f.scripts[min(f.n, len(f.scripts)-1)]
	f.n++
	f.mu.Unlock()
	r := bufio.NewReaderSize(conn, 4096)
	if cmd, err := r.ReadBytes(0); err != nil || string(cmd) != "zINSTREAM\x00" {
		return
	}
	var body bytes.Buffer
	whole := false
	for !whole && (s.after == 0 || body.Len() < s.after) {
		var size uint32
		if err := binary.Read(r, binary.BigEndian, &size); err != nil {
			return
		}
		n := int64(size)
		if s.after > 0 {
			n = min(n, int64(s.after-body.Len()))
		}
		if _, err := io.CopyN(&body, r, n); err != nil {
			return
		}
		whole = size == 0
	}
	f.mu.Lock()
	if whole {
		f.bodies = append(f.bodies, body.Bytes())
	}
	f.at++
	f.max = max(f.max, f.at)
	f.mu.Unlock()
	f.scanned <- struct{}{}
	if s.wait != nil {
		select {
		case <-s.wait:
		case <-f.stop:
			return
		}
	}
	f.mu.Lock()
	f.at--
	f.mu.Unlock()
	if _, err := io.WriteString(conn, s.reply); err != nil {
		return
	}
	if s.hang {
		b := make([]byte, 1)
		for whole { // then there is nothing left to read but the end
			if _, err := r.Read(b); err != nil {
				return
			}
		}
		// Not reading is the point: what is in the way goes with the connection.
		<-f.stop
	}
}

func (f *fakeClamd) seen() (connections, whole, atOnce int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n, len(f.bodies), f.max
}
