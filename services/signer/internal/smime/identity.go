package smime

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Identity is a certificate with its key. It is safe for concurrent use.
type Identity struct {
	key   crypto.Signer
	chain []*x509.Certificate // the certificate of key first, then those between it and the root
}

// ParsePKCS12 reads a PKCS#12 file (RFC 7292) with one key, its certificate, and those of the authorities between it
// and the root.
func ParsePKCS12(file []byte, password string) (*Identity, error) {
	key, cert, others, err := pkcs12.DecodeChain(file, password)
	if errors.Is(err, pkcs12.ErrIncorrectPassword) {
		return nil, errors.New("the password does not open it")
	}
	if err != nil {
		return nil, fmt.Errorf("PKCS#12: %w", err)
	}
	return newIdentity(key, append([]*x509.Certificate{cert}, others...))
}

// ParsePEM reads a certificate, with those of the authorities between it and the root in any order, and its key:
// PKCS#8, PKCS#1 or SEC 1. Both may be one file.
func ParsePEM(certificates, key []byte) (*Identity, error) {
	var certs []*x509.Certificate
	for rest := certificates; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("certificate: the file holds none in PEM form")
	}
	k, err := parseKey(key)
	if err != nil {
		return nil, fmt.Errorf("key_file: %w", err)
	}
	return newIdentity(k, certs)
}

func parseKey(file []byte) (any, error) {
	for {
		var block *pem.Block
		if block, file = pem.Decode(file); block == nil {
			return nil, errors.New("the file holds no private key in PEM form")
		}
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return nil, errors.New("the key is encrypted: put it into a PKCS#12 file, which can have a password")
		case block.Type == "PRIVATE KEY":
			return x509.ParsePKCS8PrivateKey(block.Bytes)
		case block.Type == "RSA PRIVATE KEY":
			return x509.ParsePKCS1PrivateKey(block.Bytes)
		case block.Type == "EC PRIVATE KEY":
			return x509.ParseECPrivateKey(block.Bytes)
		}
	}
}

// newIdentity finds the certificate of the key among certs, and those that lead from it towards the root.
func newIdentity(key any, certs []*x509.Certificate) (*Identity, error) {
	k := &Identity{}
	switch s := key.(type) {
	case *rsa.PrivateKey:
		if s.N.BitLen() < 2048 {
			return nil, fmt.Errorf("an RSA key of %d bits is too short: 2048 at least", s.N.BitLen())
		}
		k.key = s
	case *ecdsa.PrivateKey:
		k.key = s
	default:
		return nil, fmt.Errorf("a key of type %T cannot sign here: RSA or ECDSA", key)
	}
	public, ok := k.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return nil, errors.New("the key has no public half")
	}
	for _, c := range certs {
		if public.Equal(c.PublicKey) {
			k.chain = []*x509.Certificate{c}
			break
		}
	}
	if k.chain == nil {
		return nil, errors.New("the key is not that of the certificate")
	}
	if err := k.usage(); err != nil {
		return nil, err
	}
	for next := k.issuer(certs); next != nil; next = k.issuer(certs) {
		k.chain = append(k.chain, next)
	}
	return k, nil
}

// issuer finds the certificate that issued the last one of the chain. The root stays out: who verifies has it, or does
// not trust it (RFC 8550, section 2.3).
func (k *Identity) issuer(certs []*x509.Certificate) *x509.Certificate {
	last := k.chain[len(k.chain)-1]
	for _, c := range certs {
		if len(k.chain) < 10 && !bytes.Equal(c.RawSubject, c.RawIssuer) && bytes.Equal(c.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(c) == nil {
			return c
		}
	}
	return nil
}

// usage says why the certificate is not one to sign mail with (RFC 8550, section 4.4).
func (k *Identity) usage() error {
	c := k.leaf()
	if c.KeyUsage != 0 && c.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return errors.New("the certificate is not for signing: its key usage has no digitalSignature")
	}
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 {
		return nil
	}
	for _, u := range c.ExtKeyUsage {
		if u == x509.ExtKeyUsageEmailProtection || u == x509.ExtKeyUsageAny {
			return nil
		}
	}
	return errors.New("the certificate is not for mail: its extended key usage has no emailProtection")
}

func (k *Identity) leaf() *x509.Certificate { return k.chain[0] }

// Name names the certificate for a log or a trail.
func (k *Identity) Name() string {
	c := k.leaf()
	return fmt.Sprintf("certificate %X of %q", c.SerialNumber, c.Issuer.String())
}

// Addresses are those that the certificate is for: rfc822Name, else emailAddress in its subject (RFC 8550, section 3).
func (k *Identity) Addresses() []mail.Address {
	texts := k.leaf().EmailAddresses
	if len(texts) == 0 {
		texts = subjectAddresses(k.leaf().Subject)
	}
	var out []mail.Address
	for _, t := range texts {
		if a, err := mail.ParseAddressUTF8(strings.TrimSpace(t)); err == nil {
			out = append(out, a)
		}
	}
	return out
}

var oidEmailAddress = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}

func subjectAddresses(name pkix.Name) []string {
	var out []string
	for _, a := range name.Names {
		if s, ok := a.Value.(string); ok && a.Type.Equal(oidEmailAddress) {
			out = append(out, s)
		}
	}
	return out
}

// Unusable says why the certificate cannot sign now, or "". A certificate of an authority in between counts as well.
func (k *Identity) Unusable(now time.Time) string {
	for _, c := range k.chain {
		switch {
		case now.Before(c.NotBefore):
			return "the certificate is not valid before " + c.NotBefore.UTC().Format(time.RFC3339)
		case now.After(c.NotAfter):
			return "the certificate has expired on " + c.NotAfter.UTC().Format(time.RFC3339)
		}
	}
	return ""
}

// Ends is when the first certificate of the chain expires.
func (k *Identity) Ends() time.Time {
	end := k.leaf().NotAfter
	for _, c := range k.chain {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}
