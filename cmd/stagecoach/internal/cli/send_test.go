package cli

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// server is an SMTP server that plays a part, and keeps what it heard.
type server struct {
	addr string
	// replies to lines that begin with a key, instead of 250.
	replies map[string]string
	tls     *tls.Config
	// implicit: TLS from the start; else STARTTLS is offered if there is a certificate.
	implicit bool

	mu    sync.Mutex
	lines []string
	data  []string
}

func (s *server) start(t *testing.T) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); s.serve(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return s
}

func (s *server) serve(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	encrypted := s.implicit
	if s.implicit {
		c = tls.Server(c, s.tls)
	}
	r := bufio.NewReader(c)
	say := func(line string) { _, _ = fmt.Fprintf(c, "%s\r\n", line) }
	say("220 here")
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		s.mu.Lock()
		s.lines = append(s.lines, line)
		s.mu.Unlock()
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		reply := "250 2.0.0 fine"
		for begin, other := range s.replies {
			if strings.HasPrefix(line, begin) {
				reply = other
			}
		}
		switch {
		case verb == "EHLO" && reply[:3] == "250":
			offers := "250-here\r\n"
			if s.tls != nil && !encrypted {
				offers += "250-STARTTLS\r\n"
			}
			reply = offers + "250-SIZE 1000000\r\n250-8BITMIME\r\n250 AUTH PLAIN"
		case verb == "STARTTLS":
			say("220 go on")
			c, encrypted = tls.Server(c, s.tls), true
			r = bufio.NewReader(c)
			continue
		case verb == "AUTH":
			reply = "235 welcome"
		case verb == "QUIT":
			say("221 bye")
			return
		case verb == "DATA" && reply[:3] == "250":
			say("354 go")
			var b strings.Builder
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				b.WriteString(strings.TrimPrefix(line, "."))
			}
			s.mu.Lock()
			s.data = append(s.data, b.String())
			s.mu.Unlock()
			reply = "250 2.0.0 " + idOne + " accepted"
			if other, ok := s.replies["."]; ok {
				reply = other
			}
		}
		say(reply)
	}
}

func (s *server) heard(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if !s.has(w) {
			t.Errorf("%q was not said: %q", w, s.lines)
		}
	}
}

func (s *server) has(line string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.lines, line)
}

func (s *server) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines, s.data = nil, nil
}

// messages are those that were taken.
func (s *server) messages() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.data)
}

const letter = "From: Alice <alice@example.com>\nTo: bob@example.net, \"odd> x\"@example.net\nBCC: dave@example.org\nSubject: h\xc3\xa4\n\n.dot\r\n..two\nno end"

func TestSend(t *testing.T) {
	s := (&server{}).start(t)
	p := &person{stdin: letter}
	if code := p.runs(t, "send", "-", "--server", s.addr); code != ExitDone {
		t.Fatal(p.stderr)
	}
	sent := "From: Alice <alice@example.com>\r\nTo: bob@example.net, \"odd> x\"@example.net\r\nSubject: h\xc3\xa4\r\n\r\n.dot\r\n..two\r\nno end\r\n"
	if got := s.messages(); len(got) != 1 || got[0] != sent {
		t.Errorf("it sent %q, not %q", got, sent)
	}
	s.heard(t, fmt.Sprintf("MAIL FROM:<alice@example.com> SIZE=%d BODY=8BITMIME", len(sent)-2), "RCPT TO:<bob@example.net>", `RCPT TO:<"odd> x"@example.net>`, "RCPT TO:<dave@example.org>", "QUIT")
	if want := "-\tbob@example.net\taccepted\t" + idOne + "\t250 2.0.0 " + idOne + " accepted\n"; !strings.HasPrefix(p.stdout, want) || strings.Count(p.stdout, "\n") != 3 {
		t.Errorf("in a pipe: %q", p.stdout)
	}

	p = &person{stdin: letter, terminal: true}
	if p.runs(t, "send", "-", "--server", s.addr, "--from", "<>", "--to", "x@example.org", "--to", "<y@example.org>", "--to", "x@EXAMPLE.org"); !strings.Contains(visible(p.stdout), "for 2 recipients, id ESC[1m"+idOne) {
		t.Errorf("on a terminal: %q, %s", p.stdout, p.stderr)
	}
	s.heard(t, "RCPT TO:<x@example.org>", "RCPT TO:<y@example.org>")
}

func TestSendRefusals(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.eml"), filepath.Join(dir, "b.eml")
	for _, file := range []string{a, b} {
		if err := os.WriteFile(file, []byte(letter), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name    string
		replies map[string]string
		code    int
		says    string
	}{
		{"one recipient", map[string]string{"RCPT TO:<dave": "550 5.1.1 no \x1bsuch user"}, ExitPartly, `dave@example.org: refused: 550 5.1.1 no \x1bsuch user`},
		{"all recipients", map[string]string{"RCPT": "550 no"}, ExitFailed, "refused: 550 no"},
		{"the sender", map[string]string{"MAIL": "452 full"}, ExitFailed, "refused: 452 full"},
		{"the message", map[string]string{".": "554-no\r\n554 never"}, ExitFailed, "refused: 554 no never"},
		{"EHLO", map[string]string{"EHLO": "421 away", "HELO": "421 away"}, ExitFailed, "refused EHLO: 421"},
	} {
		s := (&server{replies: c.replies}).start(t)
		p := &person{terminal: true, env: map[string]string{"NO_COLOR": "1"}}
		code := p.runs(t, "send", a, b, "--server", s.addr)
		if code != c.code || !strings.Contains(p.stdout+p.stderr, c.says) {
			t.Errorf("%s: exit code %d, %s%s", c.name, code, p.stdout, p.stderr)
		}
		if refused := strings.HasPrefix(c.says, "refused: ") && c.name != "the message"; refused && s.has("DATA") {
			t.Errorf("%s: the message was sent to nobody", c.name)
		}
		p = &person{}
		p.runs(t, "send", a, b, "--json", "--server", s.addr)
		var doc struct{ Messages []sent }
		if c.name != "EHLO" && (json.Unmarshal([]byte(p.stdout), &doc) != nil || len(doc.Messages) != 2 || len(doc.Messages[0].Recipients) != 3) {
			t.Errorf("%s: %s", c.name, p.stdout)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	p := &person{}
	if code := p.runs(t, "send", a, "--server", l.Addr().String()); code != ExitFailed || !strings.Contains(p.stderr, "--server") {
		t.Errorf("nobody there: %d, %s", code, p.stderr)
	}
}

func TestSendEncrypted(t *testing.T) {
	conf, ca := certificate(t)
	password := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := (&server{}).start(t)
	starttls := (&server{tls: conf}).start(t)
	implicit := (&server{tls: conf, implicit: true}).start(t)
	other, _ := certificate(t)
	wrong := (&server{tls: other}).start(t)
	for _, c := range []struct {
		name string
		s    *server
		args string
		code int
		says string
		tls  bool
	}{
		{"as offered, unverified on this machine", starttls, "", ExitDone, "is not verified", true},
		{"verified", starttls, "--ca " + ca, ExitDone, "", true},
		{"verified by another", wrong, "--ca " + ca, ExitFailed, "--ca FILE", true},
		{"implicit", implicit, "--tls implicit --ca " + ca, ExitDone, "", false},
		{"none", starttls, "--tls none", ExitDone, "", false},
		{"asked for and not offered", plain, "--tls starttls", ExitFailed, "offers no STARTTLS", false},
		{"login", starttls, "--user alice --password-file " + password + " --ca " + ca, ExitDone, "", true},
	} {
		c.s.forget()
		p := &person{stdin: letter}
		code := p.runs(t, append([]string{"send", "-", "--server", c.s.addr}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(p.stderr, c.says) || c.says == "" && p.stderr != "" {
			t.Errorf("%s: exit code %d, %s", c.name, code, p.stderr)
		}
		if got := c.s.has("STARTTLS"); got != c.tls {
			t.Errorf("%s: STARTTLS %v", c.name, got)
		}
		if c.name == "login" {
			c.s.heard(t, "AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00alice\x00secret")))
		}
	}
}

// certificate makes one for 127.0.0.1, and the file of who signed it.
func certificate(t *testing.T) (*tls.Config, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, file
}

// An interrupt ends the wait for a server that says nothing.
func TestSendInterrupted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		cancel()
		_, _ = io.Copy(io.Discard, c)
	})
	p := &person{stdin: letter, ctx: ctx}
	if code := p.runs(t, "send", "-", "--server", l.Addr().String()); code != ExitFailed || p.stderr != "stagecoach: interrupted\n" {
		t.Errorf("exit code %d, %s", code, p.stderr)
	}
	_ = l.Close()
	wg.Wait()
}

// What cannot be an address is never said to a server.
func TestDraftAddresses(t *testing.T) {
	from := "alice@example.com"
	for header, want := range map[string]string{
		"To: a@b.example\n":                                   "a@b.example",
		"To: \"x> NOTIFY=NEVER <y\"@b.example\n":              `"x> NOTIFY=NEVER <y"@b.example`,
		"To: =?utf-8?q?J=C3=BCrgen?= <j@b.example>\n":         "j@b.example",
		"To: group: a@b.example, c@d.example;\n":              "a@b.example c@d.example",
		"To: undisclosed-recipients:;\nBcc: z@b.example\n":    "z@b.example",
		"To:\nCc: a@b.example, A@b.example,\n a@B.EXAMPLE\n":  "a@b.example A@b.example",
		"To: a@b\x00.example\n":                               "",
		"Subject: none\n":                                     "",
		"To: not an address\n":                                "",
		"To: \"" + strings.Repeat("x", 70) + "\"@b.example\n": "",
	} {
		d, err := readDraft("-", strings.NewReader(header+"\nx\n"), &from, nil)
		var got []string
		if err == nil {
			for _, a := range d.to {
				got = append(got, a.String())
			}
		}
		if strings.Join(got, " ") != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", header, got, err)
		}
	}
}

// The sending of a message changes its line ends alone.
func FuzzCRLF(f *testing.F) {
	f.Add([]byte("a\nb\r\nc\rd\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got := crlf(b)
		if want := strings.ReplaceAll(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n", "\r\n"); string(got) != want {
			t.Fatalf("%q became %q, not %q", b, got, want)
		}
	})
}

func TestFirstLine(t *testing.T) {
	for in, want := range map[string]string{"secret\n": "secret", "secret\r\nmore": "secret", " s p ": " s p ", "": "", "\nx": ""} {
		got, err := firstLine(strings.NewReader(in))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	if _, err := firstLine(io.MultiReader()); err == nil {
		t.Error("nothing is a password")
	}
}
