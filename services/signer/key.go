package signer

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Kind is the algorithm of a key, as in the k= tag of its DNS record.
type Kind string

// The kinds of keys.
const (
	RSA     Kind = "rsa"     // 2048 bits, RFC 6376
	Ed25519 Kind = "ed25519" // RFC 8463; few verifiers know it yet, so it stands beside an RSA signature
)

// rsaBits is what every verifier takes; the record of a 4096 bit key is too long for some DNS hosts.
const rsaBits = 2048

// Key is a private key that signs mail.
type Key struct {
	kind   Kind
	signer crypto.Signer
}

// NewKey makes a key from the system's randomness.
func NewKey(kind Kind) (*Key, error) {
	switch kind {
	case RSA:
		k, err := rsa.GenerateKey(rand.Reader, rsaBits)
		if err != nil {
			return nil, fmt.Errorf("make an RSA key: %w", err)
		}
		return &Key{kind: RSA, signer: k}, nil
	case Ed25519:
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make an Ed25519 key: %w", err)
		}
		return &Key{kind: Ed25519, signer: k}, nil
	}
	return nil, fmt.Errorf("%q is not a kind of key (%s, %s)", kind, RSA, Ed25519)
}

// ParseKey reads the first private key of a PEM file: PKCS#8 or PKCS#1. RSA keys under 1024 bits are refused: no
// verifier takes them (RFC 8301, section 3.2).
func ParseKey(file []byte) (*Key, error) {
	for {
		block, rest := pem.Decode(file)
		if block == nil {
			return nil, errors.New("holds no private key in PEM form")
		}
		file = rest
		switch block.Type {
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("PKCS#8: %w", err)
			}
			return keyOf(k)
		case "RSA PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, errors.New("the key is encrypted with a passphrase")
			}
			k, err := x509.ParsePKCS1PrivateKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("PKCS#1: %w", err)
			}
			return keyOf(k)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("the key is encrypted with a passphrase")
		}
	}
}

func keyOf(private any) (*Key, error) {
	switch k := private.(type) {
	case *rsa.PrivateKey:
		if k.N.BitLen() < 1024 {
			return nil, fmt.Errorf("an RSA key of %d bits is too short", k.N.BitLen())
		}
		return &Key{kind: RSA, signer: k}, nil
	case ed25519.PrivateKey:
		return &Key{kind: Ed25519, signer: k}, nil
	}
	return nil, fmt.Errorf("a key of type %T cannot sign DKIM", private)
}

// Kind is the algorithm.
func (k *Key) Kind() Kind { return k.kind }

// PEM is the private key as PKCS#8.
func (k *Key) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.signer)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// bits of an RSA key; 0 for others.
func (k *Key) bits() int {
	if r, ok := k.signer.(*rsa.PrivateKey); ok {
		return r.N.BitLen()
	}
	return 0
}

// sign signs a SHA-256 digest. RFC 8463, section 3: Ed25519 signs the digest as its message.
func (k *Key) sign(digest [sha256.Size]byte) ([]byte, error) {
	hash := crypto.SHA256
	if k.kind == Ed25519 {
		hash = 0
	}
	return k.signer.Sign(rand.Reader, digest[:], hash)
}

// Record is the DNS record that publishes the public half of k under selector and domain (RFC 6376, section 3.6.1;
// for Ed25519 RFC 8463, section 4).
func (k *Key) Record(domain, selector string) (Record, error) {
	name, err := domainName(domain)
	if err != nil {
		return Record{}, err
	}
	if err := checkSelector(selector); err != nil {
		return Record{}, err
	}
	var public []byte
	switch p := k.signer.Public().(type) {
	case ed25519.PublicKey:
		public = p
	default:
		if public, err = x509.MarshalPKIXPublicKey(p); err != nil {
			return Record{}, fmt.Errorf("encode public key: %w", err)
		}
	}
	return Record{
		Name: selector + "._domainkey." + name,
		Text: "v=DKIM1; k=" + string(k.kind) + "; p=" + base64.StdEncoding.EncodeToString(public),
	}, nil
}

// Record is a DNS TXT record.
type Record struct {
	// Name is the owner name without a final dot.
	Name string
	// Text is the value in one piece, as web forms want it.
	Text string
}

// Strings is the value in character-strings of at most 255 octets (RFC 1035, section 3.3), as zone files want it.
func (r Record) Strings() []string {
	var parts []string
	rest := r.Text
	for len(rest) > 255 {
		parts = append(parts, rest[:255])
		rest = rest[255:]
	}
	return append(parts, rest)
}

// String is the record as lines of a zone file (RFC 1035, section 5), with a line end.
func (r Record) String() string {
	var b strings.Builder
	b.WriteString(r.Name + ". IN TXT (")
	for _, s := range r.Strings() {
		// Base64 and the tags have neither quotes nor backslashes.
		b.WriteString("\n\t\"" + s + "\"")
	}
	b.WriteString(" )\n")
	return b.String()
}
