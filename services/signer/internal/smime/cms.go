// Package smime signs with S/MIME: detached CMS signatures (RFC 5652) as RFC 8551 has them in mail. It writes them
// itself: the time of signing is the caller's, the content is hashed elsewhere, and the same input gives the same
// octets. Verifying is left to others, in the tests as well.
package smime

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"slices"
	"time"
)

// Object identifiers of RFC 5652, 5754, 8017 and 8551.
var (
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSigningTime   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 5}
	oidCapabilities  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 15}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidECDSASHA256   = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidAES256CBC     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
	oidAES128CBC     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}
)

type algorithm struct {
	OID        asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

type contentInfo struct {
	ContentType asn1.ObjectIdentifier
	Content     asn1.RawValue `asn1:"optional"`
}

// signedData is RFC 5652, section 5.1; without content, since the signature is detached.
type signedData struct {
	Version          int
	DigestAlgorithms []algorithm `asn1:"set"`
	Content          contentInfo
	Certificates     asn1.RawValue
	SignerInfos      []signerInfo `asn1:"set"`
}

// signerInfo is RFC 5652, section 5.3.
type signerInfo struct {
	Version   int
	Issuer    issuerAndSerial
	Digest    algorithm
	Attrs     asn1.RawValue
	Signature algorithm
	Value     []byte
}

type issuerAndSerial struct {
	Issuer asn1.RawValue
	Serial *big.Int
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values asn1.RawValue
}

// sign gives the DER of a detached signature, made at the time at, of content with that digest.
func (k *Identity) sign(digest [sha256.Size]byte, at time.Time) ([]byte, error) {
	attrs, err := signedAttributes(digest, at)
	if err != nil {
		return nil, err
	}
	// RFC 5652, section 5.4: signed is the SET OF, which stands in the message with another tag.
	set, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: attrs})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(set)
	value, err := k.key.Sign(k.random(), sum[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	signature := algorithm{OID: oidRSA, Parameters: asn1.NullRawValue} // RFC 3370, section 3.2
	if k.isECDSA() {
		signature = algorithm{OID: oidECDSASHA256} // RFC 5754, section 3.3
	}
	var certs []byte
	for _, c := range k.chain {
		certs = append(certs, c.Raw...)
	}
	sha := algorithm{OID: oidSHA256}
	inner, err := asn1.Marshal(signedData{
		Version: 1, DigestAlgorithms: []algorithm{sha}, Content: contentInfo{ContentType: oidData},
		Certificates: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: certs},
		SignerInfos: []signerInfo{{
			Version: 1, Issuer: issuerAndSerial{asn1.RawValue{FullBytes: k.leaf().RawIssuer}, k.leaf().SerialNumber},
			Digest: sha, Attrs: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: attrs},
			Signature: signature, Value: value,
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode the signature: %w", err)
	}
	return asn1.Marshal(contentInfo{ContentType: oidSignedData,
		Content: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: inner}})
}

// random is nil for ECDSA, which makes its signatures deterministic (RFC 6979); RSA has no randomness in its
// signatures, only for blinding.
func (k *Identity) random() io.Reader {
	if k.isECDSA() {
		return nil
	}
	return rand.Reader
}

func (k *Identity) isECDSA() bool {
	_, ok := k.key.(*ecdsa.PrivateKey)
	return ok
}

// signedAttributes are content type, digest, time, and what the sender's programs surely can decrypt (RFC 8551,
// section 2.5), in the order of DER.
func signedAttributes(digest [sha256.Size]byte, at time.Time) ([]byte, error) {
	capabilities := []pkix.AlgorithmIdentifier{{Algorithm: oidAES256CBC}, {Algorithm: oidAES128CBC}}
	var all [][]byte
	for _, a := range []struct {
		oid   asn1.ObjectIdentifier
		value any
	}{{oidContentType, oidData}, {oidMessageDigest, digest[:]}, {oidSigningTime, at.UTC().Truncate(time.Second)}, {oidCapabilities, capabilities}} {
		value, err := asn1.Marshal(a.value)
		if err != nil {
			return nil, fmt.Errorf("encode an attribute: %w", err)
		}
		der, err := asn1.Marshal(attribute{a.oid, asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: value}})
		if err != nil {
			return nil, fmt.Errorf("encode an attribute: %w", err)
		}
		all = append(all, der)
	}
	slices.SortFunc(all, bytes.Compare)
	return bytes.Join(all, nil), nil
}
