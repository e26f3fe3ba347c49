package demo

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/smallstep/pkcs7"
)

// end is what should become of a sample.
type end string

const (
	delivered end = "delivered"
	held      end = "quarantine"
	reported  end = "reported"
)

// sample is a message that the demo sends.
type sample struct {
	// name is short; the Subject of the message is the same.
	name string
	// what it shows.
	what string
	to   string
	raw  []byte
	want end
	// late: its smarthost is down at first.
	late bool
	// signed: by someone else before us; his signature must still verify where it arrives.
	signed bool
}

// largeSize is the size of the attachment of the large sample, in bytes.
const largeSize = 9 << 20

// samples makes the messages. signer signs one of them.
func samples(signer tls.Certificate) ([]sample, error) {
	signed, err := signedText(signer)
	if err != nil {
		return nil, err
	}
	const customer = "bob@customer.example"
	return []sample{
		{name: "plain", what: "a few lines of text", to: customer, want: delivered,
			raw: message("plain", customer, "Content-Type: text/plain; charset=utf-8\r\n\r\nGood morning,\r\n\r\nthe coach leaves at eight.\r\n\r\nAlice\r\n")},
		{name: "attachment", what: "text, HTML and an attachment", to: customer, want: delivered, raw: message("attachment", customer, alternative())},
		{name: "large", what: "an attachment of 9 MiB", to: customer, want: delivered, raw: message("large", customer, large())},
		{name: "signed", what: "signed with S/MIME by its author", to: customer, want: delivered, signed: true, raw: message("signed", customer, signed)},
		{name: "virus", what: "the EICAR test file attached", to: customer, want: held, raw: message("virus", customer, eicar())},
		{name: "refused", what: "to a mailbox that is not there", to: refused, want: reported,
			raw: message("refused", refused, "Content-Type: text/plain; charset=us-ascii\r\n\r\nIs anybody there?\r\n")},
		{name: "patience", what: "its smarthost is down for ten seconds", to: "carol@" + branchDomain, want: delivered, late: true,
			raw: message("patience", "carol@"+branchDomain, "Content-Type: text/plain; charset=us-ascii\r\n\r\nNo hurry.\r\n")},
	}, nil
}

// message puts a header before a body that begins with its Content-Type.
func message(subject, to, body string) []byte {
	return fmt.Appendf(nil, "From: Alice Coachman <alice@%s>\r\nTo: <%s>\r\nSubject: %s\r\nMessage-ID: <%s@%s>\r\nDate: Sun, 01 Nov 2026 08:00:00 +0000\r\nMIME-Version: 1.0\r\n%s",
		company, to, subject, subject, company, body)
}

func alternative() string {
	return "Content-Type: multipart/mixed; boundary=outer\r\n\r\n" +
		"--outer\r\nContent-Type: multipart/alternative; boundary=inner\r\n\r\n" +
		"--inner\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nSch=C3=B6ne Gr=C3=BC=C3=9Fe, the timetable is attached.\r\n" +
		"--inner\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<html><body><p>Sch=C3=B6ne Gr=C3=BC=C3=9Fe, the <b>timetable</b> is attached.</p></body></html>\r\n" +
		"--inner--\r\n" +
		"--outer\r\nContent-Type: text/csv; name=timetable.csv\r\nContent-Disposition: attachment; filename=timetable.csv\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		lines([]byte("from,to,leaves\nYork,London,08:00\nLondon,Bath,09:30\n")) +
		"--outer--\r\n"
}

func large() string {
	random := make([]byte, largeSize)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(random) // never fails
	return "Content-Type: multipart/mixed; boundary=outer\r\n\r\n" +
		"--outer\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nThe drawings.\r\n" +
		"--outer\r\nContent-Type: application/octet-stream; name=drawings.bin\r\nContent-Disposition: attachment; filename=drawings.bin\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		lines(random) + "--outer--\r\n"
}

// eicar is the text by which scanners are tried out (eicar.org). It stands here in pieces, so that no scanner minds
// this program.
func eicar() string {
	text := strings.Join([]string{`X5O!P%@AP[4\PZX54(P^)7CC)7}$`, `EICAR-STANDARD-`, `ANTIVIRUS-TEST-FILE`, `!$H+H*`}, "")
	return "Content-Type: multipart/mixed; boundary=outer\r\n\r\n" +
		"--outer\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nYour invoice.\r\n" +
		"--outer\r\nContent-Type: application/octet-stream; name=invoice.dat\r\nContent-Disposition: attachment; filename=invoice.dat\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		lines([]byte(text)) + "--outer--\r\n"
}

// lines is base64 in lines of 76 (RFC 2045, section 6.8).
func lines(data []byte) string {
	text := base64.StdEncoding.EncodeToString(data)
	var b strings.Builder
	b.Grow(len(text) + len(text)/38 + 4)
	for len(text) > 76 {
		b.WriteString(text[:76] + "\r\n")
		text = text[76:]
	}
	return b.String() + text + "\r\n"
}

// signedEntity is what the author of the sample "signed" has signed.
const signedEntity = "Content-Type: text/plain; charset=us-ascii\r\n\r\nI said so myself.\r\n"

// signedText is a multipart/signed (RFC 8551, section 3.5.3), as a mail client makes it.
func signedText(signer tls.Certificate) (string, error) {
	s, err := pkcs7.NewSignedData([]byte(signedEntity))
	if err != nil {
		return "", err
	}
	s.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := s.AddSigner(signer.Leaf, signer.PrivateKey, pkcs7.SignerInfoConfig{}); err != nil {
		return "", err
	}
	s.Detach()
	der, err := s.Finish()
	if err != nil {
		return "", err
	}
	return "Content-Type: multipart/signed; protocol=\"application/pkcs7-signature\"; micalg=sha-256; boundary=sig\r\n\r\n" +
		"--sig\r\n" + signedEntity + "\r\n" +
		"--sig\r\nContent-Type: application/pkcs7-signature; name=smime.p7s\r\nContent-Disposition: attachment; filename=smime.p7s\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		lines(der) + "--sig--\r\n", nil
}

// verifySigned checks the signature of the author in what arrived.
func verifySigned(raw []byte, ca *x509.Certificate) error {
	_, rest, ok := bytes.Cut(raw, []byte("--sig\r\n"))
	if !ok {
		return fmt.Errorf("the signed part is gone")
	}
	entity, rest, ok := bytes.Cut(rest, []byte("\r\n--sig\r\n"))
	_, rest, more := bytes.Cut(rest, []byte("\r\n\r\n"))
	text, _, last := bytes.Cut(rest, []byte("--sig--"))
	if !ok || !more || !last {
		return fmt.Errorf("the signature is gone")
	}
	der, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(text), "\r\n", ""))
	if err != nil {
		return err
	}
	p, err := pkcs7.Parse(der)
	if err != nil {
		return err
	}
	p.Content = entity
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return p.VerifyWithChain(roots)
}
