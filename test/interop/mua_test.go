//go:build interop

package interop

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// mua is a program that composes messages by itself, and keeps a copy of what it has sent.
type mua struct {
	name string
	// send sends the letter with the file attached.
	send func(w way, subject, letter, file string) (out string, err error)
	// kept is the file with its copy, an mbox.
	kept string
	// says is what it prints when the login is refused.
	says string
}

// at runs a program in a home of its own, so that nobody's settings matter.
func (c *reception) at(home, input, program string, args ...string) (string, error) {
	c.T.Helper()
	cmd := exec.CommandContext(c.T.Context(), program, args...)
	cmd.WaitDelay = time.Second
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TERM=dumb"}
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *reception) mutt() mua {
	c.WriteFile("mutt/x", "") // makes the folder
	home, kept := c.Path("mutt"), c.Path("mutt", "sent")
	return mua{name: "mutt", kept: kept, says: "authentication failed", send: func(w way, subject, letter, file string) (string, error) {
		rc := fmt.Sprintf("set from=alice@example.com\nset use_envelope_from\nset record=%q\nset mbox_type=mbox\nset allow_8bit\nset use_8bitmime\nset send_charset=utf-8\nset hostname=client.example.com\nset certificate_file=%q\nset ssl_force_tls=no\n", kept, c.ca)
		switch w.security {
		case "none":
			rc += fmt.Sprintf("set smtp_url=\"smtp://localhost:%s/\"\nset ssl_starttls=no\n", c.port(w))
		case "starttls":
			rc += fmt.Sprintf("set smtp_url=\"smtp://alice@localhost:%s/\"\nset ssl_starttls=yes\nset ssl_force_tls=yes\n", c.port(w))
		case "tls":
			rc += fmt.Sprintf("set smtp_url=\"smtps://alice@localhost:%s/\"\n", c.port(w))
		}
		if w.mechanism != "" {
			rc += fmt.Sprintf("set smtp_pass=%q\nset smtp_authenticators=%s\n", w.password, strings.ToLower(w.mechanism))
		}
		return c.at(home, letter, "mutt", "-F", c.WriteFile("mutt/rc", rc), "-s", subject, "-a", file, "--", "bob@example.net", "carol@example.org")
	}}
}

func (c *reception) snail() mua {
	c.WriteFile("s-nail/x", "")
	home, kept := c.Path("s-nail"), c.Path("s-nail", "sent")
	return mua{name: "s-nail", kept: kept, says: "535", send: func(w way, subject, letter, file string) (string, error) {
		set := []string{"v15-compat", "from=alice@example.com", "hostname=client.example.com", "record=" + kept, "DEAD=" + c.Path("s-nail", "dead"), "sendwait", "ttycharset=utf-8", "sendcharsets=utf-8", "mime-encoding=8b",
			"tls-ca-file=" + c.ca, "tls-ca-no-defaults", "tls-verify=strict"}
		login := url.UserPassword("alice", w.password).String() + "@"
		switch w.security {
		case "none":
			set = append(set, "mta=smtp://localhost:"+c.port(w), "smtp-auth=none")
		case "starttls":
			set = append(set, "mta=smtp://"+login+"localhost:"+c.port(w), "smtp-use-starttls", "smtp-auth="+strings.ToLower(w.mechanism))
		case "tls":
			set = append(set, "mta=smtps://"+login+"localhost:"+c.port(w), "smtp-auth="+strings.ToLower(w.mechanism))
		}
		args := []string{"-:/"}
		for _, s := range set {
			args = append(args, "-S", s)
		}
		return c.at(home, letter, "s-nail", append(args, "-s", subject, "-a", file, "bob@example.net", "carol@example.org")...)
	}}
}

// letter is what a person may write: to a program that composes, a line with a dot alone would be the end.
const letter = "Grüße.\n..\n.dot\ntrailing \t \nFrom here on it is quoted in an mbox.\n\n-- \nAlice\n"

// TestMailPrograms sends with programs that people write mail with. What they compose is theirs to say; what they have
// kept of it is what has to arrive, and the letter and the file are in it.
func TestMailPrograms(t *testing.T) {
	t.Parallel()
	need(t, "mutt", "s-nail")
	c := newReception(t)
	data := noise(100 << 10)
	file := c.WriteFile("noise.bin", string(data))
	for _, p := range []mua{c.mutt(), c.snail()} {
		for _, w := range ways {
			subject := p.name + " " + w.String()
			c.Run(subject, func(t *testing.T) {
				if out, err := p.send(w, subject, letter, file); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				protocol := w.protocol()
				if p.name == "s-nail" && w.security == "none" {
					protocol = "with SMTP\r\n" // it says HELO, and sends 8 bits all the same
				}
				d := c.arrived(subject, protocol)
				got := textOf(d.Raw)
				if _, kept, _ := strings.Cut(read(t, p.kept), "\n\n"); !sameBody(got, kept) {
					t.Errorf("it has changed:\n%.2000q\nwant\n%.2000q", got, kept)
				}
				if err := os.Remove(p.kept); err != nil {
					t.Fatal(err)
				}
				parts := partsOf(t, d.Raw)
				if len(parts) != 2 || parts[0] != letter || parts[1] != string(data) {
					t.Errorf("%d parts, the first is\n%.2000q", len(parts), parts[0])
				}
				if strings.Contains(got, "=C3=BC") {
					t.Error("the text did not go as 8 bits: this shows less than it should")
				}
			})
		}
		c.refusedLogin(p.name, func(w way) (string, error) {
			out, err := p.send(w, "wrong", letter, file)
			if !strings.Contains(out, p.says) {
				c.T.Errorf("it does not say %q:\n%s", p.says, out)
			}
			return out, err
		})
	}
	if logged(c.Rig, "up", password) || logged(c.Rig, "up", "open barley") {
		t.Error("a password stands in the log")
	}
}

// sameBody compares what arrived with a copy in an mbox: quoted there, with the line ends of the system and an empty line
// at the end.
func sameBody(got, kept string) bool {
	got = strings.ReplaceAll(strings.ReplaceAll(got, "\r\n", "\n"), "\n>From ", "\nFrom ")
	return strings.TrimRight(got, "\n") == strings.TrimRight(strings.ReplaceAll(kept, "\n>From ", "\nFrom "), "\n")
}

// partsOf gives the decoded parts of a message in several parts, texts with the line ends of the system.
func partsOf(t testing.TB, raw []byte) (parts []string) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		var body io.Reader = p
		switch strings.ToLower(p.Header.Get("Content-Transfer-Encoding")) {
		case "base64":
			body = base64.NewDecoder(base64.StdEncoding, p)
		case "quoted-printable":
			body = quotedprintable.NewReader(p)
		}
		b, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if strings.HasPrefix(p.Header.Get("Content-Type"), "text/") {
			text = strings.ReplaceAll(text, "\r\n", "\n")
		}
		parts = append(parts, text)
	}
}
