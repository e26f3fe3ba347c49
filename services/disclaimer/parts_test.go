package disclaimer

import (
	"bytes"
	"encoding/base64"
	"io"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/mail"
)

// multipartOf makes a multipart of parts, each a header and a body.
func multipartOf(subtype string, parts ...string) string {
	return "Content-Type: multipart/" + subtype + "; boundary=b" + subtype[:3] + "\n\n--b" + subtype[:3] + "\n" +
		strings.Join(parts, "\n--b"+subtype[:3]+"\n") + "\n--b" + subtype[:3] + "--\n"
}

func TestDisplayed(t *testing.T) {
	const (
		plain  = "Content-Type: text/plain\n\nx"
		html   = "Content-Type: text/html\n\nx"
		image  = "Content-Type: image/png\n\nx"
		file   = "Content-Type: text/plain\nContent-Disposition: Attachment\n\nx"
		inline = "Content-Type: text/plain\nContent-Disposition: inline; filename=a.txt\n\nx"
		body   = "Content-Type: text/plain\nContent-Disposition: inline\n\nx"
		inner  = "Content-Type: message/rfc822\n\nSubject: x\n\nx"
		amp    = "Content-Type: text/x-amp-html\n\nx"
		smime  = "Content-Type: application/pkcs7-mime\n\nx"
		vcard  = "Content-Type: text/vcard\n\nx"
		two    = "Content-Type: text/plain\nContent-Type: text/html\n\nx"
		none   = "Content-Type: text/plain"
	)
	signed := multipartOf("signed", plain, image)
	for name, c := range map[string]struct{ message, want string }{
		"text":                      {plain, "1"},
		"html":                      {html, "1"},
		"no header":                 {"\nx", "1"},
		"attached text alone":       {file, "-there is no displayed text"},
		"file in place":             {inline, "-there is no displayed text"},
		"inline text":               {body, "1"},
		"mixed":                     {multipartOf("mixed", plain, plain, html), "1"},
		"mixed, attachment first":   {multipartOf("mixed", file, inline, html, plain), "3"},
		"mixed, message":            {multipartOf("mixed", inner, image), "-there is no displayed text"},
		"unknown multipart":         {multipartOf("strange", plain, plain), "1"},
		"digest":                    {multipartOf("digest", inner), "-there is no displayed text"},
		"alternative":               {multipartOf("alternative", plain, html), "1 2"},
		"alternative with amp":      {multipartOf("alternative", plain, amp, html), "1 3 left 2: text/x-amp-html"},
		"alternative, mixed inside": {multipartOf("alternative", plain, multipartOf("mixed", html, image)), "1 2.1"},
		"related":                   {multipartOf("related", html, image), "1"},
		"related with start":        {"Content-Type: multipart/related; start=\"<r>\"; boundary=b\n\n--b\n" + image + "\n--b\nContent-ID: <r>\n" + html + "\n--b--\n", "2"},
		"mixed, vcard first":        {multipartOf("mixed", vcard, plain), "2"},
		"signed inside":             {multipartOf("mixed", signed, plain), "-signed"},
		"signed behind the text":    {multipartOf("mixed", plain, signed), "1"},
		"signed alternative":        {multipartOf("alternative", plain, signed), "-signed"},
		"encrypted attachment":      {multipartOf("mixed", plain, smime), "1"},
		"encrypted":                 {multipartOf("mixed", smime), "-encrypted"},
		"two types":                 {multipartOf("alternative", two, html), "2 left 1: malformed: header-repeat"},
		"no body":                   {none, " left 1: malformed: there is no body"},
		"no boundary":               {"Content-Type: multipart/mixed\n\nx", "-malformed: no-boundary"},
		"no parts":                  {"Content-Type: multipart/mixed; boundary=b\n\nx", "-malformed: no-parts"},
	} {
		root, err := mail.Walk(mail.FromBytes([]byte(strings.ReplaceAll(c.message, "\n", "\r\n"))))
		if err != nil {
			t.Fatal(err)
		}
		s := displayed(root)
		var sections []string
		for _, x := range s.texts {
			sections = append(sections, x.section)
		}
		got := strings.Join(sections, " ")
		if len(s.left) > 0 {
			got += " left " + strings.Join(s.left, ", ")
		}
		if s.untouchable != "" {
			got = "-" + s.untouchable
		}
		if got != c.want {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
	}
}

func TestArmor(t *testing.T) {
	const begin = "-----BEGIN PGP MESSAGE-----"
	for text, want := range map[string]bool{
		begin: true, "x\r\n" + begin + "\r\nx": true, "-----BEGIN PGP SIGNED MESSAGE-----  \r\n": true,
		"> " + begin: false, "x " + begin: false, "-----BEGIN PGP PUBLIC KEY BLOCK-----": false, begin[:20]: false,
		strings.Repeat("x", 100) + "\r\n" + begin: true,
	} {
		var a armor
		for i := range len(text) {
			a.char(text[i], false)
		}
		if a.done() != want {
			t.Errorf("%q: %v", text, a.done())
		}
	}
	for text, want := range map[string]bool{"<pre>  " + begin + "<br>": true, "<p>see " + begin + "</p>": false, "<p>" + begin: true} {
		var a armor
		for i := range len(text) {
			a.char(text[i], true)
		}
		if a.done() != want {
			t.Errorf("%q: %v", text, a.done())
		}
	}
}

func TestCleanValue(t *testing.T) {
	for in, want := range map[string]string{
		" a\r\n\tb ": "a b", "a\u00a0b": "a b", "a\u2028b": "a b", "a\x00\x1b[b": "a[b", "\u202eabc\u2066": "abc", "a\xffb": "a\ufffdb",
		strings.Repeat("ü", 300): strings.Repeat("ü", maxValue) + "…", "": "", "\r\n": "",
	} {
		if got := cleanValue(in); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
}

// In base64 the text in the middle moves nothing: what stands behind it keeps its bytes, whatever the lengths are.
func TestBase64InTheMiddle(t *testing.T) {
	for footer := range 4 {
		for before := range 4 {
			for _, behind := range []string{"</body>", "</body></html>\r\n", "</body>" + strings.Repeat("\r\n<!-- x -->", 50)} {
				text := "<body>" + strings.Repeat("line\r\n", 30) + strings.Repeat("x", before) + behind
				st := build(t, "text: t\nhtml: 'F"+strings.Repeat("f", footer)+"'\n")
				encoded := string(wrapBase64([]byte(text), 0, 64)) + "\r\n"
				after, _ := run(t, st, []byte("Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n"+encoded))
				_, body, _ := bytes.Cut(after, []byte("\r\n\r\n"))
				b, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, bytes.NewReader(body)))
				if err != nil {
					t.Fatal(err)
				}
				want := strings.Replace(text, "</body>", "\r\nF"+strings.Repeat("f", footer)+"\r\n</body>", 1)
				if got := strings.ReplaceAll(string(b), " \r\n</body>", "\r\n</body>"); strings.ReplaceAll(got, " \r\n</body>", "\r\n</body>") != want {
					t.Errorf("%q, not %q", b, want)
				}
				same := max(0, len(behind)/3*4-12)
				if !strings.HasSuffix(string(body), encoded[len(encoded)-same:]) {
					t.Errorf("the bytes behind have changed:\n%s\n%s", encoded, body)
				}
				for line := range strings.SplitSeq(string(body), "\r\n") {
					if len(line) > 64 {
						t.Errorf("a line of %d characters", len(line))
					}
				}
			}
		}
	}
}

func TestOddEncodings(t *testing.T) {
	st := build(t, german)
	const utf8Text = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: "
	for name, c := range map[string]struct{ message, want string }{
		"a soft line break at the very end": {utf8Text + "quoted-printable\r\n\r\nHi=", "\r\n\r\nHi=\r\n\r\n\r\nGr=C3=BC=C3=9Fe =E2=80=94 Ende"},
		"8 bits that say they are 7":        {utf8Text + "7bit\r\n\r\nä\r\n", "\r\n\r\nä\r\n\r\nGrüße — Ende\r\n"},
		"base64 with garbage":               {utf8Text + "base64\r\n\r\nAA!A\r\n", "base64\r\n\r\nAA!A\r\n"},
		"base64 cut off":                    {utf8Text + "base64\r\n\r\nAAA\r\n", "base64\r\n\r\nAAA\r\n"},
		"base64 behind its padding":         {utf8Text + "base64\r\n\r\nAA==AAAA\r\n", "base64\r\n\r\nAA==AAAA\r\n"},
		"base64 of nothing":                 {utf8Text + "base64\r\n\r\n", "base64\r\n\r\nR3LDvMOfZSDigJQgRW5kZQ0K"},
		"unknown encoding":                  {utf8Text + "x-uue\r\n\r\nx\r\n", "x-uue\r\n\r\nx\r\n"},
		"endless quoted-printable line":     {utf8Text + "quoted-printable\r\n\r\n" + strings.Repeat("x", 70<<10), strings.Repeat("x", 70<<10)},
		"unknown charset":                   {"Content-Type: text/plain; charset=x-none\r\n\r\nx\r\n", "charset=x-none\r\n\r\nx\r\n"},
		"utf-7":                             {"Content-Type: text/plain; charset=utf-7\r\n\r\nx\r\n", "charset=utf-7\r\n\r\nx\r\n"},
		"too large to convert":              {"\r\n" + strings.Repeat("x\r\n", 400<<10), strings.Repeat("x\r\n", 400<<10)},
		"8 bits that are UTF-8":             {"Subject: x\r\n\r\nä\r\n", "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A4\r\n\r\nGr=C3=BC=C3=9Fe =E2=80=94 Ende\r\n"},
		"text that would not come back":     {"Content-Type: text/plain; charset=iso-2022-jp\r\n\r\n\x1b(B\x1b(Bx\r\n", "\r\n\r\n\x1b(B\x1b(Bx\r\n"},
		"ISO-2022-JP that ends shifted":     {"Content-Type: text/plain; charset=iso-2022-jp\r\n\r\n\x1b$BF|", "\r\n\r\n\x1b$BF|"},
	} {
		after, notes := run(t, st, []byte(c.message))
		if !strings.HasSuffix(string(after), c.want) {
			t.Errorf("%s: %.300q, not %.300q (%s)", name, after, c.want, notes)
		}
		if string(after) == c.message && !strings.Contains(notes, "left=1: ") {
			t.Errorf("%s: left silently: %q", name, notes)
		}
	}
}

// In ISO-2022-JP the octets of "</body>" may be three Kanji and a half.
func TestShiftedHTML(t *testing.T) {
	st := build(t, "text: t\nhtml: <hr>\n")
	const head = "Content-Type: text/html; charset=iso-2022-jp\r\n\r\n"
	after, _ := run(t, st, []byte(head+"x</body>\x1b$B</body></html>\x1b(B"))
	if want := head + "x\r\n<hr>\r\n</body>\x1b$B</body></html>\x1b(B"; string(after) != want {
		t.Errorf("%q, not %q", after, want)
	}
}

func TestSetCharset(t *testing.T) {
	for in, want := range map[string]string{
		"Content-Type: text/plain\r\n":                                   "Content-Type: text/plain; charset=utf-8\r\n",
		"Content-Type: text/plain;\r\n":                                  "Content-Type: text/plain; charset=utf-8\r\n",
		"Content-Type: text/plain; format=flowed \r\n":                   "Content-Type: text/plain; format=flowed; charset=utf-8 \r\n",
		"content-type:text/plain;charset=us-ascii;format=flowed\r\n":     "content-type:text/plain;charset=utf-8;format=flowed\r\n",
		"Content-Type: text/plain;\r\n\tCharset = \"a;b\\\"\" ; x=y\r\n": "",
		"Content-Type: text/plain;\r\n\tCHARSET=\"us-ascii\"\r\n":        "Content-Type: text/plain;\r\n\tCHARSET=utf-8\r\n",
		"Content-Type: text/plain; name=\"charset=x;\"; charset=x\r\n":   "Content-Type: text/plain; name=\"charset=x;\"; charset=utf-8\r\n",
		"Content-Type: text/plain; charset*=us-ascii''x\r\n":             "",
		"Content-Type: text/plain; (charset=x)\r\n":                      "",
		"Content-Type: text/plain; charset=a; charset=b\r\n":             "",
	} {
		f := mail.Field{Name: "Content-Type", Raw: []byte(in)}
		s, err := setCharset(f)
		if err != nil {
			if want != "" {
				t.Errorf("%q: %v", in, err)
			}
			continue
		}
		if got := in[:s.Offset] + string(s.Insert) + in[s.Offset+s.Length:]; got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
}
