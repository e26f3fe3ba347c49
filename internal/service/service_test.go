package service

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key}
}

// issue writes the pair of typ with these DNS names into dir, and the authority's own certificate.
func (a *authority) issue(t *testing.T, dir, typ string, serial int64, change func(*x509.Certificate), names ...string) {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: typ}, DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	if change != nil {
		change(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, typ+"-key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	write(t, filepath.Join(dir, typ+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func write(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir, typ string) *PKI {
	t.Helper()
	p, err := OpenPKI(dir, typ)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// waiting is a service whose Describe does as it likes.
type waiting struct {
	stagev1.UnimplementedStageServiceServer
	f func(context.Context) error
}

func (w waiting) Describe(ctx context.Context, _ *stagev1.DescribeRequest) (*stagev1.DescribeResponse, error) {
	return &stagev1.DescribeResponse{Type: "t"}, w.f(ctx)
}

// start runs a server until the test ends, or until stop is called.
func start(t *testing.T, address string, pki *PKI, callers []string, grace time.Duration, f func(context.Context) error) (s *Server, stop func() error) {
	t.Helper()
	s, err := Listen(address, pki, callers, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if f == nil {
		f = func(context.Context) error { return nil }
	}
	stagev1.RegisterStageServiceServer(s.Server, waiting{f: f})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, grace) }()
	stop = func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s, stop
}

func connections(t *testing.T, pki *PKI) *Connections {
	c := NewConnections(pki)
	t.Cleanup(c.Close)
	return c
}

func describe(t *testing.T, c *Connections, address, identity string) error {
	t.Helper()
	conn, err := c.Conn(address, identity)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = stagev1.NewStageServiceClient(conn).Describe(ctx, &stagev1.DescribeRequest{})
	return err
}

// Who may call whom: the callee's certificate must bear the name that is called, the caller's one that is let in.
func TestIdentities(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	serial := int64(1)
	for _, typ := range []string{"ingress", "egress", "admin", "antivirus", "signer"} {
		serial++
		ca.issue(t, dir, typ, serial, nil, typ)
	}
	other, wild, expired, cn := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	newAuthority(t).issue(t, other, "ingress", 90, nil, "ingress")
	ca.issue(t, wild, "ingress", 91, nil, "*")
	ca.issue(t, expired, "ingress", 92, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "ingress")
	ca.issue(t, cn, "ingress", 93, nil) // the name only as common name

	lets := map[string][]string{"antivirus": {"antivirus", "signer", "ingress", "admin"}, "egress": {"antivirus", "signer", "ingress"}, "ingress": {"admin", "ingress"}}
	for callee, callers := range lets {
		s, _ := start(t, "127.0.0.1:0", open(t, dir, callee), callers, time.Second, nil)
		address := s.Addr().String()
		for _, caller := range []string{"ingress", "egress", "admin", "antivirus", "signer"} {
			err := describe(t, connections(t, open(t, dir, caller)), address, callee)
			let := strings.Contains(" "+strings.Join(callers, " ")+" ", " "+caller+" ")
			if (err == nil) != let {
				t.Errorf("%s calls %s: let in %v, want %v (%v)", caller, callee, err == nil, let, err)
			}
			if err := describe(t, connections(t, open(t, dir, caller)), address, "admin"); err == nil {
				t.Errorf("%s takes %s for admin", caller, callee)
			}
		}
		for what, d := range map[string]string{"of another authority": other, "for everybody": wild, "that has expired": expired, "with a common name alone": cn} {
			if err := describe(t, connections(t, open(t, d, "ingress")), address, callee); err == nil {
				t.Errorf("%s lets a certificate %s in", callee, what)
			}
		}
		// The caller does not talk to a service of another authority either.
		pool := x509.NewCertPool()
		pool.AddCert(ca.cert)
		for what, creds := range map[string]credentials.TransportCredentials{
			"without a certificate": credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: callee}),
			"in plaintext":          insecure.NewCredentials(),
		} {
			conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if _, err := stagev1.NewStageServiceClient(conn).Describe(ctx, &stagev1.DescribeRequest{}); status.Code(err) != codes.Unavailable {
				t.Errorf("a caller %s at %s: %v", what, callee, err)
			}
			cancel()
			_ = conn.Close()
		}
	}
	plain, _ := start(t, "127.0.0.1:0", nil, nil, time.Second, nil)
	if err := describe(t, connections(t, open(t, dir, "ingress")), plain.Addr().String(), "antivirus"); err == nil {
		t.Error("a caller with a certificate talks to a service in plaintext")
	}
	if err := describe(t, connections(t, nil), plain.Addr().String(), "antivirus"); err != nil {
		t.Errorf("plaintext on loopback: %v", err)
	}
}

// Renewed files are taken up by the next connection on either side; a bad pair keeps the old one in use.
func TestRenewal(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	ca.issue(t, dir, "egress", 2, nil, "egress")
	ca.issue(t, dir, "ingress", 3, nil, "ingress")
	server, client := open(t, dir, "egress"), open(t, dir, "ingress")
	s, _ := start(t, "127.0.0.1:0", server, []string{"ingress"}, time.Second, nil)
	serial := func() int64 {
		t.Helper()
		nc, err := tls.Dial("tcp", s.Addr().String(), client.client("egress"))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		return nc.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	call := func() error { return describe(t, connections(t, client), s.Addr().String(), "egress") }
	if err := call(); err != nil || serial() != 2 {
		t.Fatalf("before: %v", err)
	}
	ca.issue(t, dir, "egress", 20, nil, "egress")
	if err := call(); err != nil || serial() != 20 {
		t.Fatalf("renewed: serial %d, %v", serial(), err)
	}
	for what, b := range map[string][]byte{"a pair that does not fit": nil, "garbage": []byte("garbage"), "nothing": {}} {
		if b == nil {
			scratch := t.TempDir()
			ca.issue(t, scratch, "egress", 30, nil, "egress")
			var err error
			if b, err = os.ReadFile(filepath.Join(scratch, "egress.pem")); err != nil {
				t.Fatal(err)
			}
		}
		write(t, filepath.Join(dir, "egress.pem"), b)
		if err := call(); err != nil || serial() != 20 {
			t.Errorf("%s: serial %d, %v", what, serial(), err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	if err := call(); err != nil {
		t.Errorf("without ca.pem for a moment: %v", err)
	}
	// A new authority for everybody.
	ca = newAuthority(t)
	ca.issue(t, dir, "egress", 40, nil, "egress")
	ca.issue(t, dir, "ingress", 41, nil, "ingress")
	if err := call(); err != nil || serial() != 40 {
		t.Errorf("with a new authority: %v", err)
	}
	// The name of a renewed certificate is looked at as well.
	ca.issue(t, dir, "ingress", 42, nil, "somebody")
	if err := call(); err == nil {
		t.Error("a renewed certificate with another name is let in")
	}
	if _, err := OpenPKI(dir, "signer"); err == nil {
		t.Error("an identity that is not there was opened")
	}
}

// Without certificates a service is for this machine alone, on both sides.
func TestExposed(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:0": true, "[::1]:0": true, "localhost:0": true, "0.0.0.0:0": false, ":0": false, "[::]:0": false, "192.0.2.1:7000": false, "relay.example.com:7000": false,
		"antivirus:7000": false, "localhost.example.com:7000": false, "nothing": false, "unix:" + filepath.Join(t.TempDir(), "s"): true,
	} {
		if got := local(address); got != want {
			t.Errorf("local(%s) is %v", address, got)
		}
		if want {
			continue
		}
		if s, err := Listen(address, nil, nil, quiet); !errors.Is(err, errExposed) {
			t.Errorf("listening on %s: %v", address, err)
			if s != nil {
				_ = s.listener.Close()
			}
		}
		if _, err := connections(t, nil).Conn(address, "x"); !errors.Is(err, errExposed) {
			t.Errorf("calling %s: %v", address, err)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "sc") // a short path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	for range 2 { // a socket that was left behind is no obstacle
		_, stop := start(t, "unix:"+path, nil, nil, time.Second, nil)
		if err := describe(t, connections(t, nil), "unix:"+path, "x"); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("others may connect: %v, %v", st.Mode(), err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		_ = l.Close()
	}
	file := filepath.Join(dir, "precious")
	write(t, file, []byte("x"))
	if _, err := Listen("unix:"+file, nil, nil, quiet); err == nil {
		t.Error("a socket took the place of a file")
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "x" {
		t.Errorf("the file is gone: %v", err)
	}
}

// At a stop running calls finish, new ones find nobody; what still runs at the end of the grace is cut.
func TestStop(t *testing.T) {
	t.Run("finishes", func(t *testing.T) {
		entered, finish := make(chan struct{}), make(chan struct{})
		s, stop := start(t, "127.0.0.1:0", nil, nil, time.Minute, func(context.Context) error { close(entered); <-finish; return nil })
		c := connections(t, nil)
		called := make(chan error, 1)
		go func() { called <- describe(t, c, s.Addr().String(), "x") }()
		<-entered
		stopped := make(chan error, 1)
		go func() { stopped <- stop() }()
		for { // until the port is closed
			nc, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				break
			}
			_ = nc.Close()
		}
		select {
		case <-stopped:
			t.Error("stopped with a call under way")
		default:
		}
		close(finish)
		if err := <-called; err != nil {
			t.Errorf("the running call: %v", err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	t.Run("cuts", func(t *testing.T) {
		entered := make(chan struct{})
		s, stop := start(t, "127.0.0.1:0", nil, nil, 50*time.Millisecond, func(ctx context.Context) error { close(entered); <-ctx.Done(); return ctx.Err() })
		c := connections(t, nil)
		called := make(chan error, 1)
		go func() { called <- describe(t, c, s.Addr().String(), "x") }()
		<-entered
		begun := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if err := <-called; err == nil {
			t.Error("the call that was cut succeeded")
		}
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestHealth(t *testing.T) {
	s, stop := start(t, "127.0.0.1:0", nil, nil, time.Second, nil)
	conn, err := connections(t, nil).Conn(s.Addr().String(), "x")
	if err != nil {
		t.Fatal(err)
	}
	watch, err := healthv1.NewHealthClient(conn).Watch(t.Context(), &healthv1.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	for { // it may be seen before it serves
		r, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.Status == healthv1.HealthCheckResponse_SERVING {
			break
		}
	}
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	if r, err := watch.Recv(); err != nil || r.Status != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("at the stop: %v, %v", r, err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Connections are made once for each address and identity, and a closed set makes no more leaks.
func TestConnections(t *testing.T) {
	c := connections(t, nil)
	a, err := c.Conn("127.0.0.1:7001", "x")
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := c.Conn("127.0.0.1:7001", "x"); a != b {
		t.Error("a second connection to the same service")
	}
	if b, _ := c.Conn("127.0.0.1:7001", "y"); a == b {
		t.Error("the same connection for another identity")
	}
}
