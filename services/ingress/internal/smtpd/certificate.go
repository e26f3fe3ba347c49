package smtpd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/netip"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
)

// certificates gives the certificate for a handshake: that of the configuration's files, which are looked at again when
// they are renewed, or a self-signed one.
type certificates struct {
	logger *slog.Logger
	now    func() time.Time

	mu    sync.Mutex
	files *service.Certificate // nil: none are configured
	cert  *tls.Certificate     // self-signed, if there is one
	self  string               // the name in it
}

// check says whether use would take cfg.
func (c *certificates) check(cfg *config.Config) error {
	_, err := c.open(cfg)
	return err
}

// open reads the files that cfg names; nil: it names none.
func (c *certificates) open(cfg *config.Config) (*service.Certificate, error) {
	pair := cfg.Ingress.Certificate
	if pair == (config.KeyPair{}) {
		return nil, nil
	}
	return service.OpenCertificate(pair.File, pair.KeyFile, c.logger, c.now)
}

// use takes the certificate of cfg. Where a listener speaks TLS and there is none, a self-signed one is made: it
// keeps listeners out of the wire, and is worth nothing as a proof.
func (c *certificates) use(cfg *config.Config) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	files, err := c.open(cfg)
	if err != nil {
		return err
	}
	c.files = files
	if files != nil {
		c.cert, c.self = nil, ""
		return nil
	}
	wanted := false
	for _, l := range cfg.Ingress.Listeners {
		wanted = wanted || l.TLS == config.ListenerSTARTTLS || l.TLS == config.ListenerImplicit
	}
	if !wanted || (c.self == cfg.Hostname && c.cert != nil) {
		return nil
	}
	cert, err := selfSigned(cfg.Hostname, c.now())
	if err != nil {
		return err
	}
	c.cert, c.self = cert, cfg.Hostname
	c.logger.Warn("NO CERTIFICATE IS CONFIGURED: listeners use a self-signed one, which no client can verify",
		"name", cfg.Hostname, "set", "ingress.certificate")
	return nil
}

// get implements tls.Config.GetCertificate.
func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert, _ := c.shown(hello)
	if cert == nil {
		return nil, errors.New("smtpd: there is no certificate")
	}
	return cert, nil
}

// shown is the certificate that is shown now, nil if there is none, and why newer files are not taken.
func (c *certificates) shown(hello *tls.ClientHelloInfo) (cert *tls.Certificate, broken string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil {
		return c.cert, ""
	}
	cert, err := c.files.Get(hello)
	if err != nil {
		return nil, err.Error()
	}
	return cert, c.files.Broken()
}

const selfSignedFor = 10 * 365 * 24 * time.Hour

func selfSigned(name string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("self-signed certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("self-signed certificate: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(selfSignedFor),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip, err := netip.ParseAddr(name); err == nil {
		t.IPAddresses = append(t.IPAddresses, ip.AsSlice())
	} else {
		t.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("self-signed certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
