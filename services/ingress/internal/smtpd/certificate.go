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
	"os"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

// certificates gives the certificate for a handshake. Its files are looked at again at most once a second; a pair that
// is bad leaves the former one in use.
type certificates struct {
	logger *slog.Logger
	now    func() time.Time

	mu      sync.Mutex
	pair    config.KeyPair
	cert    *tls.Certificate
	stamp   [2]time.Time
	checked time.Time
	broken  string
	self    string // the name in the self-signed certificate, if cert is one
}

// check says whether use would take cfg.
func (c *certificates) check(cfg *config.Config) error {
	if cfg.Ingress.Certificate == (config.KeyPair{}) {
		return nil
	}
	_, _, err := loadPair(cfg.Ingress.Certificate)
	return err
}

// use takes the certificate of cfg. Where a listener speaks TLS and there is none, a self-signed one is made: it
// keeps listeners out of the wire, and is worth nothing as a proof.
func (c *certificates) use(cfg *config.Config) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	pair := cfg.Ingress.Certificate
	if pair != (config.KeyPair{}) {
		cert, stamp, err := loadPair(pair)
		if err != nil {
			return err
		}
		c.pair, c.cert, c.stamp, c.checked, c.self, c.broken = pair, cert, stamp, c.now(), "", ""
		return nil
	}
	wanted := false
	for _, l := range cfg.Ingress.Listeners {
		wanted = wanted || l.TLS == config.ListenerSTARTTLS || l.TLS == config.ListenerImplicit
	}
	if !wanted || (c.self == cfg.Hostname && c.cert != nil) {
		c.pair = pair
		return nil
	}
	cert, err := selfSigned(cfg.Hostname, c.now())
	if err != nil {
		return err
	}
	c.pair, c.cert, c.self = pair, cert, cfg.Hostname
	c.logger.Warn("NO CERTIFICATE IS CONFIGURED: listeners use a self-signed one, which no client can verify",
		"name", cfg.Hostname, "set", "ingress.certificate")
	return nil
}

// get implements tls.Config.GetCertificate.
func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	if c.cert == nil {
		return nil, errors.New("smtpd: there is no certificate")
	}
	return c.cert, nil
}

func (c *certificates) refresh() {
	now := c.now()
	if c.pair == (config.KeyPair{}) || (now.Sub(c.checked) < time.Second && !now.Before(c.checked)) {
		return
	}
	c.checked = now
	if stamp, err := stamps(c.pair); err == nil && stamp == c.stamp {
		return
	}
	cert, stamp, err := loadPair(c.pair)
	if err != nil {
		if err.Error() != c.broken {
			c.broken = err.Error()
			c.logger.Error("certificate not taken; the former one stays in use", "error", err)
		}
		return
	}
	c.cert, c.stamp, c.broken = cert, stamp, ""
	c.logger.Info("certificate read again", "file", c.pair.File)
}

func stamps(p config.KeyPair) ([2]time.Time, error) {
	var s [2]time.Time
	for i, name := range []string{p.File, p.KeyFile} {
		fi, err := os.Stat(name)
		if err != nil {
			return s, fmt.Errorf("certificate: %w", err)
		}
		s[i] = fi.ModTime()
	}
	return s, nil
}

func loadPair(p config.KeyPair) (*tls.Certificate, [2]time.Time, error) {
	s, err := stamps(p)
	if err != nil {
		return nil, s, err
	}
	cert, err := tls.LoadX509KeyPair(p.File, p.KeyFile)
	if err != nil {
		return nil, s, fmt.Errorf("certificate %s: %w", p.File, err)
	}
	return &cert, s, nil
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
