// Package signtest makes certificates and OpenPGP keys for tests, and takes signed messages apart. Only tests import it.
package signtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// Day is the unit of lives here.
const Day = 24 * time.Hour

// Authority is a root with an authority below it that issues certificates.
type Authority struct {
	Root, Middle *x509.Certificate
	rootKey, key crypto.Signer
}

// Leaf is a certificate with its key.
type Leaf struct {
	Key  crypto.Signer
	Cert *x509.Certificate
	// Chain is the certificate of the authority that issued it, and its root.
	Chain []*x509.Certificate
}

// NewAuthority makes one whose certificates are valid from made on for 30 years.
func NewAuthority(t testing.TB, made time.Time) *Authority {
	t.Helper()
	a := &Authority{rootKey: ECDSA(t), key: ECDSA(t)}
	ca := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: made, NotAfter: made.AddDate(30, 0, 0), IsCA: true,
			BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	}
	root := ca("Test Root")
	a.Root = issue(t, root, root, a.rootKey.Public(), a.rootKey)
	a.Middle = issue(t, ca("Test Authority"), a.Root, a.key.Public(), a.rootKey)
	return a
}

// Pool holds the root.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Root)
	return p
}

// Mail is the template of a certificate for signing mail, valid from from to until, for the addresses.
func Mail(from, until time.Time, addresses ...string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: "Test"}, NotBefore: from, NotAfter: until, EmailAddresses: addresses,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}}
}

// Issue issues a certificate for key.
func (a *Authority) Issue(t testing.TB, template *x509.Certificate, key crypto.Signer) *Leaf {
	t.Helper()
	return &Leaf{Key: key, Cert: issue(t, template, a.Middle, key.Public(), a.key), Chain: []*x509.Certificate{a.Middle, a.Root}}
}

func issue(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	must(t, err)
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

// ECDSA makes a key on P-256.
func ECDSA(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

// RSA makes a key of so many bits.
func RSA(t testing.TB, bits int) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	must(t, err)
	return k
}

// PKCS12 is the leaf with its chain in one file.
func (l *Leaf) PKCS12(t testing.TB, password string) []byte {
	t.Helper()
	b, err := pkcs12.Modern.Encode(l.Key, l.Cert, l.Chain, password)
	must(t, err)
	return b
}

// CertificatePEM is the chain, the root first: a reader has to put it in order.
func (l *Leaf) CertificatePEM() []byte {
	var out []byte
	for i := len(l.Chain) - 1; i >= 0; i-- {
		out = append(out, block("CERTIFICATE", l.Chain[i].Raw)...)
	}
	return append(out, block("CERTIFICATE", l.Cert.Raw)...)
}

// KeyPEM is the key as PKCS#8, PKCS#1 or SEC 1, by the name of the block.
func (l *Leaf) KeyPEM(t testing.TB, name string) []byte {
	t.Helper()
	var der []byte
	var err error
	switch name {
	case "RSA PRIVATE KEY":
		der = x509.MarshalPKCS1PrivateKey(l.Key.(*rsa.PrivateKey))
	case "EC PRIVATE KEY":
		der, err = x509.MarshalECPrivateKey(l.Key.(*ecdsa.PrivateKey))
	default:
		der, err = x509.MarshalPKCS8PrivateKey(l.Key)
	}
	must(t, err)
	return block(name, der)
}

func block(name string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: name, Bytes: der})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
