package service

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // client side health checks, named in serviceConfig
	"google.golang.org/grpc/keepalive"
)

// serviceConfig spreads calls over the addresses behind a name, leaving out those that say they are not serving.
const serviceConfig = `{"loadBalancingConfig":[{"round_robin":{}}],"healthCheckConfig":{"serviceName":""}}`

// Connections are the gRPC connections of one process, one per address and identity, made when first asked for.
type Connections struct {
	pki  *PKI
	more []grpc.DialOption

	mu    sync.Mutex
	conns map[connKey]*grpc.ClientConn
}

type connKey struct {
	address, identity string
	direct            bool // to one process, not to those behind a name
}

// NewConnections makes connections with the identity of pki; nil: plaintext, to this machine alone. more are options
// beside those that every connection has.
func NewConnections(pki *PKI, more ...grpc.DialOption) *Connections {
	return &Connections{pki: pki, more: more, conns: map[connKey]*grpc.ClientConn{}}
}

// Conn returns the connection to address, whose certificate must bear identity.
func (c *Connections) Conn(address, identity string) (grpc.ClientConnInterface, error) {
	target := address
	if !strings.HasPrefix(address, "unix:") {
		target = "dns:///" + address
	}
	// Calls are spread over the addresses behind the name.
	return c.conn(connKey{address, identity, false}, target, grpc.WithDefaultServiceConfig(serviceConfig))
}

func (c *Connections) conn(key connKey, target string, more ...grpc.DialOption) (grpc.ClientConnInterface, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	address, identity := key.address, key.identity
	if conn, ok := c.conns[key]; ok {
		return conn, nil
	}
	if c.pki == nil && !local(address) {
		return nil, fmt.Errorf("call %s: %w", address, errExposed)
	}
	creds := insecure.NewCredentials()
	if c.pki != nil {
		creds = credentials.NewTLS(c.pki.client(identity))
	}
	conn, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}, MinConnectTimeout: 5 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second, PermitWithoutStream: true}),
		grpc.WithInitialWindowSize(streamWin), grpc.WithInitialConnWindowSize(connWin),
		// A call is never repeated behind our back: what ran is not run twice, and DNS has no say in it.
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxRecv)),
	}, append(more, c.more...)...)...)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", address, err)
	}
	c.conns[key] = conn
	return conn, nil
}

// Close ends all connections.
func (c *Connections) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, conn := range c.conns {
		_ = conn.Close() //nolint:errcheck // nothing can be done about it
		delete(c.conns, k)
	}
}
