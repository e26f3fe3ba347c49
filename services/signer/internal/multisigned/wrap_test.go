package multisigned

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/signer/internal/sevenbit"
)

// recorder keeps what it is given to sign.
type recorder struct {
	bytes.Buffer
	t testing.TB
}

func (r *recorder) Finish(digest [sha256.Size]byte) (Signature, error) {
	if digest != sha256.Sum256(r.Bytes()) {
		r.t.Error("the digest is not that of what was written")
	}
	return Signature{Protocol: "application/x-test", Micalg: "x-none", Part: []byte("Content-Type: application/x-test\r\n\r\nsigned")}, nil
}

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

var boundary = regexp.MustCompile(`=_signed-[0-9a-f]{40}`)

// wrap gives the signed message, its boundary replaced by "B", and what was signed.
func wrap(t testing.TB, text string) (after, signed string, err error) {
	t.Helper()
	c := mail.FromBytes([]byte(text))
	root, err := mail.Walk(c)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Prepare(context.Background(), c, root, 1<<20)
	if err != nil {
		return "", "", err
	}
	r := &recorder{t: t}
	splices, err := p.Sign(context.Background(), r)
	if err != nil {
		return "", "", err
	}
	edited, err := mail.Apply(c, splices)
	if err != nil {
		t.Fatalf("%v\n%+v", err, splices)
	}
	b, err := mail.ReadAll(edited)
	if err != nil {
		t.Fatal(err)
	}
	found, err := mail.Walk(edited)
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Children) != 2 || len(found.Defects) > 0 {
		t.Fatalf("the parts are %v, the defects %v:\n%s", found.Children, found.Defects, b)
	}
	if first := found.Children[0]; string(b[first.Offset:first.End]) != r.String() {
		t.Fatalf("signed was\n%q\nand the first part is\n%q", r.String(), b[first.Offset:first.End])
	}
	return boundary.ReplaceAllString(string(b), "B"), r.String(), nil
}

func TestWrap(t *testing.T) {
	const open, end = "--B\n", "\n--B\nContent-Type: application/x-test\n\nsigned\n--B--\n"
	const field = "Content-Type: multipart/signed; protocol=\"application/x-test\";\n\tmicalg=x-none; boundary=\"B\"\n"
	for name, c := range map[string]struct{ text, want string }{
		"fields move in their order": {
			"From: a@b\nContent-Type: text/plain;\n charset=utf-8\nSubject: x\n y\nMIME-Version: 1.0\ncontent-language: de\nContent-Transfer-Encoding: 7bit\nX: y\n\nHello.\n",
			"From: a@b\n" + field + "Subject: x\n y\nMIME-Version: 1.0\nX: y\n\n" + open + "Content-Type: text/plain;\n charset=utf-8\ncontent-language: de\nContent-Transfer-Encoding: 7bit\n\nHello.\n" + end},
		"the first field moves":    {"Content-Type: text/html\nMIME-Version: 1.0\n\nx", field + "MIME-Version: 1.0\n\n" + open + "Content-Type: text/html\n\nx" + end},
		"no such fields":           {"From: a@b\nX: y\n\nHello.\n", "From: a@b\nX: y\nMIME-Version: 1.0\n" + field + "\n" + open + "\nHello.\n" + end},
		"no fields at all":         {"\nHello.\n", "MIME-Version: 1.0\n" + field + "\n" + open + "\nHello.\n" + end},
		"no body":                  {"From: a@b\n\n", "From: a@b\nMIME-Version: 1.0\n" + field + "\n" + open + "\n" + end},
		"the encoding is replaced": {"Content-Transfer-Encoding: 8bit\nContent-Type: text/plain\nMIME-Version: 1.0\n\nü, und so weiter\n", field + "MIME-Version: 1.0\n\n" + open + "Content-Transfer-Encoding: quoted-printable\nContent-Type: text/plain\n\n=C3=BC, und so weiter\n" + end},
		"the encoding is added":    {"Content-Type: text/plain\nMIME-Version: 1.0\n\nFrom me\n", field + "MIME-Version: 1.0\n\n" + open + "Content-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\nFrom=20me\n" + end},
		"a multipart": {"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b--\n",
			"MIME-Version: 1.0\n" + field + "\n" + open + "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b--\n" + end},
		"a multipart without its end": {"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\none\n",
			"MIME-Version: 1.0\n" + field + "\n" + open + "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n" + end},
	} {
		t.Run(name, func(t *testing.T) {
			after, _, err := wrap(t, crlf(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if after != crlf(c.want) {
				t.Errorf("got:\n%s\nwant:\n%s", after, c.want)
			}
		})
	}
}

func TestUnfit(t *testing.T) {
	for name, text := range map[string]string{
		"no empty line":       "From: a@b\n",
		"a line that is none": "From: a@b\nhello\n",
		"8 bits in a field":   "Content-Description: ü\n\nhello\n",
	} {
		if _, _, err := wrap(t, crlf(text)); func() bool { _, ok := errors.AsType[*sevenbit.Unfit](err); return !ok }() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCancelled(t *testing.T) {
	c := mail.FromBytes([]byte("From: a@b\r\n\r\nx\r\n"))
	root, err := mail.Walk(c)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Prepare(context.Background(), c, root, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Sign(ctx, &recorder{t: t}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// What would break on its way is not let out, should the plan have missed it.
func TestFormIsChecked(t *testing.T) {
	for _, text := range []string{"ü", "a\x00", "a\rb", "a\nb", "a\r", strings.Repeat("x", 999)} {
		w := checked{ctx: context.Background(), out: &bytes.Buffer{}, sha: sha256.New()}
		if _, err := w.Write([]byte(text)); err == nil && !w.cr {
			t.Errorf("%.20q was let through", text)
		}
	}
}
