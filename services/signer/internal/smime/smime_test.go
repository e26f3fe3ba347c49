package smime

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"

	"github.com/stagecoachmail/stagecoach/services/signer/internal/signtest"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const alice = "alice@example.com"

func template() *x509.Certificate {
	return signtest.Mail(noon.Add(-30*signtest.Day), noon.Add(300*signtest.Day), alice)
}

func signature(t testing.TB, k *Identity, content string, at time.Time) []byte {
	t.Helper()
	der, err := k.sign(sha256.Sum256([]byte(content)), at)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestSignaturesVerify(t *testing.T) {
	ca := signtest.NewAuthority(t, noon.Add(-60*signtest.Day))
	for name, key := range map[string]crypto.Signer{"RSA": signtest.RSA(t, 2048), "ECDSA": signtest.ECDSA(t)} {
		t.Run(name, func(t *testing.T) {
			leaf := ca.Issue(t, template(), key)
			k, err := ParsePKCS12(leaf.PKCS12(t, "secret"), "secret")
			if err != nil {
				t.Fatal(err)
			}
			der := signature(t, k, "content", noon)
			if again := signature(t, k, "content", noon); !bytes.Equal(der, again) {
				t.Error("the same content is signed differently when signed again")
			}
			verify := func(content string) (*pkcs7.PKCS7, error) {
				p, err := pkcs7.Parse(der)
				if err != nil {
					t.Fatal(err)
				}
				p.Content = []byte(content)
				return p, p.VerifyWithChainAtTime(ca.Pool(), noon)
			}
			p, err := verify("content")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := verify("contents"); err == nil {
				t.Error("other content verifies")
			}
			if len(p.Certificates) != 2 || !p.Certificates[0].Equal(leaf.Cert) || !p.Certificates[1].Equal(ca.Middle) {
				t.Errorf("%d certificates: the signer's and the one between it and the root are wanted", len(p.Certificates))
			}
			var at time.Time
			if err := p.UnmarshalSignedAttribute(oidSigningTime, &at); err != nil || !at.Equal(noon) {
				t.Errorf("signed at %v (%v)", at, err)
			}
			var can []pkix.AlgorithmIdentifier
			if err := p.UnmarshalSignedAttribute(oidCapabilities, &can); err != nil || len(can) != 2 {
				t.Errorf("capabilities %v (%v)", can, err)
			}
		})
	}
}

// What was accepted before the certificate was issued bears the first time at which it is valid.
func TestSignedNoEarlierThanTheCertificate(t *testing.T) {
	ca := signtest.NewAuthority(t, noon.Add(-60*signtest.Day))
	c := template()
	c.NotBefore = noon.Add(-time.Hour)
	leaf := ca.Issue(t, c, signtest.ECDSA(t))
	k, err := newIdentity(leaf.Key, append([]*x509.Certificate{leaf.Cert}, leaf.Chain...))
	if err != nil {
		t.Fatal(err)
	}
	for received, want := range map[time.Time]time.Time{noon: noon, noon.Add(-2 * time.Hour): noon.Add(-time.Hour)} {
		if got := k.Begin(received).(session).at; !got.Equal(want) {
			t.Errorf("received at %v, signed at %v", received, got)
		}
	}
}

func TestPEMForms(t *testing.T) {
	ca := signtest.NewAuthority(t, noon.Add(-60*signtest.Day))
	rsa, ec := ca.Issue(t, template(), signtest.RSA(t, 2048)), ca.Issue(t, template(), signtest.ECDSA(t))
	for name, c := range map[string]struct {
		leaf *signtest.Leaf
		form string
	}{"PKCS#8 RSA": {rsa, "PRIVATE KEY"}, "PKCS#1": {rsa, "RSA PRIVATE KEY"}, "PKCS#8 EC": {ec, "PRIVATE KEY"}, "SEC 1": {ec, "EC PRIVATE KEY"}} {
		t.Run(name, func(t *testing.T) {
			key := c.leaf.KeyPEM(t, c.form)
			for where, k := range map[string][2][]byte{
				"two files": {c.leaf.CertificatePEM(), key},
				"one file":  {append(key, c.leaf.CertificatePEM()...), append(c.leaf.CertificatePEM(), key...)},
			} {
				id, err := ParsePEM(k[0], k[1])
				if err != nil {
					t.Fatalf("%s: %v", where, err)
				}
				if len(id.chain) != 2 || !id.leaf().Equal(c.leaf.Cert) || !id.chain[1].Equal(ca.Middle) {
					t.Errorf("%s: the chain has %d certificates, first %s", where, len(id.chain), id.Name())
				}
			}
		})
	}
}

func TestRefused(t *testing.T) {
	ca := signtest.NewAuthority(t, noon.Add(-60*signtest.Day))
	ec := signtest.ECDSA(t)
	with := func(change func(*x509.Certificate)) *signtest.Leaf {
		c := template()
		change(c)
		return ca.Issue(t, c, ec)
	}
	good := with(func(*x509.Certificate) {})
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		certs, key []byte
		want       string
	}{
		"another key":      {good.CertificatePEM(), (&signtest.Leaf{Key: signtest.ECDSA(t)}).KeyPEM(t, "PRIVATE KEY"), "not that of the certificate"},
		"a short RSA key":  {good.CertificatePEM(), (&signtest.Leaf{Key: signtest.RSA(t, 1024)}).KeyPEM(t, "PRIVATE KEY"), "too short"},
		"Ed25519":          {good.CertificatePEM(), (&signtest.Leaf{Key: ed}).KeyPEM(t, "PRIVATE KEY"), "RSA or ECDSA"},
		"no key":           {good.CertificatePEM(), good.CertificatePEM(), "no private key"},
		"no certificate":   {good.KeyPEM(t, "PRIVATE KEY"), good.KeyPEM(t, "PRIVATE KEY"), "certificate"},
		"an encrypted key": {good.CertificatePEM(), []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), "encrypted"},
		"for encryption": {with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }).CertificatePEM(),
			good.KeyPEM(t, "PRIVATE KEY"), "digitalSignature"},
		"for servers": {with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }).CertificatePEM(),
			good.KeyPEM(t, "PRIVATE KEY"), "emailProtection"},
		"for something else": {with(func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 311, 10, 3, 12}}
		}).CertificatePEM(), good.KeyPEM(t, "PRIVATE KEY"), "emailProtection"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParsePEM(c.certs, c.key); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v", err)
			}
		})
	}
	if _, err := ParsePKCS12(good.PKCS12(t, "secret"), "Secret"); err == nil || !strings.Contains(err.Error(), "password") {
		t.Errorf("another password: %v", err)
	}
	if _, err := ParsePKCS12([]byte("x"), "secret"); err == nil {
		t.Error("what is no PKCS#12 was read")
	}
	for name, change := range map[string]func(*x509.Certificate){
		"no usage named":    func(c *x509.Certificate) { c.KeyUsage, c.ExtKeyUsage = 0, nil },
		"contentCommitment": func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageContentCommitment },
		"any":               func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
	} {
		if _, err := ParsePEM(with(change).CertificatePEM(), good.KeyPEM(t, "PRIVATE KEY")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	ca := signtest.NewAuthority(t, noon.Add(-60*signtest.Day))
	subject := pkix.Name{CommonName: "Alice", ExtraNames: []pkix.AttributeTypeAndValue{{Type: oidEmailAddress, Value: "old@example.com"}}}
	for want, c := range map[string]*x509.Certificate{
		"[alice@example.com a@example.org]": signtest.Mail(noon, noon, alice, "a@example.org"),
		"[old@example.com]":                 {Subject: subject, NotBefore: noon, NotAfter: noon},
		"[]":                                signtest.Mail(noon, noon),
		"[alice@example.com]":               {Subject: subject, NotBefore: noon, NotAfter: noon, EmailAddresses: []string{alice, "no address"}},
	} {
		leaf := ca.Issue(t, c, signtest.ECDSA(t))
		k, err := newIdentity(leaf.Key, []*x509.Certificate{leaf.Cert})
		if err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, a := range k.Addresses() {
			names = append(names, a.String())
		}
		if got := "[" + strings.Join(names, " ") + "]"; got != want {
			t.Errorf("addresses %s, not %s", got, want)
		}
	}
}

func TestUnusable(t *testing.T) {
	ca := signtest.NewAuthority(t, noon.Add(-60*signtest.Day))
	leaf := ca.Issue(t, template(), signtest.ECDSA(t))
	k, err := newIdentity(leaf.Key, append([]*x509.Certificate{leaf.Cert}, leaf.Chain...))
	if err != nil {
		t.Fatal(err)
	}
	for now, want := range map[time.Time]string{
		noon:                                  "",
		leaf.Cert.NotBefore:                   "",
		leaf.Cert.NotBefore.Add(-time.Second): "not valid before",
		leaf.Cert.NotAfter:                    "",
		leaf.Cert.NotAfter.Add(time.Second):   "expired",
	} {
		if got := k.Unusable(now); !strings.Contains(got, want) || got != "" && want == "" {
			t.Errorf("at %v: %q, not %q", now, got, want)
		}
	}
	if !k.Ends().Equal(leaf.Cert.NotAfter) {
		t.Errorf("it ends %v", k.Ends())
	}
}
