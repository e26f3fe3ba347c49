package signer

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/gopenpgp/v3/profile"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/signer/internal/signtest"
	"github.com/stagecoachmail/stagecoach/stage"
)

// sent makes a message from the author in the header, with the same reverse-path, to bob and to pat at a partner's.
func sent(text string) *mail.Message {
	m := message(text)
	if a, ok := soleAuthor(m.Content.Header()); ok {
		m.Envelope.ReversePath = a
	}
	m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{ID: "2", Address: mail.Address{Local: "pat", Domain: "partner.example"}})
	m.Pending = append(m.Pending, "2")
	return m
}

// applied is the message after a branch.
func applied(t testing.TB, m *mail.Message, b stage.Branch) string {
	t.Helper()
	if err := b.Edits.Validate(m.Content.Size()); err != nil {
		t.Fatal(err)
	}
	c, err := mail.Apply(m.Content, b.Edits.Splices)
	if err != nil {
		t.Fatal(err)
	}
	out, err := mail.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// roots are those that testdata's certificates lead to.
func roots(t testing.TB) *x509.CertPool {
	t.Helper()
	b, err := os.ReadFile("testdata/sign/root.pem")
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(b)
	return p
}

func mustSMIME(t testing.TB, text string, pool *x509.CertPool) signtest.Signed {
	t.Helper()
	s := signtest.Split(t, text)
	if _, err := s.SMIME(pool, noon); err != nil || s.Protocol != "application/pkcs7-signature" || s.Micalg != "sha-256" {
		t.Fatalf("%s, %s: %v\n%s", s.Protocol, s.Micalg, err, text)
	}
	flipped := s
	flipped.Entity = bytes.Clone(s.Entity)
	flipped.Entity[len(flipped.Entity)/2] ^= 1
	if _, err := flipped.SMIME(pool, noon); err == nil {
		t.Fatal("with one bit flipped it verifies")
	}
	return s
}

func mustPGP(t testing.TB, text string) signtest.Signed {
	t.Helper()
	s := signtest.Split(t, text)
	at, err := s.PGP(annasPGP(t), noon)
	if err != nil || s.Protocol != "application/pgp-signature" || s.Micalg != "pgp-sha256" || !at.Equal(noon.Add(-time.Minute)) {
		t.Fatalf("%s, %s, at %v: %v\n%s", s.Protocol, s.Micalg, at, err, text)
	}
	flipped := s
	flipped.Entity = bytes.Clone(s.Entity)
	flipped.Entity[len(flipped.Entity)/2] ^= 1
	if _, err := flipped.PGP(annasPGP(t), noon); err == nil {
		t.Fatal("with one bit flipped it verifies")
	}
	return s
}

const umlauts = "From: Anna <anna@example.com>\r\nTo: bob@example.net\r\nSubject: Hello\r\n there\r\nMIME-Version: 1.0\r\n" +
	"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n" +
	"Date: Sun, 22 Nov 2026 11:59:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\nGrüße\r\nFrom Anna \r\n"

func TestEachRecipientGetsItsForm(t *testing.T) {
	st := build(t, settings(t), rulesInTestdata)
	m := sent(umlauts)
	r, err := st.Process(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Forks) != 1 || fmt.Sprint(r.Forks[0].To) != "[2]" {
		t.Fatalf("forks %v", r.Forks)
	}
	forBob, forPat := applied(t, m, r.Branch), applied(t, m, r.Forks[0].Branch)
	a, b := mustSMIME(t, forBob, roots(t)), mustPGP(t, forPat)
	if !bytes.Equal(a.Entity, b.Entity) {
		t.Error("the two forms sign different texts")
	}
	for _, text := range []string{forBob, forPat} {
		mustVerify(t, text, 2, lookup(t, "testdata/keys"))
		if !signtest.SevenBit(text) {
			t.Errorf("it does not survive 7-bit transport:\n%s", text)
		}
		h := mail.FromBytes([]byte(text)).Header()
		if h.Get("Subject") != "Hello there" || h.Get("Date") == "" || len(h.Find("Content-Type")) != 1 || len(h.Find("Content-Transfer-Encoding")) != 0 {
			t.Errorf("the header is\n%s", text[:h.Size])
		}
	}
	if got := fmt.Sprint(r.Notes); !strings.Contains(got, "signed=smime") || !strings.Contains(got, "signed=openpgp") {
		t.Errorf("notes %s", got)
	}
	again, err := st.Process(t.Context(), sent(umlauts))
	if err != nil || applied(t, m, again.Branch) != forBob || applied(t, m, again.Forks[0].Branch) != forPat {
		t.Errorf("run again it is signed differently (%v)", err)
	}
	// Only those that are acted on now get a form.
	m.Pending = []mail.RecipientID{"2"}
	if r, err = st.Process(t.Context(), m); err != nil || len(r.Forks) != 0 || applied(t, m, r.Branch) != forPat {
		t.Errorf("for pat alone there are forks %v (%v)", r.Forks, err)
	}
}

// Who may have whose signature. The envelope and the login say who writes, the header alone does not.
func TestWhoIsSignedFor(t *testing.T) {
	user := func(name string) func(*mail.Message) {
		return func(m *mail.Message) { m.Envelope.Origin.User = name }
	}
	from := func(local, domain string) func(*mail.Message) {
		return func(m *mail.Message) { m.Envelope.ReversePath = mail.Address{Local: local, Domain: domain} }
	}
	const anna = "From: Anna <anna@example.com>\r\n"
	for name, c := range map[string]struct {
		header, rule string
		change       func(*mail.Message)
		want         string // a word of the note
	}{
		"the author":                          {anna, "", nil, "signed=smime"},
		"in other case":                       {"From: Anna@EXAMPLE.com\r\n", "", nil, "signed=smime"},
		"a name in a charset nobody knows":    {"From: =?x-unknown?Q?Anna?= <anna@example.com>\r\n", "", nil, "signed=smime"},
		"a colleague writes her From":         {anna, "", from("eve", "example.com"), "not the address of its author"},
		"another domain's reverse-path":       {anna, "", from("anna", "example.org"), "not the address of its author"},
		"a report":                            {anna, "", from("", ""), "reports are not signed"},
		"a report, any reverse-path":          {anna, "reverse_path: any", from("", ""), "reports are not signed"},
		"a bounce address":                    {anna, "reverse_path: same-domain", from("bounce+1", "example.com"), "signed=smime"},
		"a bounce address elsewhere":          {anna, "reverse_path: same-domain", from("bounce", "example.org"), "another domain"},
		"a bounce address elsewhere, allowed": {anna, "reverse_path: any", from("bounce", "example.org"), "signed=smime"},
		"her login":                           {anna, "users: [anna]", user("anna"), "signed=smime"},
		"another login":                       {anna, "users: [anna]", user("eve"), "its user may not"},
		"no login":                            {anna, "users: [anna]", nil, "its user may not"},
		"another login, any reverse-path":     {anna, "users: [anna]\n    reverse_path: any", user("eve"), "its user may not"},
		"two authors":                         {"From: anna@example.com, eve@example.com\r\n", "", from("anna", "example.com"), "no rule"},
		"two in odd quotes":                   {"From: \"anna@example.com\" <eve@example.org>\r\n", "", from("anna", "example.com"), "no rule"},
		"her address in a comment":            {"From: eve@example.org (anna@example.com)\r\n", "", from("anna", "example.com"), "no rule"},
		"another":                             {"From: zoe@example.org\r\n", "", nil, "no rule"},
		"no author":                           {"Subject: x\r\n", "", from("anna", "example.com"), "no rule"},
		"a stranger":                          {anna, "", func(m *mail.Message) { m.Envelope.Origin = mail.Origin{Direction: mail.Inbound} }, "no relay rule"},
	} {
		t.Run(name, func(t *testing.T) {
			rule := keysInTestdata + "sign:\n  - sender: anna@example.com\n    smime: {pkcs12: sign/anna.p12, password_file: sign/anna.password}\n"
			if c.rule != "" {
				rule += "    " + c.rule + "\n"
			}
			m := sent(c.header + "\r\nhello\r\n")
			if c.change != nil {
				c.change(m)
			}
			r, err := build(t, settings(t), rule).Process(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(r.Notes); !strings.Contains(got, c.want) {
				t.Errorf("notes %s, not %s", got, c.want)
			}
			text := applied(t, m, r.Branch)
			if signed := strings.Contains(text, "multipart/signed"); signed != strings.HasPrefix(c.want, "signed") {
				t.Errorf("signed: %v\n%s", signed, text)
			}
			if len(r.Forks) != 0 {
				t.Errorf("forks %v", r.Forks)
			}
		})
	}
}

// Several From fields are two authors, whichever the rule means; with a DKIM key the message is rejected as before.
func TestTwoFromFields(t *testing.T) {
	s := settings(t)
	rule := "key_dir: none\nsign: [{sender: anna@example.com, smime: {pkcs12: sign/anna.p12, password_file: sign/anna.password}}]\n"
	m := sent("From: anna@example.com\r\nFrom: eve@example.org\r\n\r\nhello\r\n")
	r, err := build(t, s, rule).Process(t.Context(), m)
	if err != nil || !r.Edits.Empty() || r.Verdict.Kind != stage.KindContinue {
		t.Errorf("result %+v (%v)", r, err)
	}
}

func TestWhatIsLeftAsItIs(t *testing.T) {
	const from = "From: anna@example.com\r\nMIME-Version: 1.0\r\n"
	for name, c := range map[string]struct{ text, want string }{
		"signed":          {"Content-Type: multipart/signed; protocol=\"application/pgp-signature\"; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--b--\r\n", "signed already"},
		"encrypted":       {"Content-Type: multipart/encrypted; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n", "encrypted already"},
		"S/MIME":          {"Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m\r\n\r\nx\r\n", "encrypted already"},
		"S/MIME signed":   {"Content-Type: application/pkcs7-mime; smime-type=signed-data\r\n\r\nx\r\n", "signed already"},
		"S/MIME certs":    {"Content-Type: application/pkcs7-mime; smime-type=certs-only\r\n\r\nx\r\n", "S/MIME already"},
		"by its name":     {"Content-Type: application/octet-stream; name=smime.p7m\r\n\r\nx\r\n", "already"},
		"inline PGP":      {"Content-Type: text/plain\r\n\r\n\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA256\r\n\r\nx\r\n", "PGP in its text"},
		"inline PGP, enc": {"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: base64\r\n\r\nLS0tLS1CRUdJTiBQR1AgTUVTU0FHRS0tLS0tDQp4DQo=\r\n--b--\r\n", "PGP in its text"},
	} {
		t.Run(name, func(t *testing.T) {
			m := sent(from + c.text)
			// It is left as it is also where it must be signed: its sender has seen to it.
			r, err := build(t, settings(t), rulesInTestdata+"must_sign: [example.com]\n").Process(t.Context(), m)
			if err != nil || r.Verdict.Kind != stage.KindContinue || len(r.Forks) != 0 {
				t.Fatalf("result %+v (%v)", r, err)
			}
			if text := applied(t, m, r.Branch); !strings.HasSuffix(text, from+c.text) {
				t.Errorf("it was changed:\n%s", text)
			}
			if got := fmt.Sprint(r.Notes); !strings.Contains(got, c.want) {
				t.Errorf("notes %s", got)
			}
		})
	}
	// A quotation is no message of that kind.
	m := sent(from + "\r\n> -----BEGIN PGP MESSAGE-----\r\n")
	r, err := build(t, settings(t), rulesInTestdata).Process(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	mustSMIME(t, applied(t, m, r.Branch), roots(t))
}

// What must be signed and cannot be waits for keys, or is held for a person where no key would help. Else it goes on.
func TestMustSign(t *testing.T) {
	s := settings(t)
	late := s
	late.Now = func() time.Time { return time.Date(2056, 1, 1, 0, 0, 0, 0, time.UTC) }
	const rule = "    smime: {pkcs12: sign/anna.p12, password_file: sign/anna.password}\n"
	const head = keysInTestdata + "sign:\n  - sender: anna@example.com\n"
	const good, broken = "From: anna@example.com\r\n\r\nhello\r\n", "From: anna@example.com\r\nContent-Type: multipart/mixed\r\n\r\nhello\r\n"
	for name, c := range map[string]struct {
		settings     stage.Settings
		config, text string
		want         stage.Kind
		fails        bool
		reason       string
	}{
		"expired":                            {late, head + rule, good, stage.KindContinue, false, "expired"},
		"expired, must":                      {late, head + "    must_sign: true\n" + rule, good, 0, true, "expired"},
		"expired, must by its domain":        {late, "must_sign: [example.com]\n" + head + rule, good, 0, true, "expired"},
		"expired, its domain must, not this": {late, "must_sign: [example.com]\n" + head + "    must_sign: false\n" + rule, good, stage.KindContinue, false, "expired"},
		"broken":                             {s, head + rule, broken, stage.KindContinue, false, "readers may differ"},
		"broken, must":                       {s, head + "    must_sign: true\n" + rule, broken, stage.KindQuarantine, false, "readers may differ"},
		"no encoding":                        {s, head + rule, "From: anna@example.com\r\nContent-Description: ü\r\n\r\nx\r\n", stage.KindContinue, false, "ASCII"},
		"no encoding, must":                  {s, head + "    must_sign: true\n" + rule, "From: anna@example.com\r\nContent-Description: ü\r\n\r\nx\r\n", stage.KindQuarantine, false, "ASCII"},
		"another's user, must":               {s, head + "    must_sign: true\n    users: [anna]\n" + rule, good, stage.KindQuarantine, false, "its user may not"},
		"too large, must":                    {s, "max_encoded: 4KB\n" + head + "    must_sign: true\n" + rule, "From: anna@example.com\r\n\r\n" + strings.Repeat("ü", 4000) + "\r\n", stage.KindQuarantine, false, "max_encoded"},
		"not so large, must":                 {s, "max_encoded: 30KB\n" + head + "    must_sign: true\n" + rule, "From: anna@example.com\r\n\r\n" + strings.Repeat("ü", 4000) + "\r\n", stage.KindContinue, false, "signed=smime"},
	} {
		t.Run(name, func(t *testing.T) {
			m := message(c.text)
			r, err := build(t, c.settings, c.config).Process(t.Context(), m)
			if c.fails {
				if err == nil || !strings.Contains(err.Error(), c.reason) {
					t.Fatalf("error %v", err)
				}
				return
			}
			if err != nil || r.Verdict.Kind != c.want {
				t.Fatalf("verdict %v, error %v", r.Verdict, err)
			}
			if got := fmt.Sprint(r.Notes) + r.Verdict.Reason; !strings.Contains(got, c.reason) {
				t.Errorf("notes and reason %s", got)
			}
			if c.want == stage.KindQuarantine && !strings.Contains(r.Verdict.Reason, c.reason) {
				t.Errorf("reason %s", r.Verdict.Reason)
			}
			// Should a person release it, it leaves with DKIM at least.
			mustVerify(t, applied(t, m, r.Branch), 2, lookup(t, "testdata/keys"))
		})
	}
}

func TestSignCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := build(t, settings(t), rulesInTestdata).Process(ctx, sent(umlauts)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// Certificates and keys are read again when they change; what cannot be used changes nothing.
func TestCredentialsAreReloaded(t *testing.T) {
	dir := t.TempDir()
	ca := signtest.NewAuthority(t, noon.Add(-100*signtest.Day))
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	issue := func(addresses ...string) *signtest.Leaf {
		return ca.Issue(t, signtest.Mail(noon.Add(-signtest.Day), noon.Add(100*signtest.Day), addresses...), signtest.ECDSA(t))
	}
	var log bytes.Buffer
	now := noon
	s := settings(t)
	s.ConfigDir, s.Logger, s.Now = dir, slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return now }
	one, two := issue("anna@example.com"), issue("anna@example.com")
	write("a.p12", one.PKCS12(t, "secret"))
	write("a.password", []byte("secret\r\n"))
	st := build(t, s, "sign: [{sender: anna@example.com, smime: {pkcs12: a.p12, password_file: a.password}}]")
	serial := func() string {
		t.Helper()
		m := message(umlauts)
		r, err := st.Process(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		p, err := signtest.Split(t, applied(t, m, r.Branch)).SMIME(ca.Pool(), now)
		if err != nil {
			t.Fatal(err)
		}
		return p.Signers[0].IssuerAndSerialNumber.SerialNumber.String()
	}
	step := func(what string, want *signtest.Leaf, logged string) {
		t.Helper()
		log.Reset()
		now = now.Add(lookEvery)
		if got := serial(); got != want.Cert.SerialNumber.String() {
			t.Errorf("%s: signed with the certificate %s", what, got)
		}
		if !strings.Contains(log.String(), logged) || logged == "" && log.Len() > 0 {
			t.Errorf("%s: logged is %s", what, log.String())
		}
	}
	step("unchanged", one, "")
	write("a.p12", two.PKCS12(t, "other secret"))
	step("another password", one, "does not open it")
	step("still", one, "")
	write("a.password", []byte("other secret"))
	step("the password as well", two, "was reloaded")
	write("a.p12", issue("eve@example.com").PKCS12(t, "other secret"))
	step("for somebody else", two, "it is for eve@example.com")
	if err := os.Remove(filepath.Join(dir, "a.p12")); err != nil {
		t.Fatal(err)
	}
	step("gone", two, "no such file")
	write("a.p12", one.PKCS12(t, "other secret"))
	step("back", one, "was reloaded")
	log.Reset()
	now = noon.Add(90 * signtest.Day)
	serial()
	if !strings.Contains(log.String(), "expires soon") {
		t.Errorf("10 days before its end logged is %s", log.String())
	}
	log.Reset()
	now = now.Add(time.Hour)
	serial()
	if log.Len() > 0 {
		t.Errorf("an hour later logged is %s", log.String())
	}
	now = noon.Add(101 * signtest.Day)
	m := message(umlauts)
	if r, err := st.Process(t.Context(), m); err != nil || !r.Edits.Empty() || !strings.Contains(log.String(), "mail is not signed") {
		t.Errorf("after its end: %v, %v, logged is %s", r.Notes, err, log.String())
	}
}

func TestRefusedAtLoad(t *testing.T) {
	dir := t.TempDir()
	ca := signtest.NewAuthority(t, noon.Add(-100*signtest.Day))
	issue := func(name string, until time.Time, addresses ...string) {
		leaf := ca.Issue(t, signtest.Mail(noon.Add(-10*signtest.Day), until, addresses...), signtest.ECDSA(t))
		for file, b := range map[string][]byte{name + ".pem": leaf.CertificatePEM(), name + "-key.pem": leaf.KeyPEM(t, "PRIVATE KEY")} {
			if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	issue("anna", noon.Add(signtest.Day), "anna@example.com")
	issue("nobody", noon.Add(signtest.Day))
	issue("other", noon.Add(signtest.Day), "anna@example.org")
	issue("ended", noon.Add(-signtest.Day), "anna@example.com")
	for name, life := range map[string]int32{"anna": 0, "ended": 3600} {
		key, err := signtest.PGP(t, profile.Default(), noon.Add(-signtest.Day), life, "anna@example.com").Serialize()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".gpg"), key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := settings(t)
	s.ConfigDir = dir
	smime := func(sender, name string) string {
		return fmt.Sprintf("sign: [{sender: %q, smime: {certificate: %s.pem, key_file: %s-key.pem}}]", sender, name, name)
	}
	pgp := func(sender string) string {
		return fmt.Sprintf("sign: [{sender: %q, openpgp: {key_file: anna.gpg}}]", sender)
	}
	for name, c := range map[string]struct{ config, want string }{
		"good":                                {smime("anna@example.com", "anna"), ""},
		"in other case":                       {smime("Anna@Example.com", "anna"), ""},
		"hers for her domain":                 {smime("*@example.com", "anna"), ""},
		"nobody's for a domain":               {smime("*@example.com", "nobody"), ""},
		"nobody's for her":                    {smime("anna@example.com", "nobody"), "names no address"},
		"another's":                           {smime("anna@example.com", "other"), "it is for anna@example.org, not for anna@example.com"},
		"another's for a domain":              {smime("*@example.com", "other"), "not for *@example.com"},
		"expired: it starts, and signs later": {smime("anna@example.com", "ended"), ""},
		"no file":                             {smime("anna@example.com", "none"), "none-key.pem: no such file"},
		"an OpenPGP key":                      {pgp("anna@example.com"), ""},
		"an OpenPGP key for a domain":         {pgp("*@example.com"), ""},
		"an expired OpenPGP key":              {strings.Replace(pgp("anna@example.com"), "anna.gpg", "ended.gpg", 1), ""},
		"another's OpenPGP key":               {pgp("eve@example.com"), "it is for anna@example.com"},
		"no sender":                           {"sign: [{openpgp: {key_file: anna.gpg}}]", "sender is missing"},
		"everybody":                           {pgp("*"), "everybody"},
		"no pattern":                          {pgp("anna"), "sender"},
		"neither":                             {"sign: [{sender: a@example.com}]", "either smime or openpgp"},
		"both":                                {"sign: [{sender: a@example.com, openpgp: {key_file: x}, smime: {pkcs12: x}}]", "either smime or openpgp"},
		"no key":                              {"sign: [{sender: a@example.com, openpgp: {passphrase_file: x}}]", "key_file is missing"},
		"half of PEM":                         {"sign: [{sender: a@example.com, smime: {certificate: x}}]", "key_file"},
		"both forms":                          {"sign: [{sender: a@example.com, smime: {pkcs12: x, key_file: x}}]", "leave out"},
		"a password for PEM":                  {"sign: [{sender: a@example.com, smime: {certificate: x, key_file: x, password_file: x}}]", "password_file"},
		"an odd recipient":                    {"sign: [{sender: a@example.com, recipients: [x], openpgp: {key_file: x}}]", "recipients"},
		"an odd reverse path":                 {"sign: [{sender: a@example.com, reverse_path: x, openpgp: {key_file: x}}]", "reverse_path"},
		"an empty user":                       {"sign: [{sender: a@example.com, users: [\"\"], openpgp: {key_file: x}}]", "users"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryBuild(s, c.config)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// Whatever the message: what comes out verifies, survives 7-bit transport, and holds what came in.
func FuzzSigned(f *testing.F) {
	f.Add("Content-Type: text/plain; charset=utf-8\r\n", "Grüße\r\nFrom me \r\n")
	f.Add("Content-Type: multipart/mixed; boundary=b\r\nMIME-Version: 1.0\r\n", "pre\r\n--b\r\n\r\nü\r\n--b--\r\n")
	f.Add("Content-Type: message/rfc822\r\n", "Subject: x\r\n\r\nü")
	f.Add("X:y\r\n", "")
	st := build(f, settings(f), "sign: [{sender: anna@example.com, smime: {pkcs12: sign/anna.p12, password_file: sign/anna.password}}]")
	pool := roots(f)
	f.Fuzz(func(t *testing.T, fields, body string) {
		m := message("From: anna@example.com\r\n" + fields + "\r\n" + body)
		r, err := st.Process(context.Background(), m)
		if err != nil {
			t.Fatal(err)
		}
		if r.Edits.Empty() {
			return
		}
		text := applied(t, m, r.Branch)
		s := mustSMIME(t, text, pool)
		if !signtest.SevenBit(string(s.Entity)) {
			t.Fatalf("it does not survive:\n%q", s.Entity)
		}
	})
}
