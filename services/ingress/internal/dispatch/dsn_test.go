package dispatch

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	netmail "net/mail"
	"net/textproto"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

var update = flag.Bool("update", false, "write the golden files anew")

func original(raw string) *mail.Message {
	return &mail.Message{ID: "orig", Received: time.Date(2026, 5, 1, 8, 0, 0, 0, time.UTC), Content: mail.FromBytes([]byte(raw)),
		Envelope: mail.Envelope{ReversePath: sender, EnvID: "QQ314159", Recipients: []mail.Recipient{{ID: "1"}}}}
}

func failed(address string, f chain.Fate) failure {
	a, err := mail.ParseAddressUTF8(address)
	if err != nil {
		panic(err)
	}
	return failure{to: mail.Recipient{Address: a}, fate: f}
}

var reportedAt = time.Date(2026, 5, 6, 9, 30, 0, 0, time.UTC)

func TestReportGolden(t *testing.T) {
	m := original("Received: from a by b;\r\n\tFri, 1 May 2026 08:00:00 +0000\r\nFrom: Anna <anna@example.com>\r\nTo: <x@example.net>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <1@example.com>\r\n\r\nHello\r\n")
	one := failed("nobody@example.net", chain.Fate{Kind: chain.Rejected, Host: "mx.example.net", Reply: &mail.Reply{Code: 550, Enhanced: "5.1.1", Text: "no such user\nnever was one", Private: "secret"}})
	one.to.ORcpt = "rfc822;nobody@old.example"
	two := failed("slow@example.org", chain.Fate{Kind: chain.Deferred, Reply: &mail.Reply{Code: 451, Enhanced: "4.7.0", Text: "later"}})
	two.expired = true
	three := failed("virus@example.net", chain.Fate{Kind: chain.Rejected, Reason: "secret"})
	raw := report("relay.example.com", mail.Address{Local: "it", Domain: "example.com"}, "0123456789", m, []failure{one, two, three}, reportedAt)
	if *update {
		if err := os.WriteFile("testdata/report.eml", raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/report.eml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, want) {
		t.Errorf("got\n%s", raw)
	}
	if bytes.Contains(raw, []byte("secret")) {
		t.Error("what is private stands in a report")
	}
	_, status, returned := parse(t, raw)
	if len(status) != 4 || status[0].Get("Original-Envelope-Id") != "QQ314159" || status[1].Get("Status") != "5.1.1" || status[2].Get("Status") != "4.4.7" || status[3].Get("Status") != "5.0.0" {
		t.Errorf("status: %v", status)
	}
	if s := status[1].Get("Original-Recipient"); s != "rfc822; nobody@old.example" {
		t.Errorf("original recipient %q", s)
	}
	if !strings.HasPrefix(returned, "Received: from a by b;\r\n\tFri") || !strings.HasSuffix(returned, "Message-ID: <1@example.com>\r\n") {
		t.Errorf("returned header %q", returned)
	}
}

// parse reads a report as a mail program does, and checks what holds for every one.
func parse(t *testing.T, raw []byte) (text string, status []textproto.MIMEHeader, returned string) {
	t.Helper()
	for line := range bytes.Lines(raw) {
		line, ok := bytes.CutSuffix(line, []byte("\r\n"))
		if !ok || len(line) > 998 || bytes.ContainsAny(line, "\r\n\x00") {
			t.Errorf("line %.100q of %d bytes", line, len(line))
		}
	}
	if len(raw) > spool.InlineLimit {
		t.Errorf("%d bytes", len(raw))
	}
	msg, err := netmail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	for _, once := range []string{"From", "To", "Subject", "Date", "Message-Id", "Auto-Submitted", "Mime-Version", "Content-Type"} {
		if n := len(msg.Header[once]); n != 1 {
			t.Errorf("%d fields %s", n, once)
		}
	}
	if len(msg.Header) > 10 {
		t.Errorf("header %v", msg.Header)
	}
	if _, err := msg.Header.Date(); err != nil {
		t.Error(err)
	}
	typ, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("%s %v %v", typ, params, err)
	}
	r := multipart.NewReader(msg.Body, params["boundary"])
	var parts []string
	for {
		p, err := r.NextPart() // decodes quoted-printable
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"text/plain; charset=utf-8", "message/delivery-status", "text/rfc822-headers"}
		if got := p.Header.Get("Content-Type"); len(parts) > 2 || got != want[len(parts)] {
			t.Fatalf("part %d is %q", len(parts), got)
		}
		parts = append(parts, string(b))
	}
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	sections := textproto.NewReader(bufio.NewReader(strings.NewReader(parts[1] + "\r\n")))
	for {
		h, err := sections.ReadMIMEHeader()
		if len(h) > 0 {
			status = append(status, h)
		}
		if err == io.EOF || len(h) == 0 {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if strings.ContainsFunc(parts[1], func(r rune) bool { return r > '~' }) {
		t.Error("the status is not of seven bits")
	}
	return parts[0], status, parts[2]
}

// Whatever comes from outside, a report stays whole, of short lines and of seven bits, and says only what it should.
func TestReportFromHostileParts(t *testing.T) {
	evil := "x\r\nBcc: victim@example.net\r\n\r\n--=_dsn_0123456789\r\nContent-Type: text/html\r\n\r\n<b>"
	for name, raw := range map[string]string{
		"no header":       "just text",
		"empty":           "",
		"bare LF":         "From: a@example.com\nSubject: bare\n\nx",
		"bare CR":         "From: a@example.com\r\nSubject: a\rBcc: victim@example.net\r\n\r\nx",
		"8 bit":           "Subject: gr\xfc\xdfe\r\nX: \x00\r\n\r\n",
		"UTF-8":           "Subject: grüße\r\n\r\n",
		"long line":       "Subject: " + strings.Repeat("a", 5000) + "\r\n\r\n",
		"huge":            strings.Repeat("X-Field: "+strings.Repeat("ü", 400)+"\r\n", 500) + "\r\n",
		"a boundary":      "X: 1\r\n--=_dsn_0123456789--: 2\r\nSubject: --=_dsn_0123456789--\r\n\r\n",
		"encoded newline": "Subject: =?utf-8?q?a=0D=0ABcc:_victim=40example.net=E2=80=A8b?=\r\nMessage-ID: <a@b>\r\n c\r\n\r\n",
		"message id":      "Message-ID: <" + strings.Repeat("ü", 20) + "@example.com>\r\n\r\n",
		"unterminated":    "Subject: a",
	} {
		t.Run(name, func(t *testing.T) {
			m := original(raw)
			m.Envelope.EnvID = evil
			one := failed("nobody@example.net", chain.Fate{Kind: chain.Rejected, Host: evil, Reply: &mail.Reply{Code: 550, Enhanced: evil, Text: evil + strings.Repeat("y", 3000) + strings.Repeat("ü ", 3000)}})
			one.to.ORcpt = "rfc822;" + evil
			two := failed("grüße@example.net", chain.Fate{Kind: chain.Rejected, Reply: &mail.Reply{Code: 550, Enhanced: "5.1.10", Text: "no"}})
			two.to.ORcpt = "utf-8;grüße@example.net"
			out := report("relay.example.com", mail.Address{}, "0123456789", m, []failure{one, two}, reportedAt)
			for i, b := range out {
				if b > '~' {
					t.Fatalf("byte %#x at %d", b, i)
				}
			}
			if bytes.Contains(out, []byte("\nBcc:")) && name != "bare CR" {
				t.Error("a field was put in")
			}
			_, status, _ := parse(t, out)
			if len(status) != 3 || len(status[1]) > 8 || status[1].Get("Status") != "5.0.0" {
				t.Errorf("status: %v", status)
			}
			if got := status[2].Get("Final-Recipient"); got != `utf-8; gr\x{FC}\x{DF}e@example.net` {
				t.Errorf("final recipient %q", got)
			}
		})
	}
}

func TestReportOfMany(t *testing.T) {
	var all []failure
	for i := range batch {
		f := failed(fmt.Sprintf("%s%d@%s.example.net", strings.Repeat("x", 60), i, strings.Repeat("y", 60)), chain.Fate{Kind: chain.Rejected,
			Reply: &mail.Reply{Code: 550, Text: strings.Repeat("ü", textLimit)}, Host: strings.Repeat("z", 1000)})
		f.to.ORcpt = "rfc822;" + strings.Repeat("ü", 240)
		all = append(all, f)
	}
	m := original(strings.Repeat("X-Field: "+strings.Repeat("ü", 400)+"\r\n", 500) + "\r\n")
	if _, status, _ := parse(t, report("relay.example.com", sender, "1", m, all, reportedAt)); len(status) != batch+1 {
		t.Errorf("%d are told, want %d", len(status)-1, batch)
	}
}

// A sender with an address of more than seven bits can be told only by SMTPUTF8.
func TestReportToUTF8Sender(t *testing.T) {
	m := original("Subject: a\r\n\r\n")
	m.Envelope.ReversePath = mail.Address{Local: "grüße", Domain: "example.com"}
	in(t, func(t *testing.T) {
		h := newHouse(t, settings())
		a, content := h.d.dsn(m, []failure{failed("a@example.net", chain.Fate{Kind: chain.Rejected})})
		defer content.Release()
		if !a.Envelope.SMTPUTF8 || !a.Envelope.EightBitMIME {
			t.Errorf("%+v", a.Envelope)
		}
		if b, _ := mail.ReadAll(content); !bytes.Contains(b, []byte("To: <grüße@example.com>\r\n")) {
			t.Errorf("%s", b)
		}
		h.finish()
	})
}
