package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// authority is a CA that can issue.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	// pool has all certificates of ca.pem: what the services trust.
	pool *x509.CertPool
}

// pair is an identity as it is written.
type pair struct {
	cert, key []byte
	leaf      *x509.Certificate
}

// authority reads the CA, and says what is wrong with one that the services would not take.
func (f Folder) authority() (*authority, error) {
	certs, err := readCertificates(f.CAFile())
	if err != nil {
		return nil, fmt.Errorf("the CA: %w", err)
	}
	key, err := readKey(f.CAKeyFile())
	if err != nil {
		return nil, fmt.Errorf("the key of the CA: %w; --ca-dir names the folder that has it", err)
	}
	a := &authority{key: key, pool: poolOf(certs)}
	for _, c := range certs {
		if fits(c, key) {
			a.cert = c
		}
	}
	now := f.Now()
	switch c := a.cert; {
	case c == nil:
		return nil, fmt.Errorf("%s is not the key of %s: bring back the two that belong together", f.CAKeyFile(), f.CAFile())
	case !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("%s: the certificate may not issue others (it is no CA): `stagecoach pki init` in a new folder makes one", f.CAFile())
	case now.Before(c.NotBefore):
		return nil, fmt.Errorf("%s begins on %s: is the clock of this machine right?", f.CAFile(), date(c.NotBefore))
	case now.After(c.NotAfter):
		return nil, fmt.Errorf("%s ended on %s: `stagecoach pki init` in a new folder makes another one", f.CAFile(), date(c.NotAfter))
	}
	return a, nil
}

func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// newAuthority makes a CA.
func newAuthority(now time.Time) (*authority, pair, error) {
	key, encoded, err := newKey()
	if err != nil {
		return nil, pair{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, pair{}, err
	}
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "Stagecoach"},
		NotBefore: now.Add(-backdate), NotAfter: now.AddDate(caYears, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	cert, err := create(tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, pair{}, err
	}
	p := pair{cert: encodeCertificate(cert), key: encoded, leaf: cert}
	return &authority{cert: cert, key: key, pool: poolOf([]*x509.Certificate{cert})}, p, nil
}

// ends is when an identity ends that is issued now.
func (a *authority) ends(now time.Time) time.Time { return a.endsAfter(now, Valid) }

// endsAfter is when one ends that is good for d; none outlives the CA.
func (a *authority) endsAfter(now time.Time, d time.Duration) time.Time {
	if end := now.Add(d); end.Before(a.cert.NotAfter) {
		return end.Truncate(time.Second)
	}
	return a.cert.NotAfter
}

// issue makes an identity with a new key. dns (at least one) and ips are its SANs. What the services would refuse is an error.
func (a *authority) issue(now time.Time, name string, dns []string, ips []net.IP) (pair, error) {
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: dns, IPAddresses: ips, NotAfter: a.ends(now),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	p, err := a.sign(now, tmpl)
	if err != nil {
		return pair{}, fmt.Errorf("issue %s: %w", name, err)
	}
	if err := accepted(p.leaf, nil, a.pool, dns[0], now); err != nil {
		return pair{}, fmt.Errorf("issue %s: the services would refuse it: %w", name, err)
	}
	return p, nil
}

// sign makes a key, and its certificate of what tmpl says.
func (a *authority) sign(now time.Time, tmpl *x509.Certificate) (pair, error) {
	key, encoded, err := newKey()
	if err != nil {
		return pair{}, err
	}
	if tmpl.SerialNumber, err = newSerial(); err != nil {
		return pair{}, err
	}
	tmpl.NotBefore = now.Add(-backdate)
	if tmpl.NotBefore.Before(a.cert.NotBefore) {
		tmpl.NotBefore = a.cert.NotBefore
	}
	tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, x509.KeyUsageDigitalSignature
	leaf, err := create(tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, err
	}
	return pair{cert: append(encodeCertificate(leaf), encodeCertificate(a.cert)...), key: encoded, leaf: leaf}, nil
}

// accepted checks leaf as a service does: each is called, and calls.
func accepted(leaf *x509.Certificate, chain []*x509.Certificate, roots *x509.CertPool, name string, at time.Time) error {
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: poolOf(chain), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use}})
		if err != nil {
			return err
		}
	}
	return nil
}

func create(tmpl, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode a key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// newSerial is 128 random bits, and positive (RFC 5280, section 4.1.2.2).
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1)))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

func encodeCertificate(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func poolOf(certs []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
}

func fits(cert *x509.Certificate, key crypto.Signer) bool {
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(key.Public())
}

// errContent: a file could be read, and what it holds is not what belongs there.
var errContent = errors.New("cannot be used")

// readCertificates reads all certificates of a PEM file; there is at least one.
func readCertificates(file string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s %w: %w", file, errContent, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s %w: it holds no certificate in PEM form", file, errContent)
	}
	return certs, nil
}

// readKey reads a private key as openssl writes them: PKCS#8, SEC 1 (RFC 5915) or PKCS#1.
func readKey(file string) (crypto.Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var key any
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return nil, fmt.Errorf("%s %w: it is encrypted; `openssl pkey -in FILE -out NEWFILE` takes the passphrase off", file, errContent)
		case block.Type == "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case block.Type == "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case block.Type == "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue // openssl ecparam writes the parameters first
		}
		if err != nil {
			return nil, fmt.Errorf("%s %w: %w", file, errContent, err)
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
		return nil, fmt.Errorf("%s %w: a key of this kind cannot sign", file, errContent)
	}
	return nil, fmt.Errorf("%s %w: it holds no private key in PEM form", file, errContent)
}
