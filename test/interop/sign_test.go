//go:build interop

package interop

import (
	"bytes"
	"fmt"
	"mime"
	"mime/multipart"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

const signBody = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
stages:
  signer:
    config:
      must_sign: [example.com]
      sign:
        - sender: alice@example.com
          recipients: ["*@partner.example"]
          openpgp: {key_file: pgp/alice.asc, passphrase_file: pgp/passphrase}
        - sender: carol@example.com
          recipients: ["*@partner.example"]
          openpgp: {key_file: pgp/carol.gpg, passphrase_file: pgp/passphrase}
        - sender: alice@example.com
          smime: {pkcs12: smime/alice.p12, password_file: smime/password}
        - sender: "*@example.com"
          smime: {certificate: smime/gateway.pem, key_file: smime/gateway.key}
chains:
  - {name: inbound, match: {direction: [inbound, internal]}, stages: [], deliver: provider}
  - {name: outbound, match: {direction: outbound}, stages: [signer], deliver: provider}
routes:
  provider: ROUTE
`

// signers are the keys that openssl and gpg have made, and the folders that they verify with.
type signers struct {
	r          *rig.Rig
	gpg, gpgsm string
	root       string
}

// TestSigned sends mail through a signer whose keys others have made, and lets them verify what left egress.
func TestSigned(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Up)
	sink := r.NewSink("smarthost")
	if _, err := signer.WriteKeys(r.Path("data", "keys"), "example.com", "test"); err != nil {
		t.Fatal(err)
	}
	s := newSigners(r)
	r.Configure(strings.Replace(signBody, "ROUTE", sink.Route(), 1))
	r.Start()
	parts := "Content-Type: multipart/mixed; boundary=\"mix\"\r\nContent-Transfer-Encoding: 8bit\r\n\r\npreamble \r\n--mix\r\n"
	for _, c := range []struct{ name, raw string }{
		{"text", plain("text", "Good morning.\n")},
		{"other than ASCII", plain("other than ASCII", "Liebe Grüße aus Köln\nFrom here on it is dry. \n-- \nAlice\n.\n..\n"+strings.Repeat("langer Text ", 200)+"\n")},
		{"attachment", withAttachment("attachment", "noise.bin", noise(300<<10))},
		{"empty body", header("empty body") + "\r\n"},
		{"empty lines", header("empty lines") + "\r\n\r\n\r\n\r\n"},
		{"no MIME", strings.Replace(header("no MIME"), "MIME-Version: 1.0\r\n", "", 1) + "\r\nHello.\r\n"},
		{"in parts", header("in parts") + parts + "Content-Type: text/plain; charset=utf-8\r\n\r\nGrüße, und noch etwas mehr \r\n--mix\r\n" +
			"Content-Type: message/rfc822\r\n\r\nFrom: x@example.org\r\nSubject: in\r\n\r\nGrüße von hier und dort\r\n--mix--\r\n"},
	} {
		r.Run(c.name, func(t *testing.T) {
			for _, sender := range []string{"alice", "carol"} {
				raw := strings.Replace(c.raw, "From: Alice <alice@", "From: <"+sender+"@", 1)
				id := r.MustSend(sender+"@example.com", []string{"bob@example.net", "pat@partner.example"}, raw)
				r.Eventually("both forms arrive", 15*time.Second, func() bool { return len(sink.Find(id)) == 2 })
				for _, d := range sink.Find(id) {
					if slices.Contains(d.To, "pat@partner.example") {
						s.verifies(t, string(d.Raw), map[string]verifier{"gpg": s.byGPG})
					} else {
						s.verifies(t, string(d.Raw), map[string]verifier{"openssl": s.byOpenSSL, "gpgsm": s.byGpgsm})
					}
					if sender != "alice" {
						continue
					}
					for name, verify := range map[string]func(*rig.Rig, string) ([]string, string){"dkimpy": byDkimpy, "opendkim": byOpenDKIM} {
						if good, said := verify(r, string(d.Raw)); !sameWords(good, theAlgorithms) {
							t.Errorf("%s over it: good are %v, it says:\n%s", name, good, said)
						}
					}
				}
			}
		})
	}
}

// verifier verifies a whole message, and says what it found.
type verifier func(t *testing.T, raw string) (good bool, said string)

var signedBoundary = regexp.MustCompile(`boundary="(=_signed-[^"]*)"`)

// verifies says that each verifier finds a message good, as it left egress and after a hop that is not 8-bit clean; and
// that it finds it bad with one bit of the signed part flipped.
func (s *signers) verifies(t *testing.T, raw string, by map[string]verifier) {
	t.Helper()
	m := signedBoundary.FindStringSubmatch(raw)
	if m == nil {
		t.Fatalf("it is not signed:\n%s", raw)
	}
	begin := strings.Index(raw, "--"+m[1]+"\r\n") + len("--"+m[1]+"\r\n")
	end := strings.Index(raw, "\r\n--"+m[1]+"\r\nContent-Type: application/p")
	if begin < 0 || end < begin {
		t.Fatalf("no signed part:\n%s", raw)
	}
	if hop := sevenBitHop(raw[begin:end]); hop != raw[begin:end] {
		t.Errorf("the signed part does not survive a 7-bit hop:\n%q\n%q", raw[begin:end], hop)
	}
	relayed := sevenBitHop(raw)
	if strings.ContainsFunc(raw, func(r rune) bool { return r >= 0x80 }) {
		t.Errorf("it has 8-bit octets:\n%q", raw)
	}
	for line := range strings.SplitSeq(raw, "\r\n") {
		if len(line) > 998 {
			t.Errorf("it has a line of %d octets", len(line))
		}
	}
	for name, verify := range by {
		if good, said := verify(t, raw); !good {
			t.Errorf("%s does not find it good:\n%s\n%s", name, said, raw)
		}
		if good, said := verify(t, relayed); !good {
			t.Errorf("%s does not find it good after a 7-bit hop:\n%s", name, said)
		}
		at := begin + (end-begin)/2
		for at > begin && (raw[at] <= ' ' || raw[at]^1 <= ' ') {
			at--
		}
		if at == begin {
			continue // an empty part has nothing to flip
		}
		if good, said := verify(t, raw[:at]+string(raw[at]^1)+raw[at+1:]); good {
			t.Errorf("%s finds it good with one bit of %q flipped:\n%s", name, raw[max(begin, at-20):min(end, at+20)], said)
		}
	}
}

// sevenBitHop is what the worst relay does that encodes nothing: it cuts the eighth bit off, breaks long lines, takes
// white space off at the end of lines, and puts a ">" before "From ".
func sevenBitHop(raw string) string {
	var out strings.Builder
	for i, line := range strings.Split(raw, "\r\n") {
		if i > 0 {
			out.WriteString("\r\n")
		}
		b := []byte(strings.TrimRight(line, " \t"))
		for i := range b {
			b[i] &= 0x7f
		}
		if bytes.HasPrefix(b, []byte("From ")) {
			b = append([]byte(">"), b...)
		}
		for len(b) > 998 {
			out.Write(b[:998])
			out.WriteString("\r\n")
			b = b[998:]
		}
		out.Write(b)
	}
	return out.String()
}

// newSigners makes keys by openssl and gpg where the configuration looks for them.
func newSigners(r *rig.Rig) *signers {
	t := r.T
	t.Helper()
	s := &signers{r: r, gpg: shortHome(t), gpgsm: shortHome(t)}
	r.WriteFile("smime/password", "p12 secret\n")
	r.WriteFile("pgp/passphrase", "pgp secret\n")
	in := func(name string) string { return r.Path("smime", name) }
	openssl := func(args ...string) { t.Helper(); run(t, "", "openssl", args...) }
	s.root = in("root.pem")
	openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", in("root.key"), "-out", s.root, "-days", "30", "-subj", "/CN=Interop Root",
		"-addext", "keyUsage=critical,keyCertSign,cRLSign")
	issue := func(name, key, subject, issuer, ext string) {
		t.Helper()
		args := []string{"req", "-new", "-nodes", "-keyout", in(name + ".key"), "-out", in(name + ".csr"), "-subj", subject}
		openssl(append(args, strings.Fields(key)...)...)
		openssl("x509", "-req", "-in", in(name+".csr"), "-CA", in(issuer+".pem"), "-CAkey", in(issuer+".key"), "-CAcreateserial", "-days", "20",
			"-out", in(name+".crt"), "-extfile", r.WriteFile("smime/"+name+".ext", ext))
	}
	const leaf = "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=emailProtection\n"
	issue("middle", "-newkey rsa:2048", "/CN=Interop Authority", "root", "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n")
	run(t, "", "cp", in("middle.crt"), in("middle.pem"))
	issue("alice", "-newkey rsa:2048", "/CN=Alice", "middle", leaf+"subjectAltName=email:alice@example.com\n")
	issue("gateway", "-newkey ec -pkeyopt ec_paramgen_curve:P-256", "/CN=Gateway", "middle", leaf)
	openssl("pkcs12", "-export", "-in", in("alice.crt"), "-inkey", in("alice.key"), "-certfile", in("middle.pem"), "-out", in("alice.p12"), "-passout", "pass:p12 secret")
	r.WriteFile("smime/gateway.pem", fileText(t, in("gateway.crt"))+fileText(t, in("middle.pem")))
	s.trust(t)

	gpg := func(args ...string) string {
		t.Helper()
		return run(t, "", "gpg", append([]string{"--homedir", s.gpg, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "pgp secret"}, args...)...)
	}
	gpg("--quick-generate-key", "Alice <alice@example.com>", "ed25519", "sign", "1y")
	gpg("--armor", "--output", r.WriteFile("pgp/alice.asc", ""), "--yes", "--export-secret-keys", "alice@example.com")
	// Carol's primary key is elsewhere: only a subkey that signs is here, in binary.
	gpg("--quick-generate-key", "Carol <carol@example.com>", "rsa2048", "cert", "1y")
	for line := range strings.Lines(gpg("--with-colons", "--list-keys", "carol@example.com")) {
		if f := strings.Split(line, ":"); f[0] == "fpr" {
			gpg("--quick-add-key", f[9], "rsa2048", "sign", "1y")
			break
		}
	}
	gpg("--output", r.WriteFile("pgp/carol.gpg", ""), "--yes", "--export-secret-subkeys", "carol@example.com")
	return s
}

// trust makes gpgsm trust the root, and ask nobody about revocation.
func (s *signers) trust(t testing.TB) {
	t.Helper()
	out := run(t, "", "openssl", "x509", "-in", s.root, "-noout", "-fingerprint", "-sha1")
	_, print, _ := strings.Cut(strings.TrimSpace(out), "=")
	for name, text := range map[string]string{"trustlist.txt": print + " S relax\n", "gpgsm.conf": "disable-crl-checks\ndisable-dirmngr\n", "gpg-agent.conf": "disable-scdaemon\n"} {
		if err := os.WriteFile(filepath.Join(s.gpgsm, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "", "gpgsm", "--homedir", s.gpgsm, "--batch", "--quiet", "--import", s.root)
}

// shortHome is a folder for GnuPG, whose agent's socket wants a short path; the agent ends with the test.
func shortHome(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = try(t, "", "gpgconf", "--homedir", dir, "--kill", "all")
		os.RemoveAll(dir)
	})
	return dir
}

func fileText(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// byOpenSSL lets openssl read the message and verify it, down to the root and with the purpose.
func (s *signers) byOpenSSL(t *testing.T, raw string) (bool, string) {
	file := filepath.Join(t.TempDir(), "message.eml")
	if err := os.WriteFile(file, []byte(raw), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := try(t, "", "openssl", "cms", "-verify", "-in", file, "-CAfile", s.root, "-purpose", "smimesign", "-out", os.DevNull)
	return err == nil && strings.Contains(strings.ToLower(said), "verification successful"), said
}

// byGpgsm verifies what another MIME parser takes out of the message.
func (s *signers) byGpgsm(t *testing.T, raw string) (bool, string) {
	entity, sig := split(t, raw)
	said, err := try(t, "", "gpgsm", "--homedir", s.gpgsm, "--batch", "--status-fd", "1", "--assume-base64", "--verify", sig, entity)
	return err == nil && strings.Contains(said, "[GNUPG:] GOODSIG") && strings.Contains(said, "[GNUPG:] TRUST_FULLY"), said
}

func (s *signers) byGPG(t *testing.T, raw string) (bool, string) {
	entity, sig := split(t, raw)
	said, err := try(t, "", "gpg", "--homedir", s.gpg, "--batch", "--status-fd", "1", "--verify", sig, entity)
	return err == nil && strings.Contains(said, "[GNUPG:] GOODSIG") && strings.Contains(said, "[GNUPG:] VALIDSIG"), said
}

// split writes the signed part and the signature to files. The standard library finds the signature; the signed part is
// what stands between the delimiters, octet by octet (RFC 1847, section 2.1).
func split(t *testing.T, raw string) (entity, sig string) {
	t.Helper()
	head, body, _ := strings.Cut(raw, "\r\n\r\n")
	var params map[string]string
	for field := range strings.SplitSeq(strings.ReplaceAll(head, "\r\n\t", " "), "\r\n") {
		if name, value, _ := strings.Cut(field, ":"); strings.EqualFold(name, "Content-Type") {
			var err error
			if _, params, err = mime.ParseMediaType(value); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := multipart.NewReader(strings.NewReader(body), params["boundary"])
	var last bytes.Buffer
	for n := range 3 {
		p, err := r.NextRawPart()
		if err != nil {
			if n != 2 {
				t.Fatalf("part %d: %v", n, err)
			}
			break
		}
		last.Reset()
		if _, err := last.ReadFrom(p); err != nil {
			t.Fatal(err)
		}
	}
	_, rest, _ := strings.Cut(body, "--"+params["boundary"]+"\r\n")
	text, _, _ := strings.Cut(rest, "\r\n--"+params["boundary"]+"\r\n")
	dir := t.TempDir()
	entity, sig = filepath.Join(dir, "entity"), filepath.Join(dir, "signature")
	for file, b := range map[string][]byte{entity: []byte(text), sig: last.Bytes()} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(fmt.Errorf("write what is to be verified: %w", err))
		}
	}
	return entity, sig
}
