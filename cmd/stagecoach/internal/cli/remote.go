package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

const (
	// reachWithin bounds the first connection to a server on the network.
	reachWithin = 10 * time.Second
	// pingAfter and pongWithin find out that the other end is gone while a call waits.
	pingAfter, pongWithin = 30 * time.Second, 10 * time.Second
)

// remote is a Stagecoach on the network, with everything that calling it takes.
type remote struct {
	context *remoteContext
	// as says by what the person is known there, for errors.
	as    string
	ca    string
	roots *x509.CertPool
	pair  *tls.Certificate
	token string
	now   func() time.Time
	// within bounds the first connection.
	within time.Duration
}

// remote reads the files of a context.
func (f *contextFile) remote(c *remoteContext, now func() time.Time) (*remote, error) {
	r := &remote{context: c, ca: f.at(c.CA), now: now, within: reachWithin}
	if c.CA != "" {
		data, err := os.ReadFile(r.ca)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		if r.roots = x509.NewCertPool(); !r.roots.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("ca: %s holds no certificate in PEM form", r.ca)
		}
	}
	if c.Certificate != "" {
		cert, key := f.at(c.Certificate), f.at(c.Key)
		r.as = "the certificate " + cert
		pair, err := tls.LoadX509KeyPair(cert, key)
		switch {
		case err != nil:
			return nil, fmt.Errorf("certificate %s with key %s: %w", cert, key, err)
		case now().After(pair.Leaf.NotAfter):
			return nil, fmt.Errorf("%s has ended, on %s: it takes a new one of the same pki", r.as, pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
		}
		r.pair = &pair
		return r, nil
	}
	file := f.at(c.TokenFile)
	r.as = "the token in " + file
	data, err := readPrivate(file, maxToken)
	if err != nil {
		return nil, fmt.Errorf("token_file: %w", err)
	}
	if r.token = strings.TrimSpace(string(data)); !tokenText.MatchString(r.token) {
		return nil, fmt.Errorf("token_file: %s does not hold one token, of printable characters without spaces", file)
	}
	return r, nil
}

var tokenText = regexp.MustCompile(`^[!-~]+$`)

func (r *remote) tls() *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: r.roots, Time: r.now, ServerName: cmp.Or(r.context.ServerName, adminIdentity)}
	if r.pair != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return r.pair, nil }
	}
	return cfg
}

// dial connects, and says why it could not.
func (r *remote) dial(ctx context.Context) (*grpc.ClientConn, error) {
	first := &firstError{}
	opts := append(dialOptions(),
		grpc.WithTransportCredentials(&watchedTLS{TransportCredentials: grpccredentials.NewTLS(r.tls()), first: first}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pongWithin}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", address)
			first.keep(err)
			return conn, err
		}))
	if r.token != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer(r.token)))
	}
	conn, err := grpc.NewClient("passthrough:///"+r.context.Server, opts...)
	if err != nil {
		return nil, err
	}
	reach, cancel := context.WithTimeout(ctx, r.within)
	defer cancel()
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if state == connectivity.TransientFailure || !conn.WaitForStateChange(reach, state) {
			why := first.get() // before Close adds its own
			_ = conn.Close()   //nolint:errcheck // nothing was said on it
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, r.unreachable(why)
		}
	}
	return conn, nil
}

// unreachable says what to do about a server that could not be reached.
func (r *remote) unreachable(err error) error {
	server := r.context.Server
	if e, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%s shows a certificate that does not come from %s: is that the server, and this the ca.pem of its installation? (%w)", server, cmp.Or(r.ca, "a CA of this system"), e)
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Errorf("%s shows a certificate for %s, not for %s: is that the admin API? server_name of the context says what it must be for",
			server, cmp.Or(strings.Join(e.Certificate.DNSNames, ", "), "no name at all"), e.Host)
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		if r.now().Before(e.Cert.NotBefore) {
			return fmt.Errorf("the certificate of %s begins on %s: is the clock of this machine right?", server, e.Cert.NotBefore.UTC().Format(time.DateTime))
		}
		return fmt.Errorf("the certificate of %s has ended, on %s: `stagecoach pki renew` renews it where the CA is", server, e.Cert.NotAfter.UTC().Format(time.DateTime))
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" { // a TLS alert
		if strings.Contains(e.Err.Error(), "protocol version") {
			return fmt.Errorf("%s does not speak TLS 1.3: is that the admin API?", server)
		}
		return fmt.Errorf("%s does not take %s (%w): it is no person's of its pki, or has ended", server, r.as, e.Err)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("%s speaks no TLS: is that the admin API?", server)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return fmt.Errorf("there is no host of the name in %s", server)
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing answers at %s: does Stagecoach run there, with that admin.address?", server)
	case err == nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), isTimeout(err):
		return fmt.Errorf("no way to %s within %v: is the address right, and is there a firewall between?", server, r.within)
	}
	return fmt.Errorf("%s cannot be reached: %w", server, err)
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// refused adds by what the person was known to the server that refused.
func (r *remote) refused(err error) error {
	if r == nil || !isCode(err, codes.Unauthenticated) && !isCode(err, codes.PermissionDenied) {
		return words(err)
	}
	return fmt.Errorf("%w\n%s was asked with %s", words(err), r.context.Server, r.as)
}

// bearer is a token as it goes with each call.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity keeps the token from going in the clear.
func (bearer) RequireTransportSecurity() bool { return true }

// firstError keeps why the first connection failed: gRPC says it in a text only.
type firstError struct {
	mu  sync.Mutex
	err error
}

func (f *firstError) keep(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *firstError) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// watchedTLS is TLS whose errors are kept, those of the other side too: with TLS 1.3 it refuses a certificate after the
// handshake has ended for us.
type watchedTLS struct {
	grpccredentials.TransportCredentials
	first *firstError
}

func (w *watchedTLS) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, grpccredentials.AuthInfo, error) {
	conn, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		w.first.keep(err)
		return nil, nil, err
	}
	return &watchedConn{conn, w.first}, info, nil
}

func (w *watchedTLS) Clone() grpccredentials.TransportCredentials {
	return &watchedTLS{w.TransportCredentials.Clone(), w.first}
}

type watchedConn struct {
	net.Conn
	first *firstError
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.first.keep(err)
	}
	return n, err
}
