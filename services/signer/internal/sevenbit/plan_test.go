package sevenbit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/mail"
)

const noLimit = 1 << 30

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// prepare gives the message after the plan, the root's new encoding put into its header.
func prepare(t testing.TB, text string, limit int64) (string, error) {
	t.Helper()
	c := mail.FromBytes([]byte(text))
	root, err := mail.Walk(c)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := Prepare(context.Background(), c, root, limit)
	if err != nil {
		return "", err
	}
	splices := plan.Splices
	if plan.Encoding != "" {
		splices = append(setEncoding(root, plan.Encoding, false), splices...)
	}
	after, err := mail.Apply(c, splices)
	if err != nil {
		t.Fatalf("the plan cannot be applied: %v\n%+v", err, splices)
	}
	b, err := mail.ReadAll(after)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), nil
}

func mustPrepare(t testing.TB, text string) string {
	t.Helper()
	got, err := prepare(t, text, noLimit)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWhatNeedNotChangeStays(t *testing.T) {
	for name, text := range map[string]string{
		"text":        "Subject: a\n\nGood morning.\n-- \tx\nFromage\n>From here\n",
		"no line end": "Subject: a\n\nGood morning.",
		"empty":       "Subject: a\n\n",
		"base64":      "Content-Transfer-Encoding: BASE64\n\nR29v\nZA==\n",
		"quoted":      "Content-Transfer-Encoding: quoted-printable\n\nGood=20\n=3D\n",
		"998":         "Subject: a\n\n" + strings.Repeat("x", 998) + "\n",
		"parts":       "Content-Type: multipart/mixed; boundary=b\n\npreamble\n--b\n\none\n--b\nX: y\n\ntwo\n--b--\nepilogue\n",
		"a signed part with white space": "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/signed; boundary=c\n\n--c\n\nFrom me \n" +
			"--c\n\nsig\n--c-- \n--b--\n",
		"white space in an attached message": "Content-Type: message/rfc822\n\nSubject: in \n\nFrom me \n",
	} {
		t.Run(name, func(t *testing.T) {
			if got := mustPrepare(t, crlf(text)); got != crlf(text) {
				t.Errorf("changed:\n%q\n%q", crlf(text), got)
			}
		})
	}
}

func TestChanges(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"8 bit text": {"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\nX: y\n\nGrüße\n",
			"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\nX: y\n\nGr=C3=BC=C3=9Fe\n"},
		"no encoding named":                {"Subject: x\n\nGrüße, liebe Freunde\n", "Subject: x\nContent-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe, liebe Freunde\n"},
		"white space at the end of a line": {"Subject: x\n\n-- \nAlice\t\n  x", "Subject: x\nContent-Transfer-Encoding: quoted-printable\n\n=2D-=20\nAlice=09\n  x"},
		"white space at the end":           {"Subject: x\n\nAlice ", "Subject: x\nContent-Transfer-Encoding: quoted-printable\n\nAlice=20"},
		"From":                             {"Subject: x\n\nFrom here\n", "Subject: x\nContent-Transfer-Encoding: quoted-printable\n\nFrom=20here\n"},
		"binary":                           {"Content-Type: image/png\nContent-Transfer-Encoding: binary\n\n\x89\x00\x01\nx", "Content-Type: image/png\nContent-Transfer-Encoding: base64\n\niQABDQp4"},
		"the label alone":                  {"Content-Transfer-Encoding: 8bit\n\nascii\n", "Content-Transfer-Encoding: 7bit\n\nascii\n"},
		"base64 with white space":          {"Content-Transfer-Encoding: base64\n\nR29v \nZA== ", "Content-Transfer-Encoding: base64\n\nR29vZA=="},
		"quoted-printable with 8 bits":     {"Content-Transfer-Encoding: quoted-printable\n\nGr\xfc=DFe\n", "Content-Transfer-Encoding: quoted-printable\n\nGr=FC=DFe\n"},
		"one part of three": {"Content-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: 8bit\n\npre \n--b \nX: y \n\none\n--b\n\nü und so weiter\n--b\nA: b\n\nthree\n--b--\npost\n",
			"Content-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: 7bit\n\n\n--b\nX: y\n\none\n--b\nContent-Transfer-Encoding: quoted-printable\n\n=C3=BC und so weiter\n--b\nA: b\n\nthree\n--b--\npost\n"},
		"an attached message": {"Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nSubject: in\n\nGrüße und mehr Text\n",
			"Content-Type: message/rfc822\nContent-Transfer-Encoding: 7bit\n\nSubject: in\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe und mehr Text\n"},
		"a field with white space that is replaced": {"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Transfer-Encoding: 8bit \nA: b \n\nü, und noch mehr\n--b--\n",
			"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Transfer-Encoding: quoted-printable\nA: b\n\n=C3=BC, und noch mehr\n--b--\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mustPrepare(t, crlf(c.text)); got != crlf(c.want) {
				t.Errorf("got:\n%q\nwant:\n%q", got, crlf(c.want))
			}
		})
	}
}

func TestUnfit(t *testing.T) {
	part := func(header, body string) string {
		return "Content-Type: multipart/mixed; boundary=b\n\n--b\n" + header + "\n" + body + "\n--b--\n"
	}
	for name, c := range map[string]struct{ text, want string }{
		"8 bits in a header":              {part("Content-Disposition: attachment; filename=ü\n", "x"), "ASCII"},
		"8 bits in the message's own":     {"Content-Disposition: attachment; filename=ü\n\nx", "ASCII"},
		"a long line in a header":         {part("X: "+strings.Repeat("x", 998)+"\n", "x"), "line of more than"},
		"8 bits in what is signed":        {part("Content-Type: multipart/signed; boundary=c\n", "--c\n\nü\n--c\n\nsig\n--c--"), "signed"},
		"8 bits before what is signed":    {part("Content-Type: multipart/signed; boundary=c\n", "ü\n--c\n\nu\n--c\n\nsig\n--c--"), "signed"},
		"8 bits in a delivery status":     {part("Content-Type: message/delivery-status\n", "Diagnostic-Code: ü"), "message/delivery-status"},
		"8 bits in a message/global":      {part("Content-Type: message/global\n", "Subject: x\n\nü"), "signed or encrypted"},
		"8 bits in an attached header":    {part("Content-Type: message/rfc822\n", "Subject: ü\n\nx"), "ASCII"},
		"base64 that is none":             {part("Content-Transfer-Encoding: base64\n", "R29v!\xfc"), "not base64"},
		"base64 after its end":            {part("Content-Transfer-Encoding: base64\n", "R28= R29v "), "not base64"},
		"another encoding with long line": {part("Content-Transfer-Encoding: x-uuencode\n", strings.Repeat("x", 999)), "x-uuencode"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := prepare(t, crlf(c.text), noLimit)
			var u *Unfit
			if !errors.As(err, &u) || !strings.Contains(u.Reason, c.want) {
				t.Errorf("error %v\n%s", err, got)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	text := "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\n"+strings.Repeat("ü", 5000)+"\r\n", 4) + "--b--\r\n"
	after := mustPrepare(t, text)
	_, err := prepare(t, text, int64(len(after)/2))
	if u := (*Unfit)(nil); !errors.As(err, &u) || !strings.Contains(u.Reason, "max_encoded") {
		t.Errorf("error %v", err)
	}
	if _, err := prepare(t, text, int64(len(after))); err != nil {
		t.Error(err)
	}
	// This one becomes three times as large, which nobody could know beforehand.
	text = "Content-Transfer-Encoding: quoted-printable\r\n\r\n" + strings.Repeat("ü", 3000) + "\r\n"
	if _, err := prepare(t, text, 8000); err == nil {
		t.Error("more was encoded than the limit")
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c := mail.FromBytes([]byte("Subject: x\r\n\r\nü\r\n"))
	root, err := mail.Walk(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Prepare(ctx, c, root, noLimit); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// Encoded text has no line that is a delimiter, whatever the text and the boundary.
func TestNoDelimiterIsMade(t *testing.T) {
	for at := range 80 {
		for _, text := range []string{
			"Content-Type: multipart/mixed; boundary=\"a=3D\"\n\n--a=3D\n\nü" + strings.Repeat("x", at) + "\n--a=\n--a=3D--\n",
			// A soft line break may fall before what then would be a delimiter.
			"Content-Type: multipart/mixed; boundary=abc\n\n--abc\n\n" + strings.Repeat("x", at) + "--abc\nü, und mehr\n--abc--\n",
		} {
			same(t, crlf(text), mustPrepare(t, crlf(text)))
		}
	}
}

// survives says what of a message, behind its header, 7-bit transport would not carry as it is.
func survives(text string) error {
	_, body, _ := strings.Cut(text, "\r\n\r\n")
	for i, line := range strings.Split(body, "\r\n") {
		if len(line) > maxLine {
			return fmt.Errorf("line %d has %d octets", i, len(line))
		}
		for _, c := range []byte(line) {
			if c == 0 || c >= 0x80 || c == '\r' || c == '\n' {
				return fmt.Errorf("line %d has the octet %#x", i, c)
			}
		}
	}
	return nil
}

// same says that two messages have the same parts with the same content.
func same(t testing.TB, before, after string) {
	t.Helper()
	b, a := mail.FromBytes([]byte(before)), mail.FromBytes([]byte(after))
	rb, err := mail.Walk(b)
	if err != nil {
		t.Fatal(err)
	}
	ra, err := mail.Walk(a)
	if err != nil {
		t.Fatal(err)
	}
	samePart(t, b, a, rb, ra)
}

func samePart(t testing.TB, bc, ac mail.Content, b, a *mail.Part) {
	t.Helper()
	if b.MediaType != a.MediaType || len(b.Children) != len(a.Children) || b.Terminated != a.Terminated {
		t.Fatalf("the part %s with %d parts became %s with %d", b.MediaType, len(b.Children), a.MediaType, len(a.Children))
	}
	if fb, fa := fields(b), fields(a); fb != fa {
		t.Fatalf("the header was\n%s\nand is\n%s", fb, fa)
	}
	for i := range b.Children {
		samePart(t, bc, ac, b.Children[i], a.Children[i])
	}
	if len(b.Children) > 0 || len(b.Delimiters) > 0 {
		return
	}
	if db, da := decoded(t, bc, b), decoded(t, ac, a); !bytes.Equal(db, da) {
		t.Fatalf("the content of a part in %s was\n%q\nand is, in %s,\n%q", b.Encoding, db, a.Encoding, da)
	}
}

func fields(p *mail.Part) string {
	var b strings.Builder
	for _, f := range p.Header.Fields {
		if !strings.EqualFold(f.Name, "Content-Transfer-Encoding") && !strings.EqualFold(f.Name, "MIME-Version") {
			// White space at the end of lines may go.
			b.WriteString(f.Name + ":" + strings.Join(strings.Fields(f.Value()), "") + "\n")
		}
	}
	return b.String()
}

func decoded(t testing.TB, c mail.Content, p *mail.Part) []byte {
	t.Helper()
	r, err := p.Decoded(c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever the message: either it is unfit, or what comes out has the same contents and survives 7-bit transport.
func FuzzPrepare(f *testing.F) {
	for _, s := range []string{
		"Subject: x\n\nGrüße\nFrom me\n-- \n",
		"Content-Type: multipart/mixed; boundary=b\n\npre\n--b\nContent-Type: image/png\nContent-Transfer-Encoding: binary\n\n\x89\x00\r\r\n\n--b \n\nü\n--b--\nü\n",
		"Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nSubject: in\n\nGrüße und mehr Text\n",
		"Content-Transfer-Encoding: quoted-printable\n\nGr\xfc=DFe = \n=\n=4",
		"Content-Transfer-Encoding: base64\n\nR29v \nZA== ",
		"Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\n\nü\n--b\nContent-Type: multipart/signed; boundary=c\n\n--c\n\nx \n--c--\n--b--",
		"\n" + strings.Repeat("long ", 300),
	} {
		f.Add([]byte(crlf(s)))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		text := string(raw)
		c := mail.FromBytes(raw)
		root, err := mail.Walk(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, odd := root.Ambiguity(); odd || root.Header.End != mail.EndEmptyLine || root.IsSigned() || root.IsEncrypted() {
			return
		}
		after, err := prepare(t, text, noLimit)
		if err != nil {
			if u := (*Unfit)(nil); !errors.As(err, &u) {
				t.Fatal(err)
			}
			return
		}
		same(t, text, after)
		h := mail.FromBytes([]byte(after)).Header()
		if err := survives("\r\n\r\n" + after[h.Size:]); err != nil {
			t.Fatalf("%v\n%q\n%q", err, text, after)
		}
		if again := mustPrepare(t, after); again != after {
			t.Fatalf("what was prepared is changed again:\n%q\n%q", after, again)
		}
	})
}
