package signtest

import (
	"bytes"
	"crypto/x509"
	"io"
	"strings"
	"testing"
	"time"

	pgp "github.com/ProtonMail/gopenpgp/v3/crypto"
	"github.com/smallstep/pkcs7"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Signed is a multipart/signed message, taken apart.
type Signed struct {
	// Entity is what is signed, as it stands in the message; Signature the second part, decoded.
	Entity, Signature []byte
	Protocol, Micalg  string
}

// Split takes a message apart that must be a multipart/signed of two parts, and nothing else.
func Split(t testing.TB, text string) Signed {
	t.Helper()
	c := mail.FromBytes([]byte(text))
	root, err := mail.Walk(c)
	must(t, err)
	if root.MediaType != "multipart/signed" || len(root.Children) != 2 || !root.Terminated {
		t.Fatalf("it is no multipart/signed of two parts:\n%s", text)
	}
	first, second := root.Children[0], root.Children[1]
	if second.MediaType != root.Params["protocol"] {
		t.Fatalf("the signature is %s, the protocol %s", second.MediaType, root.Params["protocol"])
	}
	r, err := second.Decoded(c)
	must(t, err)
	sig, err := io.ReadAll(r)
	must(t, err)
	return Signed{Entity: []byte(text[first.Offset:first.End]), Signature: sig, Protocol: root.Params["protocol"], Micalg: root.Params["micalg"]}
}

// SMIME verifies an S/MIME signature, at that time, and gives it.
func (s Signed) SMIME(roots *x509.CertPool, at time.Time) (*pkcs7.PKCS7, error) {
	p, err := pkcs7.Parse(s.Signature)
	if err != nil {
		return nil, err
	}
	p.Content = s.Entity
	return p, p.VerifyWithChainAtTime(roots, at)
}

// PGP verifies an OpenPGP signature at that time, and gives the time that it bears.
func (s Signed) PGP(key *pgp.Key, at time.Time) (time.Time, error) {
	public, err := key.ToPublic()
	if err != nil {
		return time.Time{}, err
	}
	v, err := pgp.PGP().Verify().VerificationKey(public).VerifyTime(at.Unix()).New()
	if err != nil {
		return time.Time{}, err
	}
	res, err := v.VerifyDetached(s.Entity, s.Signature, pgp.Armor)
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(res.SignatureCreationTime(), 0), res.SignatureError()
}

// SevenBit says whether a text has only 7-bit octets, in lines of at most 998 that end with CRLF.
func SevenBit(text string) bool {
	for line := range strings.SplitSeq(text, "\r\n") {
		if len(line) > 998 || bytes.ContainsFunc([]byte(line), func(r rune) bool { return r >= 0x80 || r == 0 || r == '\r' || r == '\n' }) {
			return false
		}
	}
	return true
}
