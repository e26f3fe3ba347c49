package disclaimer

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/textproto"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// readText reads the first text of a message with the standard library alone, as UTF-8 with its charset's name.
func readText(t testing.TB, raw []byte) (text, charset string) {
	t.Helper()
	header, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	return readPart(t, append(header, "\r\n\r\n"...), body)
}

func readPart(t testing.TB, header, body []byte) (text, charset string) {
	t.Helper()
	var h textproto.MIMEHeader = make(textproto.MIMEHeader)
	unfolded := strings.NewReplacer("\r\n ", " ", "\r\n\t", " ").Replace(string(header))
	for line := range strings.SplitSeq(unfolded, "\r\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			h.Add(name, strings.TrimSpace(value))
		}
	}
	mediaType, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		mediaType = "text/plain"
	}
	if strings.HasPrefix(mediaType, "multipart/") {
		p, err := multipart.NewReader(bytes.NewReader(body), params["boundary"]).NextRawPart()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		var head bytes.Buffer
		for name, values := range p.Header {
			head.WriteString(name + ": " + values[0] + "\r\n")
		}
		return readPart(t, head.Bytes(), b)
	}
	switch strings.ToLower(h.Get("Content-Transfer-Encoding")) {
	case "quoted-printable":
		body, err = io.ReadAll(quotedprintable.NewReader(bytes.NewReader(body)))
	case "base64":
		body, err = io.ReadAll(base64.NewDecoder(base64.StdEncoding, bytes.NewReader(body)))
	default:
		err = nil
	}
	if err != nil {
		t.Fatal(err)
	}
	charset = params["charset"]
	return charsetOf(charset).ordered(body).decode(body), charset
}

const german = "text: Grüße — Ende\n"

// The text reads as before, with the addition below, whatever charset and encoding it comes in.
func TestEveryCharsetAndEncoding(t *testing.T) {
	st := build(t, german)
	bodies := []string{
		"Hello\r\n", "Hello", "", "one = two\r\n\r\n\r\n", "Grüße\r\nund mehr\r\n", "x", "xy", "xyz", strings.Repeat("line äöü = \t\r\n", 400),
		strings.Repeat("long", 100) + "\r\n",
	}
	for _, charset := range []string{"", "us-ascii", "utf-8", "iso-8859-1", "iso-8859-15", "windows-1252", "koi8-r", "gb18030", "shift_jis", "utf-16le"} {
		for _, encoding := range []string{"7bit", "8bit", "quoted-printable", "base64"} {
			for _, body := range bodies {
				for _, wrapped := range []bool{false, true} {
					octets, ok := sample(charset, encoding, body)
					if !ok {
						continue
					}
					typ := "Content-Type: text/plain"
					if charset != "" {
						typ += "; charset=" + charset
					}
					raw := "MIME-Version: 1.0\r\n" + typ + "\r\nContent-Transfer-Encoding: " + encoding + "\r\n\r\n" + octets
					if wrapped {
						raw = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" + raw +
							"\r\n--b\r\nContent-Type: image/png\r\n\r\nx\r\n--b--\r\n"
					}
					check(t, st, raw, body)
				}
			}
		}
	}
}

// check stamps raw, whose text is body, and compares what is read afterwards.
func check(t *testing.T, st stage.Stage, raw, body string) {
	t.Helper()
	before, _ := readText(t, []byte(raw))
	if body != before {
		t.Fatalf("the sample does not read as it should: %q, not %q\n%s", before, body, raw)
	}
	after, notes := run(t, st, []byte(raw))
	got, _ := readText(t, after)
	want := body
	switch {
	case body == "":
	case strings.HasSuffix(body, "\r\n\r\n"):
	case strings.HasSuffix(body, "\r\n"):
		want += "\r\n"
	default:
		want += "\r\n\r\n"
	}
	want += "Grüße — Ende"
	if strings.TrimSuffix(got, "\r\n") != want || strings.HasSuffix(got, "\r\n") != (strings.HasSuffix(body, "\r\n") || body == "" && !strings.Contains(raw, "--b")) {
		t.Errorf("%q became\n%q, not\n%q (%s)\n%s\nfrom\n%s", body, got, want, notes, after, raw)
	}
	for line := range strings.SplitSeq(string(after), "\r\n") {
		if len(line) > 998 {
			t.Errorf("a line of %d octets", len(line))
		}
	}
	if again, notes := run(t, st, after); !bytes.Equal(again, after) {
		t.Errorf("stamped again (%s):\n%s", notes, again)
	}
}

// sample encodes a body, or says that it cannot be.
func sample(charset, encoding, body string) (string, bool) {
	b, err := charsetOf(charset).encode(body)
	if err != nil {
		return "", false
	}
	switch encoding {
	case "7bit":
		return string(b), isASCII(string(b)) && charset != "utf-16le"
	case "8bit":
		return string(b), charset != "utf-16le"
	case "quoted-printable":
		return string(quoted(nil, b)), charset != "utf-16le"
	}
	return string(wrapBase64(b, 0, 76)), true
}

// No value of a message makes a new line, tag, attribute, template or header.
func TestVariablesInjectNothing(t *testing.T) {
	const evil = "x\r\nBcc: eve@example.org\r\n\r\n<script>alert(1)</script>\"'><b onclick=x>&lt;{{.Date}}\u2028\u202eend\x00\x1b[2J"
	fold := strings.NewReplacer("\r", "=0D", "\n", "=0A", " ", "_", "=", "=3D", "?", "=3F", "\x00", "=00", "\x1b", "=1B", "\u2028", "=E2=80=A8", "\u202e", "=E2=80=AE", "_", "=5F")
	word := "=?utf-8?q?" + strings.ReplaceAll(fold.Replace(strings.ReplaceAll(evil, " ", "")), "\"", "=22") + "?="
	for name := range map[string]bool{"Sender": true, "SenderName": true, "SenderDomain": true, "Recipient": true, "Subject": true, "Date": true, "MessageID": true} {
		t.Run(name, func(t *testing.T) {
			st := build(t, "text: 'begin {{."+name+"}} end'\nhtml: '<p title=\"{{."+name+"}}\">begin {{."+name+"}} end</p>'\n")
			m := message([]byte("From: " + word + " <\"<i>x\"@example.com>\r\nSubject: " + word + "\r\nMessage-ID: <" + strings.ReplaceAll(evil, "\r\n", " ") +
				">\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nhi\r\n" +
				"--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<body>hi</body>\r\n--b--\r\n"))
			m.Envelope.ReversePath.Local = evil
			m.Envelope.Recipients[0].Address.Local = evil
			r, err := st.Process(context.Background(), m)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Edits.Splices) != 2 {
				t.Fatalf("%d splices: %v", len(r.Edits.Splices), r.Notes)
			}
			plain, html := string(r.Edits.Splices[0].Insert), string(r.Edits.Splices[1].Insert)
			if got := strings.Trim(plain, "\r\n"); strings.ContainsAny(got, "\r\n\x00\x1b\u2028\u202e") || !strings.HasPrefix(got, "begin ") || !strings.HasSuffix(got, " end") {
				t.Errorf("text: %q", plain)
			}
			if strings.Count(html, "<") != 2 || strings.Count(html, ">") != 2 || strings.Count(html, `"`) != 2 || strings.Count(html, "\r\n") != 2 || strings.ContainsAny(html, "\x00\x1b") {
				t.Errorf("html: %q", html)
			}
			if !strings.Contains(plain, noon.Format("2006-01-02")) != (name != "Date") {
				t.Errorf("a template within a value was run: %q", plain)
			}
		})
	}
}

func TestVariables(t *testing.T) {
	for raw, want := range map[string]Variables{
		"From: =?iso-8859-1?q?J=FCrgen?= <J@Example.COM>, b@example.org\r\nSubject: =?utf-8?q?=C3=A4?=\r\n b\r\nMessage-ID: <1@x>\r\n\r\n": {
			Sender: "J@Example.COM", SenderName: "Jürgen", SenderDomain: "example.com", Recipient: "bob@example.net", Subject: "ä b", Date: "2026-11-22", MessageID: "<1@x>",
		},
		"From: undisclosed\r\n\r\n": {Sender: "anna@example.com", SenderName: "anna@example.com", SenderDomain: "example.com", Recipient: "bob@example.net", Date: "2026-11-22"},
		"From: =?x-unknown?q?=FC?= <a@example.com>\r\n\r\n": {
			Sender: "a@example.com", SenderName: "\ufffd", SenderDomain: "example.com", Recipient: "bob@example.net", Date: "2026-11-22",
		},
	} {
		if got := variablesOf(message([]byte(raw)), noon).clean(); got != want {
			t.Errorf("%q:\n%+v, not\n%+v", raw, got, want)
		}
	}
	m := message([]byte("\r\n"))
	m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{ID: "2", Address: mail.Address{Local: "blind", Domain: "example.net"}})
	if v := variablesOf(m, noon); v.Recipient != "" {
		t.Errorf("one of two recipients is shown: %s", v.Recipient)
	}
}

func TestConfigErrors(t *testing.T) {
	for config, want := range map[string]string{
		"{}":                                 "text: is required",
		"text: a\ntext_file: b\n":            "only one",
		"text: a\nhtml: b\nhtml_file: c\n":   "only one",
		"text: '{{.Nobody}}'\n":              "no variable .Nobody",
		"text: '{{if .Sender}}x{{end}}'\n":   "only variables",
		"text: '{{.Sender | printf}}'\n":     "only variables",
		"text: '{{printf .Sender}}'\n":       "only variables",
		"text: '{{.Sender.X}}'\n":            "only variables",
		"text: 'a {{.Sender'\n":              "unclosed action",
		"text: '{{.Sender}}'\n":              "no text besides variables",
		"text: \"a\\x07\"\n":                 "control character",
		"text: a\nhtml: '<body>x</body>'\n":  "fragment",
		"text: a\nhtml: '<p title=\"x'\n":    "ends in",
		"text: a\nhtml: '<!-- x'\n":          "ends in",
		"text: a\nhtml: '<script>x'\n":       "",
		"text: a\nbogus: b\n":                "unknown field",
		"text_file: missing.txt\n":           "missing.txt",
		"text: a\nhtml_file: missing.html\n": "missing.html",
	} {
		if _, err := tryBuild(settings(t), config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", config, err, want)
		}
	}
}

func TestTemplatesFromFiles(t *testing.T) {
	s := settings(t)
	s.ConfigDir = t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(s.ConfigDir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.txt", "\ufeffline one\r\nline two\r\n\r\n")
	write("a.html", "<b>{{.Date}}</b>\n")
	st, err := tryBuild(s, "text_file: a.txt\nhtml_file: a.html\n")
	if err != nil {
		t.Fatal(err)
	}
	after, _ := run(t, st, []byte("Subject: x\r\n\r\nhi\r\n"))
	if string(after) != "Subject: x\r\n\r\nhi\r\n\r\nline one\r\nline two\r\n" {
		t.Errorf("%q", after)
	}
	after, _ = run(t, st, []byte("Content-Type: text/html\r\n\r\nhi"))
	if string(after) != "Content-Type: text/html\r\n\r\nhi\r\n<b>2026-11-22</b>" {
		t.Errorf("%q", after)
	}
	write("a.txt", "{{.Nobody}}")
	if _, err := tryBuild(s, "text_file: a.txt\n"); err == nil || !strings.Contains(err.Error(), "a.txt") {
		t.Errorf("error %v", err)
	}
}

func TestHTMLFromText(t *testing.T) {
	st := build(t, "text: |\n  a < b & {{.Sender}}\n  ü\n")
	after, _ := run(t, st, []byte("Content-Type: text/html\r\n\r\n<body>hi</body>"))
	if want := "<body>hi\r\n<p>a &lt; b &amp; anna@example.com<br>\r\n&#252;</p>\r\n</body>"; !strings.HasSuffix(string(after), want) {
		t.Errorf("%q", after)
	}
}

func TestLongLinesAreBroken(t *testing.T) {
	st := build(t, "text: '"+strings.Repeat("word ", 500)+"'\nhtml: '<p>"+strings.Repeat("ü", 3000)+"</p>'\n")
	for _, typ := range []string{"text/plain", "text/html"} {
		after, _ := run(t, st, []byte("Content-Type: "+typ+"\r\n\r\nhi\r\n"))
		for line := range strings.SplitSeq(string(after), "\r\n") {
			if len(line) > 998 {
				t.Errorf("%s: a line of %d octets", typ, len(line))
			}
			if typ == "text/html" && strings.Contains(line, "&#25\r") {
				t.Error("a character reference was broken")
			}
		}
	}
}

func TestFlowed(t *testing.T) {
	st := build(t, "text: |\n  > no quote\n  "+strings.Repeat("word ", 40)+"\n")
	for params, gap := range map[string]string{"format=flowed": "word \r\n", "format=Flowed; DelSp=Yes": "word  \r\n"} {
		after, _ := run(t, st, []byte("Content-Type: text/plain; "+params+"\r\n\r\nhi\r\n"))
		if !strings.Contains(string(after), "\r\n > no quote\r\n") {
			t.Errorf("%s: not stuffed: %q", params, after)
		}
		if strings.Count(string(after), gap) != 2 {
			t.Errorf("%s: not flowed: %q", params, after)
		}
	}
}

// badContent fails to read after so many reads.
type badContent struct {
	mail.Content
	reads *int
}

var errBroken = errors.New("the disk is gone")

func (c badContent) ReadAt(p []byte, off int64) (int, error) {
	if *c.reads--; *c.reads < 0 {
		return 0, errBroken
	}
	return c.Content.ReadAt(p, off)
}

func TestReadErrorIsAnError(t *testing.T) {
	st := build(t, german)
	raw := []byte("Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nSGVsbG8NCg==\r\n")
	failed := 0
	for n := range 20 {
		m := message(raw)
		m.Content = badContent{Content: m.Content, reads: &n}
		r, err := st.Process(context.Background(), m)
		switch {
		case errors.Is(err, errBroken):
			failed++
		case err != nil:
			t.Errorf("after %d reads: %v", n, err)
		case r.Edits.Empty():
			t.Errorf("after %d reads the message went on without the text: %v", n, r.Notes)
		}
	}
	if failed < 3 || failed == 20 {
		t.Errorf("%d of 20 runs failed", failed)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, encoding := range []string{"7bit", "quoted-printable"} {
		m := message([]byte("Content-Transfer-Encoding: " + encoding + "\r\n\r\nhi\r\n"))
		if _, err := build(t, german).Process(ctx, m); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v", encoding, err)
		}
	}
}

// A large part is read in passing: what is allocated does not grow with it.
func TestLargePartsStream(t *testing.T) {
	st := build(t, "text: plain ASCII\n")
	body := strings.Repeat("All work and no play makes Jack a dull boy, and so it goes on for ever.\r\n", 30_000)
	for _, encoding := range []string{"7bit", "quoted-printable", "base64"} {
		octets, _ := sample("us-ascii", encoding, body)
		m := message([]byte("Content-Transfer-Encoding: " + encoding + "\r\n\r\n" + octets))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := st.Process(context.Background(), m)
		runtime.ReadMemStats(&after)
		if err != nil || len(r.Edits.Splices) != 1 {
			t.Fatal(err, r.Notes)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 600<<10 {
			t.Errorf("%s: %d KB allocated for a message of %d KB", encoding, got>>10, m.Content.Size()>>10)
		}
	}
}
