package smime

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"time"

	"github.com/stagecoachmail/stagecoach/services/signer/internal/multisigned"
)

// Begin begins a signature that bears the time at. It never bears one from before the certificate: what was accepted
// before a certificate was renewed is signed with the time from which the new one is valid.
func (k *Identity) Begin(at time.Time) multisigned.Session {
	if from := k.leaf().NotBefore; at.Before(from) {
		at = from
	}
	return session{k, at}
}

type session struct {
	key *Identity
	at  time.Time
}

// Write does nothing: the digest that a CMS signature needs comes with Finish.
func (s session) Write(p []byte) (int, error) { return len(p), nil }

// Finish makes the second part (RFC 8551, section 3.5.3.1).
func (s session) Finish(digest [sha256.Size]byte) (multisigned.Signature, error) {
	der, err := s.key.sign(digest, s.at)
	if err != nil {
		return multisigned.Signature{}, err
	}
	var b bytes.Buffer
	b.WriteString("Content-Type: application/pkcs7-signature; name=\"smime.p7s\"\r\n" +
		"Content-Transfer-Encoding: base64\r\n" +
		"Content-Disposition: attachment; filename=\"smime.p7s\"\r\n\r\n")
	text := base64.StdEncoding.EncodeToString(der)
	for len(text) > 76 {
		b.WriteString(text[:76] + "\r\n")
		text = text[76:]
	}
	b.WriteString(text)
	return multisigned.Signature{Protocol: "application/pkcs7-signature", Micalg: "sha-256", Part: b.Bytes()}, nil
}
