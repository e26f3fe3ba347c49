package demo

import (
	"bytes"
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stagecoachmail/stagecoach/services/antivirus"
	"github.com/stagecoachmail/stagecoach/services/archive"
	"github.com/stagecoachmail/stagecoach/services/disclaimer"
	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/stage"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// The demo ends as it should, in under a minute, and leaves nothing behind.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	var out bytes.Buffer
	start := time.Now()
	err := Run(t.Context(), Options{Out: &out, Factories: []stage.Factory{antivirus.Factory(), disclaimer.Factory(), archive.Factory(), signer.Factory()}})
	t.Logf("\n%s", out.String())
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > time.Minute {
		t.Errorf("it took %v", d)
	}
	if left, err := filepath.Glob(filepath.Join(tmp, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for _, want := range []string{"the author's too", "held for a person", "550 5.1.1", "the sender has the report", "footer", "signer", "the second one answers"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not told", want)
		}
	}
}

// What the demo says of a signature is not said of one that is broken.
func TestVerifySigned(t *testing.T) {
	ca, err := newAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.forMail("alice@" + company)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signedText(cert)
	if err != nil {
		t.Fatal(err)
	}
	raw := message("signed", "bob@customer.example", text)
	if err := verifySigned(raw, ca.certificate); err != nil {
		t.Errorf("as it was signed: %v", err)
	}
	if err := verifySigned(bytes.Replace(raw, []byte("said so"), []byte("said no"), 1), ca.certificate); err == nil {
		t.Error("a changed text verifies")
	}
	other, err := newAuthority("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := verifySigned(raw, other.certificate); err == nil {
		t.Error("a foreign authority verifies")
	}
}

// A message that comes to another end than it should is no success.
func TestUnexpected(t *testing.T) {
	d := &demo{main: &smarthost{}, late: &smarthost{}, dir: t.TempDir()}
	s := sample{name: "plain", want: delivered}
	for _, c := range []struct {
		became end
		setup  func()
		want   string
	}{
		{held, func() {}, "quarantine instead of delivered"},
		{delivered, func() {}, "did not get it"},
		{delivered, func() { d.main.arrivals = []arrival{{subject: "plain", raw: []byte("Subject: plain\r\n\r\nx\r\n")}} }, "0 DKIM"},
	} {
		c.setup()
		if _, err := d.became(&progress{sample: &s, became: c.became}, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.became, err)
		}
	}
	refusal := sample{name: "refused", to: refused, want: reported}
	if _, err := d.became(&progress{sample: &refusal, became: reported}, nil); err == nil {
		t.Error("a report that is not there counts")
	}
	if err := os.MkdirAll(filepath.Join(d.dir, "mailserver", "new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "mailserver", "new", "1"), []byte("Content-Type: multipart/report\r\n\r\n"+refused), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.became(&progress{sample: &refusal, became: reported}, nil); err != nil {
		t.Error(err)
	}
}

// The samples are what a mail server would send: no line too long, every line ended by CRLF.
func TestSamples(t *testing.T) {
	ca, err := newAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	var cert tls.Certificate
	if cert, err = ca.forMail("alice@" + company); err != nil {
		t.Fatal(err)
	}
	all, err := samples(cert)
	if err != nil || len(all) != 7 {
		t.Fatalf("%d samples, %v", len(all), err)
	}
	for _, s := range all {
		for line := range bytes.Lines(s.raw) {
			if !bytes.HasSuffix(line, []byte("\r\n")) || len(line) > 998 {
				t.Errorf("%s: line %.80q", s.name, line)
				break
			}
		}
		if subjectOf(s.raw) != s.name {
			t.Errorf("%s: subject %q", s.name, subjectOf(s.raw))
		}
	}
}
