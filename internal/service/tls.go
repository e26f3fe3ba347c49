package service

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// PKI is the identity of one service in the installation: <directory>/ca.pem, <type>.pem and <type>-key.pem.
// The files are read again when they change; a bad pair keeps the old one.
type PKI struct {
	dir, typ string

	mu    sync.Mutex
	pair  *tls.Certificate
	roots *x509.CertPool
	seen  [3]time.Time
}

// OpenPKI reads the identity of the service typ.
func OpenPKI(directory, typ string) (*PKI, error) {
	p := &PKI{dir: directory, typ: typ}
	if err := p.load(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *PKI) files() [3]string {
	return [3]string{filepath.Join(p.dir, "ca.pem"), filepath.Join(p.dir, p.typ+".pem"), filepath.Join(p.dir, p.typ+"-key.pem")}
}

func (p *PKI) load() error {
	files := p.files()
	var seen [3]time.Time
	for i, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			return fmt.Errorf("pki: %w", err)
		}
		seen[i] = st.ModTime()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if seen == p.seen {
		return nil
	}
	ca, err := os.ReadFile(files[0])
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return fmt.Errorf("pki: %s holds no certificate", files[0])
	}
	pair, err := tls.LoadX509KeyPair(files[1], files[2])
	if err != nil {
		return fmt.Errorf("pki: %s: %w", files[1], err)
	}
	p.pair, p.roots, p.seen = &pair, roots, seen
	return nil
}

func (p *PKI) current() (*tls.Certificate, *x509.CertPool) {
	_ = p.load() //nolint:errcheck // a bad pair keeps the old one
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pair, p.roots
}

// Ends is when the certificate in use ends; zero if that is not known.
func (p *PKI) Ends() time.Time {
	pair, _ := p.current()
	if pair.Leaf == nil {
		return time.Time{}
	}
	return pair.Leaf.NotAfter
}

// names are those that the certificate in use bears.
func (p *PKI) names() []string {
	pair, _ := p.current()
	if pair.Leaf == nil {
		return nil
	}
	return pair.Leaf.DNSNames
}

// ServerCertificate is for tls.Config.GetCertificate of a server that is no service of the installation: the identity as
// it is now.
func (p *PKI) ServerCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	pair, _ := p.current()
	return pair, nil
}

// server is the TLS side of a service: whoever calls must bear the name of one of callers, asked at each handshake.
func (p *PKI) server(callers func() []string) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}}
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pair, roots := p.current()
		return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{*pair},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
			VerifyConnection: func(cs tls.ConnectionState) error {
				leaf := cs.PeerCertificates[0]
				names := callers()
				for _, name := range leaf.DNSNames {
					if slices.Contains(names, name) {
						return nil
					}
				}
				return fmt.Errorf("a certificate for %s may not call this service", strings.Join(leaf.DNSNames, ", "))
			}}, nil
	}
	return cfg
}

// client is the TLS side of a caller: the callee must bear the name identity.
func (p *PKI) client(identity string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, ServerName: identity, NextProtos: []string{"h2"},
		// The chain is verified below, against roots that may have been renewed meanwhile.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, _ := p.current()
			return pair, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, roots := p.current()
			inter := x509.NewCertPool()
			for _, c := range cs.PeerCertificates[1:] {
				inter.AddCert(c)
			}
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: identity, Roots: roots, Intermediates: inter})
			return err
		}}
}

// NATS is the TLS configuration for NATS servers, verified by their host names.
func (p *PKI) NATS() *tls.Config {
	_, roots := p.current()
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, _ := p.current()
		return pair, nil
	}}
}

// errExposed refuses a gRPC port that others on the network could reach without a certificate.
var errExposed = errors.New("without pki a gRPC address must be a loopback address or a unix socket: set pki.directory")

// local says that address cannot be reached from another machine.
func local(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
