package signer

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/stage"
	"github.com/stagecoachmail/stagecoach/stage/stagetest"
)

// Each testdata/sign/NN-name has the message (.eml), what becomes of it for bob and for pat (.want), and why (.readme).
func TestSignGolden(t *testing.T) {
	st := build(t, settings(t), rulesInTestdata)
	for _, file := range signGoldenFiles(t) {
		name := strings.TrimSuffix(file, ".eml")
		t.Run(filepath.Base(name), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(name + ".readme"); err != nil {
				t.Error(err)
			}
			m := sent(string(raw))
			r, err := st.Process(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, n := range r.Notes {
				fmt.Fprintf(&b, "%s=%s\n", n.Key, n.Value)
			}
			show := func(to string, branch stage.Branch) {
				text := applied(t, m, branch)
				fmt.Fprintf(&b, "\n======== %s: %v\n%s", to, branch.Verdict.Kind, text)
				if !branch.Edits.Empty() {
					mustVerify(t, text, 2, lookup(t, "testdata/keys"))
				}
				switch {
				case !strings.Contains(text, "=_signed-"):
				case strings.Contains(text, "application/pkcs7-signature"):
					mustSMIME(t, text, roots(t))
				default:
					mustPGP(t, text)
				}
			}
			show("the first", r.Branch)
			for _, f := range r.Forks {
				show(fmt.Sprint(f.To), f.Branch)
			}
			if *update {
				if err := os.WriteFile(name+".want", []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name + ".want")
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
			}
		})
	}
}

func signGoldenFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/sign/*.eml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d golden mails (%v)", len(files), err)
	}
	return files
}

// The suite's mail is of sender@example.com to example.net and example.org: each gets a form of its own.
func TestSignConformance(t *testing.T) {
	suite := stagetest.Suite{ConfigDir: settings(t).ConfigDir, Config: keysInTestdata + `
sign:
  - {sender: sender@example.com, recipients: ["*@example.org"], openpgp: {key_file: sign/sender.asc, passphrase_file: sign/anna.passphrase}}
  - {sender: "*@example.com", reverse_path: same-domain, smime: {certificate: sign/gateway.pem, key_file: sign/gateway-key.pem}}
`}
	for _, file := range signGoldenFiles(t) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		suite.Samples = append(suite.Samples, raw)
	}
	stagetest.Run(t, Factory(), suite)
}
