package service

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
)

const (
	// maxRecv bounds one gRPC message: a Begin is at most 4 MB, a frame 256 KiB.
	maxRecv    = 5 << 20
	streamWin  = 512 << 10
	connWin    = 8 << 20
	headerList = 16 << 10
)

// Server is a gRPC server with health and reflection.
type Server struct {
	*grpc.Server
	Health   *health.Server
	listener net.Listener
	log      *slog.Logger
	calls    *calls
}

// Listen opens the port of address ("host:port", or "unix:/path"). With pki, callers must bear one of the given
// names; without, only this machine can call. more are options beside those that every service has.
func Listen(address string, pki *PKI, callers []string, log *slog.Logger, more ...grpc.ServerOption) (*Server, error) {
	return listenFor(address, pki, func() []string { return callers }, log, more...)
}

func listenFor(address string, pki *PKI, callers func() []string, log *slog.Logger, more ...grpc.ServerOption) (*Server, error) {
	if pki == nil && !local(address) {
		return nil, fmt.Errorf("listen on %s: %w", address, errExposed)
	}
	l, err := listen(address, pki != nil)
	if err != nil {
		return nil, err
	}
	under := new(calls)
	opts := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(under.unary), grpc.ChainStreamInterceptor(under.stream),
		grpc.MaxRecvMsgSize(maxRecv), grpc.MaxConcurrentStreams(1024), grpc.InitialWindowSize(streamWin), grpc.InitialConnWindowSize(connWin),
		grpc.MaxHeaderListSize(headerList), grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		// A connection ends now and then, so that callers learn of new addresses behind a name; its calls finish.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 3 * time.Second, Timeout: 2 * time.Second, MaxConnectionAge: 30 * time.Minute, MaxConnectionAgeGrace: time.Hour}),
	}
	if pki != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(pki.server(callers))))
	}
	opts = append(opts, more...)
	s := &Server{Server: grpc.NewServer(opts...), Health: health.NewServer(), listener: l, log: log, calls: under}
	healthv1.RegisterHealthServer(s.Server, s.Health)
	reflection.Register(s.Server)
	return s, nil
}

// listen opens address. Its host is how others reach the service; when that is a name, or no address of this machine, the
// port is opened on every interface, which only mutual TLS makes safe. (What a name is here may be one of several
// interfaces, or another replica of a container, or 127.0.1.1.)
func listen(address string, guarded bool) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path = shortPath(path); len(path) > maxSocketPath {
			return nil, fmt.Errorf("listen on %s: the path of a unix socket has at most %d bytes: choose a folder with a shorter name", path, maxSocketPath)
		}
		// A socket is left behind by a process that was killed. Anything else there is somebody's file, and stays.
		if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket != 0 {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			return nil, err
		}
		// Whoever may connect may release held mail: not everybody on this machine, whatever the umask.
		if err := os.Chmod(path, 0o600); err != nil {
			_ = l.Close()
			return nil, err
		}
		return l, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" || !guarded {
		l, err := net.Listen("tcp", address)
		if err == nil || !guarded {
			return l, err
		}
	}
	return net.Listen("tcp", net.JoinHostPort("", port))
}

// maxSocketPath is what fits into sun_path on Linux, with its final NUL.
const maxSocketPath = 107

// shortPath is path from the working directory, where it would be too long from the root.
func shortPath(path string) string {
	if len(path) <= maxSocketPath {
		return path
	}
	dir, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(dir, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}

// Addr is the address that was opened.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close closes a port that Run was not called for.
func (s *Server) Close() error { return s.listener.Close() }

// Run serves until ctx ends; then it lets running calls finish for up to grace, and cuts the rest.
func (s *Server) Run(ctx context.Context, grace time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(s.listener) }()
	s.Health.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	s.Health.Shutdown()
	done := make(chan struct{})
	go func() { s.GracefulStop(); close(done) }()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		s.log.Warn("calls still running at the end of the grace period are cut", "grace", grace)
		s.Stop()
		<-done
	}
	<-failed
	return nil
}
