package admin

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
)

// natsServer is a server within this process, and a connection to it.
func natsServer(t *testing.T) (*server.Server, *nats.Conn) {
	t.Helper()
	ns, err := server.NewServer(&server.Options{ServerName: "test", JetStream: true, StoreDir: t.TempDir(), DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go ns.Start()
	if !ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS did not get ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(ns), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		ns.Shutdown()
		ns.WaitForShutdown()
	})
	return ns, nc
}

// ca issues certificates.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	return &ca{sign(t, tmpl, tmpl, &key.PublicKey, key), key}
}

func sign(t *testing.T, tmpl, parent *x509.Certificate, public *ecdsa.PublicKey, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// issue makes a certificate; change may make it another one.
func (a *ca) issue(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	change(tmpl)
	leaf := sign(t, tmpl, a.cert, &key.PublicKey, a.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func (a *ca) person(t *testing.T, name string) tls.Certificate {
	return a.issue(t, func(c *x509.Certificate) { c.URIs = []*url.URL{service.PersonURI(name)} })
}

func (a *ca) service(t *testing.T, name string) tls.Certificate {
	return a.issue(t, func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{name}, append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	})
}

// write puts ca.pem and the pair of a service into a folder.
func (a *ca) write(t *testing.T, dir, name string) {
	t.Helper()
	pair := a.service(t, name)
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{"ca.pem": {Type: "CERTIFICATE", Bytes: a.cert.Raw}, name + ".pem": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]},
		name + "-key.pem": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const aliceToken = "a-token-of-alice"

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// people are the ones that may call in most tests.
func people() []config.Person {
	return []config.Person{{Name: "victor", Role: config.RoleViewer, TokenSHA256: hashOf("t-victor")}, {Name: "olga", Role: config.RoleOperator, TokenSHA256: hashOf("t-olga")},
		{Name: "alice", Role: config.RoleAdmin, TokenSHA256: hashOf(aliceToken)}}
}

// desk is admin with its port open, before a NATS of its own.
type desk struct {
	server *Server
	ca     *ca
	dir    string // of the pki
	socket string
	config atomic.Pointer[config.Config]
	ns     *server.Server
	nc     *nats.Conn
	owner  *owner
	log    *logged
}

func open(t *testing.T) *desk {
	t.Helper()
	d := &desk{ca: newCA(t), dir: t.TempDir(), owner: newOwner(), log: &logged{}}
	d.ca.write(t, d.dir, "admin")
	d.config.Store(&config.Config{PKI: &config.PKI{Directory: d.dir}, Admin: config.Admin{Address: "127.0.0.1:0", People: people()}})
	d.ns, d.nc = natsServer(t)
	d.server, d.socket = d.listen(t)
	return d
}

// listen starts an admin; a second one is another process before the same NATS.
func (d *desk) listen(t *testing.T) (*Server, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, SocketName)
	s, err := Listen(Options{Socket: socket, Services: d.owner.services(), Config: d.config.Load, Conn: d.nc, Logger: slog.New(slog.NewTextHandler(d.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, 5*time.Second) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, socket
}

// change puts another configuration in force.
func (d *desk) change(t *testing.T, f func(*config.Config)) {
	t.Helper()
	c := *d.config.Load()
	f(&c)
	if err := d.server.Update(&c); err != nil {
		t.Fatal(err)
	}
	d.config.Store(&c)
}

func (d *desk) tls(certs ...tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(d.ca.cert)
	return &tls.Config{RootCAs: pool, ServerName: "admin", GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if len(certs) == 0 {
			return new(tls.Certificate), nil
		}
		return &certs[0], nil // also one that is not of this CA
	}}
}

// token is sent with every call.
type token string

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

func (token) RequireTransportSecurity() bool { return true }

// dial connects to the port.
func (d *desk) dial(t *testing.T, tok string, certs ...tls.Certificate) *grpc.ClientConn {
	t.Helper()
	opts := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(d.tls(certs...))), grpc.WithDisableRetry()}
	if tok != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(token(tok)))
	}
	conn, err := grpc.NewClient("passthrough:///"+d.server.Addr().String(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// local connects to the socket.
func local(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// browser is a client of JSON over HTTP.
func (d *desk) browser(certs ...tls.Certificate) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: d.tls(certs...), ForceAttemptHTTP2: true}}
}

// ask makes a request; the token is alice's unless the header has another.
func (d *desk) ask(t *testing.T, c *http.Client, method, path, body string, header map[string]string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+d.server.Addr().String()+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+aliceToken)
	for k, v := range header {
		req.Header.Del(k)
		if v != "" {
			req.Header.Set(k, v)
		}
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

// wait waits until something holds.
func wait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within ten seconds", what)
		}
	}
}

var quietLog = slog.New(slog.DiscardHandler)
