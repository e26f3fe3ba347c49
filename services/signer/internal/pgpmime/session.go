package pgpmime

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/stagecoachmail/stagecoach/services/signer/internal/multisigned"
)

// Begin begins a signature that bears the time at; or the time now, where the key could not sign at that time: it was
// made, or its life prolonged, after the message was accepted.
func (k *Key) Begin(at, now time.Time) (multisigned.Session, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.signsAt(at) {
		at = now
	}
	s := &session{key: k}
	var err error
	s.in, err = openpgp.DetachSignWriter(&s.out, []*openpgp.Entity{k.entity}, &openpgp.SignParams{Config: config(at)})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.Name(), err)
	}
	return s, nil
}

type session struct {
	key *Key
	in  io.WriteCloser
	out bytes.Buffer
}

func (s *session) Write(p []byte) (int, error) { return s.in.Write(p) }

// Finish makes the second part (RFC 3156, section 5).
func (s *session) Finish([sha256.Size]byte) (multisigned.Signature, error) {
	none := multisigned.Signature{}
	if err := s.in.Close(); err != nil {
		return none, fmt.Errorf("%s: sign: %w", s.key.Name(), err)
	}
	micalg, err := micalg(s.out.Bytes())
	if err != nil {
		return none, fmt.Errorf("%s: %w", s.key.Name(), err)
	}
	var text bytes.Buffer
	// Checksums are for readers of before RFC 9580, which do not know version 6 either.
	w, err := armor.EncodeWithChecksumOption(&text, openpgp.SignatureType, nil, s.key.entity.PrimaryKey.Version < 6)
	if err != nil {
		return none, err
	}
	_, err = w.Write(s.out.Bytes())
	if err := errors.Join(err, w.Close()); err != nil {
		return none, fmt.Errorf("%s: armor: %w", s.key.Name(), err)
	}
	part := "Content-Type: application/pgp-signature; name=\"signature.asc\"\r\n" +
		"Content-Description: OpenPGP digital signature\r\n" +
		"Content-Disposition: attachment; filename=\"signature.asc\"\r\n\r\n"
	lines := bytes.ReplaceAll(bytes.TrimRight(text.Bytes(), "\n"), []byte("\n"), []byte("\r\n"))
	return multisigned.Signature{Protocol: "application/pgp-signature", Micalg: micalg, Part: append([]byte(part), lines...)}, nil
}

// micalg names the hash of a signature (RFC 3156, section 5; RFC 9580, section 9.5). It is SHA-256, unless the key asks
// for more.
func micalg(signature []byte) (string, error) {
	p, err := packet.Read(bytes.NewReader(signature))
	if err != nil {
		return "", fmt.Errorf("read the signature: %w", err)
	}
	s, ok := p.(*packet.Signature)
	if !ok {
		return "", fmt.Errorf("the signature is a %T", p)
	}
	switch s.Hash {
	case crypto.SHA256:
		return "pgp-sha256", nil
	case crypto.SHA384:
		return "pgp-sha384", nil
	case crypto.SHA512:
		return "pgp-sha512", nil
	case crypto.SHA3_256:
		return "pgp-sha3-256", nil
	case crypto.SHA3_512:
		return "pgp-sha3-512", nil
	}
	return "", fmt.Errorf("the signature has the hash %v", s.Hash)
}
