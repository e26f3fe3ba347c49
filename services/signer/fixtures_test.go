package signer

import (
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	pgp "github.com/ProtonMail/gopenpgp/v3/crypto"
	"github.com/ProtonMail/gopenpgp/v3/profile"

	"github.com/stagecoachmail/stagecoach/services/signer/internal/signtest"
)

var makeKeys = flag.Bool("make-keys", false, "write the certificates and keys in testdata/sign anew")

// The certificates and keys of the golden mails: anna has both, gateway is for the rest of example.com, and the last
// ones for the sender of the conformance suite.
func TestMakeKeys(t *testing.T) {
	if !*makeKeys {
		t.Skip("only with -make-keys")
	}
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until := made.AddDate(29, 0, 0)
	ca := signtest.NewAuthority(t, made)
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join("testdata", "sign", name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("root.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Root.Raw}))
	write("anna.p12", ca.Issue(t, signtest.Mail(made, until, "anna@example.com"), signtest.ECDSA(t)).PKCS12(t, "p12 secret"))
	write("anna.password", []byte("p12 secret\n"))
	write("anna.asc", signtest.Locked(t, signtest.PGP(t, profile.Default(), made, 0, "anna@example.com"), "pgp secret"))
	write("anna.passphrase", []byte("pgp secret\n"))
	gateway := ca.Issue(t, signtest.Mail(made, until), signtest.RSA(t, 2048))
	write("gateway.pem", gateway.CertificatePEM())
	write("gateway-key.pem", gateway.KeyPEM(t, "PRIVATE KEY"))
	write("sender.asc", signtest.Locked(t, signtest.PGP(t, profile.RFC4880(), made, 0, "sender@example.com"), "pgp secret"))
}

// annasPGP is anna's key, for verifying.
func annasPGP(t testing.TB) *pgp.Key {
	t.Helper()
	b, err := os.ReadFile("testdata/sign/anna.asc")
	if err != nil {
		t.Fatal(err)
	}
	k, err := pgp.NewKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// rulesInTestdata sign anna's mail with OpenPGP for partner.example, and else with S/MIME; so that of her colleagues.
const rulesInTestdata = keysInTestdata + `
sign:
  - sender: anna@example.com
    recipients: ["*@partner.example"]
    openpgp: {key_file: sign/anna.asc, passphrase_file: sign/anna.passphrase}
  - sender: anna@example.com
    smime: {pkcs12: sign/anna.p12, password_file: sign/anna.password}
  - sender: "*@example.com"
    smime: {certificate: sign/gateway.pem, key_file: sign/gateway-key.pem}
`
