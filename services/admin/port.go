package admin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
)

const (
	// maxHeader bounds the header of a request, and maxBody a message, in bytes.
	maxHeader = 16 << 10
	maxBody   = 5 << 20
	// headerTime is how long a handshake, and the header of a request, may take.
	headerTime = 10 * time.Second
	// idleTime is how long a connection may be without a call.
	idleTime = 2 * time.Minute
	// moveGrace is how long calls may go on at an address that the configuration has left.
	moveGrace = time.Minute
)

// port is the API on an address of the network: gRPC, and JSON over HTTP. The configuration may move it.
type port struct {
	handler http.Handler
	grpc    *grpc.Server
	log     *slog.Logger
	now     func() time.Time

	mu      sync.Mutex
	open    *opened // nil: no address is configured
	running bool
	ctx     context.Context // of run
	failed  chan error
	closing sync.WaitGroup
}

// opened is one address that is listened on.
type opened struct {
	address  string
	listener net.Listener
	server   *http.Server
	keys     atomic.Pointer[keys]
}

// keys are what the port shows, and by what it knows the certificates of callers.
type keys struct {
	certificate *service.Certificate
	ca          *service.Authority // nil: tokens alone
}

// openKeys reads what c says of certificates.
func (p *port) openKeys(c *config.Config) (*keys, error) {
	k, pair := new(keys), c.Admin.Certificate
	var err error
	if c.PKI != nil {
		if k.ca, err = service.OpenAuthority(filepath.Join(c.PKI.Directory, "ca.pem")); err != nil {
			return nil, fmt.Errorf("admin: %w", err)
		}
		if pair == (config.KeyPair{}) {
			pair = config.KeyPair{File: filepath.Join(c.PKI.Directory, identity+".pem"), KeyFile: filepath.Join(c.PKI.Directory, identity+"-key.pem")}
		}
	}
	if k.certificate, err = service.OpenCertificate(pair.File, pair.KeyFile, p.log, p.now); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	return k, nil
}

// use opens, moves or closes the port as c says; on an error nothing has changed.
func (p *port) use(c *config.Config) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.Admin.Address == "" {
		p.leave(p.open)
		p.open = nil
		return nil
	}
	k, err := p.openKeys(c)
	if err != nil {
		return err
	}
	if p.open != nil && p.open.address == c.Admin.Address {
		p.open.keys.Store(k)
		return nil
	}
	l, err := service.ListenTCP(c.Admin.Address)
	if err != nil {
		return fmt.Errorf("admin.address: %w", err)
	}
	o := &opened{address: c.Admin.Address, listener: limit(l)}
	o.keys.Store(k)
	o.server = p.httpServer(o)
	if p.running {
		p.serve(o)
	}
	p.leave(p.open)
	p.open = o
	return nil
}

func (p *port) httpServer(o *opened) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	s := &http.Server{
		Handler:           p.handler,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: 128, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: writeTime},
		BaseContext: func(net.Listener) context.Context { return context.WithValue(context.Background(), openedKey{}, o) },
		ErrorLog:    slog.NewLogLogger(p.log.Handler(), slog.LevelDebug), // who breaks a handshake fills no log
	}
	conf := func(k *keys) *tls.Config {
		t := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: k.certificate.Get,
			// Whose certificate it is is looked at in each call, for people and the CA change: see access.identify. A
			// resumed session would show the one of before.
			SessionTicketsDisabled: true}
		if k.ca != nil {
			t.ClientAuth, t.ClientCAs = tls.RequestClientCert, k.ca.Roots()
		}
		return t
	}
	s.TLSConfig = conf(o.keys.Load())
	s.TLSConfig.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return conf(o.keys.Load()), nil }
	return s
}

type openedKey struct{}

// authority is the CA of persons at the port where a request came in; nil: there is none.
func authority(ctx context.Context) *service.Authority {
	if o, ok := ctx.Value(openedKey{}).(*opened); ok {
		return o.keys.Load().ca
	}
	return nil
}

// serve answers what comes to an address.
func (p *port) serve(o *opened) {
	p.log.Info("listening", "listener", "admin", "address", o.listener.Addr().String())
	go func() {
		if err := o.server.ServeTLS(o.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			select {
			case p.failed <- fmt.Errorf("admin.address: %w", err):
			default:
			}
		}
	}()
}

// leave closes an address; its calls go on for a while.
func (p *port) leave(o *opened) {
	if o == nil {
		return
	}
	if !p.running {
		_ = o.listener.Close() //nolint:errcheck // nothing came in
		return
	}
	ctx := p.ctx
	p.closing.Go(func() { p.shutdown(ctx, o, moveGrace) })
}

// shutdown takes no more calls at an address, and lets those that run finish for up to grace, or until ctx ends.
func (p *port) shutdown(ctx context.Context, o *opened, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := o.server.Shutdown(ctx); err != nil {
		p.log.Warn("calls still running at the end of the grace period are cut", "grace", grace)
		_ = o.server.Close() //nolint:errcheck // nothing can be done about it
	}
}

// run serves until ctx ends, then lets calls finish for up to grace.
func (p *port) run(ctx context.Context, grace time.Duration) error {
	p.mu.Lock()
	p.running, p.ctx = true, ctx
	if p.open != nil {
		p.serve(p.open)
	}
	p.mu.Unlock()
	var err error
	select {
	case <-ctx.Done():
	case err = <-p.failed:
	}
	p.mu.Lock()
	o := p.open
	p.open, p.running = nil, false
	p.mu.Unlock()
	if o != nil {
		p.shutdown(context.WithoutCancel(ctx), o, grace)
	}
	p.closing.Wait()
	p.grpc.Stop()
	return err
}

// addr is the address that is listened on; nil: none.
func (p *port) addr() net.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		return nil
	}
	return p.open.listener.Addr()
}
