//go:build compose

package compose

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const footer = "This message passed through Stagecoach."

// A message with text, HTML and an attachment passes the chain: a login at the published port, a footer in both parts, two
// DKIM signatures, the provider's mailbox, the archive.
func TestMail(t *testing.T) {
	in := demo(t)
	attachment := bytes.Repeat([]byte("attached, "), 5000)
	if err := in.submit("alice@example.com", "bob@example.net", alternative("a whole message", attachment)); err != nil {
		t.Fatal(err)
	}
	var got []string
	eventually(t, "the message is in the mailbox of the smarthost", 30*time.Second, func() bool {
		got = arrived(in.path("mailbox"), "a whole message")
		return len(got) > 0
	})
	if len(got) != 1 {
		t.Errorf("%d copies arrived", len(got))
	}
	m, err := mail.ReadMessage(strings.NewReader(got[0]))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(m.Header["Dkim-Signature"]); n != 2 {
		t.Errorf("%d DKIM signatures, want one of RSA and one of Ed25519", n)
	}
	parts := map[string]string{}
	collect(t, m.Header.Get("Content-Type"), m.Body, parts)
	for _, typ := range []string{"text/plain", "text/html"} {
		if !strings.Contains(parts[typ], footer) || !strings.Contains(parts[typ], "Good morning") {
			t.Errorf("%s has no footer, or not its text: %q", typ, parts[typ])
		}
	}
	if parts["application/octet-stream"] != string(attachment) {
		t.Errorf("the attachment has changed: %d bytes, were %d", len(parts["application/octet-stream"]), len(attachment))
	}
	eventually(t, "the archive has it", 10*time.Second, func() bool {
		out, err := in.operate("", "archive", "list", "--recipient", "bob@example.net")
		return err == nil && strings.Contains(out, "alice@example.com")
	})
	blobs := 0
	err = filepath.WalkDir(in.path("archive", "archive"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			blobs++
		}
		return err
	})
	if err != nil || blobs == 0 {
		t.Errorf("the archive's folder has %d files, %v", blobs, err)
	}
}

// alternative is a message with text, HTML and an attachment.
func alternative(subject string, attachment []byte) string {
	var inner, outer bytes.Buffer
	alt := multipart.NewWriter(&inner)
	for _, p := range [][2]string{{"text/plain", "Good morning.\r\n"}, {"text/html", "<html><body><p>Good morning.</p></body></html>\r\n"}} {
		w, _ := alt.CreatePart(textproto.MIMEHeader{"Content-Type": {p[0] + "; charset=utf-8"}}) // a buffer takes everything
		_, _ = io.WriteString(w, p[1])
	}
	_ = alt.Close()
	mixed := multipart.NewWriter(&outer)
	w, _ := mixed.CreatePart(textproto.MIMEHeader{"Content-Type": {"multipart/alternative; boundary=" + alt.Boundary()}})
	_, _ = w.Write(inner.Bytes())
	w, _ = mixed.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/octet-stream; name=data.bin"}, "Content-Disposition": {"attachment; filename=data.bin"}, "Content-Transfer-Encoding": {"base64"}})
	encoded := base64.StdEncoding.EncodeToString(attachment)
	for len(encoded) > 0 {
		n := min(76, len(encoded))
		_, _ = io.WriteString(w, encoded[:n]+"\r\n")
		encoded = encoded[n:]
	}
	_ = mixed.Close()
	return fmt.Sprintf("From: Alice <alice@example.com>\r\nTo: bob@example.net\r\nSubject: %s\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=%s\r\n\r\n%s",
		subject, mixed.Boundary(), outer.String())
}

// collect decodes the parts of a message, by their type.
func collect(t *testing.T, contentType string, body io.Reader, parts map[string]string) {
	t.Helper()
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		t.Fatal(err)
	}
	r := multipart.NewReader(body, params["boundary"])
	for {
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		typ, _, err := mime.ParseMediaType(p.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(typ, "multipart/") {
			collect(t, p.Header.Get("Content-Type"), p, parts)
			continue
		}
		var content io.Reader = p
		switch strings.ToLower(p.Header.Get("Content-Transfer-Encoding")) {
		case "base64":
			content = base64.NewDecoder(base64.StdEncoding, p)
		case "quoted-printable":
			content = quotedprintable.NewReader(p)
		}
		data, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		parts[typ] = string(data)
	}
}

// EICAR is held by clamd itself, and a person finds it by the command.
func TestVirus(t *testing.T) {
	in := demo(t)
	if err := in.submit("alice@example.com", "bob@example.net", alternative("a virus", eicarPacked())); err != nil {
		t.Fatal(err)
	}
	var list string
	eventually(t, "the virus is in quarantine", 20*time.Second, func() bool {
		list, _ = in.operate("", "quarantine", "list") // its text says what is wrong
		return strings.Contains(list, "alice@example.com")
	})
	if !strings.Contains(list, "Eicar") {
		t.Errorf("it is not clamd that found it:\n%s", list)
	}
	if got := arrived(in.path("mailbox"), "a virus"); len(got) != 0 {
		t.Error("the virus was delivered")
	}
}

// Whoever connects from this machine appears as the network's gateway. He may send to our domains, and to no others.
func TestNoOpenRelay(t *testing.T) {
	in := demo(t)
	s, err := dial(in.ports["SMTP"], false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.conn.Close()
	for _, from := range []string{"eve@example.org", "alice@example.com", ""} {
		_, err := s.send(from, "mallory@example.net", text(from, "mallory@example.net", "relay me", "x"))
		if refused, ok := errors.AsType[*textproto.Error](err); !ok || refused.Code != 550 {
			t.Errorf("from <%s> to the outside: %v, want 550", from, err)
		}
		if err := s.c.Reset(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.send("eve@example.org", "bob@example.com", text("eve@example.org", "bob@example.com", "to us", "x")); err != nil {
		t.Errorf("to our domain: %v", err)
	}
	eventually(t, "mail to our domain is in its inbox", 30*time.Second, func() bool { return len(arrived(in.path("egress", "inbox"), "to us")) == 1 })
	without, err := dial(in.ports["SUBMISSION"], false)
	if err != nil {
		t.Fatal(err)
	}
	defer without.conn.Close()
	if _, err := without.send("alice@example.com", "mallory@example.net", "x"); err == nil {
		t.Error("mail at 587 without a login was taken")
	}
}
