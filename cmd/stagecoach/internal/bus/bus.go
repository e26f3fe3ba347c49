// Package bus is the embedded NATS server: under `up` inside the process, under `stagecoach nats` on a port.
package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// maxPayload is the largest record in bytes: an accepted entry is at most 2 MB, a chunk 1 MiB.
	maxPayload = 8 << 20
	// maxStore is more than any disk has, in bytes.
	maxStore = 1 << 50
	// startWait is how long the server may take to read its streams at start.
	startWait = 2 * time.Minute
)

// Options of the server.
type Options struct {
	// Dir is the folder of the streams.
	Dir string
	// Listen is the host:port for clients; empty: only this process can connect.
	Listen string
	// Monitor is the host:port of the HTTP monitor; empty: none.
	Monitor string
	// ConfigFile is a NATS server configuration file (users, TLS, cluster); it may not switch off what durability
	// needs. Empty: none. The certificates that it names are read again when they change.
	ConfigFile string
	// Look is how often they are looked at; 0: every minute.
	Look   time.Duration
	Logger *slog.Logger
}

// Server is a running NATS server that acknowledges only what is on stable storage. A stream that could not write,
// for want of space, stays shut in NATS until the server is started again: Server does that when there is space.
type Server struct {
	how     Options
	options *server.Options
	dir     string
	log     *slog.Logger
	broken  chan struct{} // a stream could not write
	stop    chan struct{}
	over    chan struct{} // the keeper has ended

	// looked is when the certificates were read last, complaint what was wrong with them then.
	looked    time.Time
	complaint string

	mu sync.Mutex
	ns *server.Server // nil while it is started again
}

// Start starts the server and waits until it serves.
func Start(o Options) (*Server, error) {
	so, err := o.server()
	if err != nil {
		return nil, err
	}
	s := &Server{how: o, options: so, dir: so.StoreDir, log: o.Logger, broken: make(chan struct{}, 1), stop: make(chan struct{}), over: make(chan struct{}), looked: time.Now()}
	if err := s.start(); err != nil {
		return nil, err
	}
	go s.keep()
	return s, nil
}

// server reads the configuration file, if there is one, and makes the options of the NATS server.
func (o Options) server() (*server.Options, error) {
	so := &server.Options{ServerName: "stagecoach"}
	if o.ConfigFile != "" {
		var err error
		if so, err = server.ProcessConfigFile(o.ConfigFile); err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
	}
	if so.StoreDir == "" {
		so.StoreDir = o.Dir
	}
	so.JetStream = true
	so.SyncAlways = true
	so.NoSigs = true
	so.MaxPayload = maxPayload
	so.MaxPending = 256 << 20
	if so.JetStreamMaxStore <= 0 {
		// The server reserves the limits of all streams, and on a small disk would refuse to make them. What bounds
		// intake is the free space that is there.
		so.JetStreamMaxStore = maxStore
	}
	so.DontListen = o.Listen == "" && o.ConfigFile == ""
	if o.Listen != "" {
		if err := address(o.Listen, &so.Host, &so.Port); err != nil {
			return nil, err
		}
	}
	if o.Monitor != "" {
		if err := address(o.Monitor, &so.HTTPHost, &so.HTTPPort); err != nil {
			return nil, err
		}
	}
	if err := absolute(&so.StoreDir); err != nil {
		return nil, err
	}
	return so, nil
}

func (s *Server) start() error {
	ns, err := server.NewServer(s.options.Clone())
	if err != nil {
		return fmt.Errorf("nats: %w", err)
	}
	ns.SetLoggerV2(&logger{s.log, s.broken}, false, false, false)
	go ns.Start()
	if !ns.ReadyForConnections(startWait) {
		ns.Shutdown()
		return errors.New("nats: the server did not get ready")
	}
	s.mu.Lock()
	s.ns = ns
	s.mu.Unlock()
	return nil
}

// address puts "host:port" into a server's option; port 0 is any free one.
func address(s string, host *string, port *int) error {
	h, p, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("nats: address: %w", err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		return fmt.Errorf("nats: address %q: %w", s, err)
	}
	if n == 0 {
		n = server.RANDOM_PORT
	}
	*host, *port = h, n
	return nil
}

func absolute(dir *string) error {
	abs, err := filepath.Abs(*dir)
	if err != nil {
		return fmt.Errorf("nats: %w", err)
	}
	*dir = abs
	return nil
}

// URL is the client address of a listening server.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ns.ClientURL()
}

// InProcessConn implements nats.InProcessConnProvider, over the server's lives.
func (s *Server) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ns == nil {
		return nil, errors.New("nats: the server is being started again")
	}
	return s.ns.InProcessConn()
}

// Connect makes a connection within this process.
func (s *Server) Connect(name string) (*nats.Conn, error) {
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.Name(name), nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait), nats.ReconnectBufSize(-1))
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	return nc, nil
}

// FreeSpace is the free disk space under the streams, in bytes.
func (s *Server) FreeSpace() (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.dir, &st); err != nil {
		return 0, fmt.Errorf("nats: %w", err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// Done waits until ctx ends or the server has stopped by itself.
func (s *Server) Done(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.over:
		return errors.New("nats: the server stopped")
	}
}

// Stop stops the server; what was acknowledged is on disk already.
func (s *Server) Stop() {
	close(s.stop)
	<-s.over
	s.halt()
}

func (s *Server) halt() {
	s.mu.Lock()
	ns := s.ns
	s.ns = nil
	s.mu.Unlock()
	if ns != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
	}
}

// logger brings the server's log into ours.
type logger struct {
	log    *slog.Logger
	broken chan<- struct{}
}

func (l *logger) Noticef(f string, a ...any) { l.log.Debug("nats: " + fmt.Sprintf(f, a...)) }
func (l *logger) Warnf(f string, a ...any)   { l.log.Warn("nats: " + fmt.Sprintf(f, a...)) }
func (l *logger) Fatalf(f string, a ...any)  { l.log.Error("nats: " + fmt.Sprintf(f, a...)) }
func (l *logger) Debugf(f string, a ...any)  { l.log.Debug("nats: " + fmt.Sprintf(f, a...)) }
func (l *logger) Tracef(string, ...any)      {}

func (l *logger) Errorf(f string, a ...any) {
	text := fmt.Sprintf(f, a...)
	l.log.Error("nats: " + text)
	if lostDisk(text) {
		select {
		case l.broken <- struct{}{}:
		default:
		}
	}
}
