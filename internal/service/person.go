package service

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// personScheme begins the URI by which a certificate is a person's, not a service's: stagecoach:person:alice.
const personScheme = "stagecoach:person:"

// PersonURI is what a person's certificate bears as its subject alternative name (RFC 5280, section 4.2.1.6), and
// nothing beside it.
func PersonURI(name string) *url.URL {
	return &url.URL{Scheme: "stagecoach", Opaque: "person:" + name}
}

// PersonOf is the person whose certificate it is; "" if it is not one of a person alone.
func PersonOf(c *x509.Certificate) string {
	if len(c.URIs) != 1 || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) > 0 {
		return ""
	}
	name, ok := strings.CutPrefix(c.URIs[0].String(), personScheme)
	if !ok {
		return ""
	}
	return name
}

// Authority is the CA of an installation, ca.pem of a pki. The file is read again when it changes; what cannot be used
// leaves the former one in use.
type Authority struct {
	file string

	mu    sync.Mutex
	roots *x509.CertPool
	seen  time.Time
}

// OpenAuthority reads the CA.
func OpenAuthority(file string) (*Authority, error) {
	a := &Authority{file: file}
	return a, a.load()
}

func (a *Authority) load() error {
	st, err := os.Stat(a.file)
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if st.ModTime().Equal(a.seen) {
		return nil
	}
	data, err := os.ReadFile(a.file)
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		return fmt.Errorf("pki: %s holds no certificate", a.file)
	}
	a.roots, a.seen = roots, st.ModTime()
	return nil
}

// Roots are the certificates of the CA as the file has them now.
func (a *Authority) Roots() *x509.CertPool {
	_ = a.load() //nolint:errcheck // a bad file keeps the old one
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.roots
}

// Verify says whether the certificates that a caller showed, his own first, are of this CA and valid at that time.
func (a *Authority) Verify(shown []*x509.Certificate, at time.Time) error {
	inter := x509.NewCertPool()
	for _, c := range shown[1:] {
		inter.AddCert(c)
	}
	_, err := shown[0].Verify(x509.VerifyOptions{Roots: a.Roots(), Intermediates: inter, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// ListenTCP opens a port that TLS guards. Where its host is not an address of this machine (a container behind a name)
// it is opened on every interface.
func ListenTCP(address string) (net.Listener, error) { return listen(address, true) }
