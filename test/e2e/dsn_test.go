package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	netmail "net/mail"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

const refusal = "no mailbox of that name, says the other side (code 4711)"

func TestReport(t *testing.T) {
	t.Parallel()
	r, sink := install(t, rig.Up)
	sink.Refuse("carol@example.org", 550, refusal)
	r.Start()
	id := r.MustSend("alice@example.com", []string{"bob@example.net", "carol@example.org", "dave@example.net"}, threeParts)
	if d := sink.Wait(id, 20*time.Second); strings.Join(d.To, " ") != "bob@example.net dave@example.net" {
		t.Errorf("delivered to %v", d.To)
	}
	r.Eventually("the report arrives", 20*time.Second, func() bool { return len(inbox(r, "inbox")) > 0 })

	// None of these may cause another one.
	c := dialFrom(t, "127.0.0.1", r.SMTP())
	expect(t, c, "MAIL FROM:<>", "250")
	expect(t, c, "RCPT TO:<carol@example.org>", "250")
	null := transfer(t, c, plain("null sender"))
	expect(t, c, "MAIL FROM:<alice@example.com>", "250")
	expect(t, c, "RCPT TO:<carol@example.org> NOTIFY=NEVER", "250")
	never := transfer(t, c, plain("never"))
	for id, rule := range map[string]string{null: "null-sender", never: "notify-never"} {
		r.Eventually("the refusal under the rule "+rule, 20*time.Second, func() bool {
			return logged(r, "up", "id="+id, "fate=rejected", "to=<carol@example.org>")
		})
	}
	r.MustSend("alice@example.com", []string{"carol@example.org"}, plain("once more")) // its report comes after any of theirs
	r.Eventually("the report on the last message", 20*time.Second, func() bool { return len(inbox(r, "inbox")) > 1 })
	if w := r.InRoom(""); len(w) != 0 {
		t.Errorf("something waits: %v", w)
	}
	var about []byte
	for _, raw := range inbox(r, "inbox") {
		switch {
		case bytes.Contains(raw, []byte("Subject: three parts")):
			about = raw
		case !bytes.Contains(raw, []byte("Subject: once more")):
			t.Errorf("a report that nobody should get:\n%s", raw)
		}
	}
	if got := inbox(r, "inbox"); len(got) != 2 || about == nil {
		t.Fatalf("%d reports, want one and one", len(got))
	}
	checkReport(t, about)
	if got := sink.Find(id); len(got) != 1 {
		t.Errorf("%d copies at the smarthost", len(got))
	}
}

// checkReport reads the report as RFC 3462 and RFC 3464 have it.
func checkReport(t *testing.T, raw []byte) {
	m, err := netmail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("%v in\n%s", err, raw)
	}
	for name, want := range map[string]string{"Return-Path": "<>", "To": "<alice@example.com>", "Auto-Submitted": "auto-replied", "In-Reply-To": "<three@example.com>", "Mime-Version": "1.0"} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	typ, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("Content-Type: %s %v %v", typ, params, err)
	}
	var types []string
	var bodies [][]byte
	for parts := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		typ, _, err := mime.ParseMediaType(p.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		types, bodies = append(types, typ), append(bodies, b)
	}
	if strings.Join(types, " ") != "text/plain message/delivery-status text/rfc822-headers" {
		t.Fatalf("parts: %v", types)
	}
	for _, words := range []string{"carol@example.org", refusal, "three parts"} {
		if !strings.Contains(string(bodies[0]), words) {
			t.Errorf("the text does not say %q:\n%s", words, bodies[0])
		}
	}
	status := textproto.NewReader(bufio.NewReader(bytes.NewReader(bodies[1])))
	message, err := status.ReadMIMEHeader()
	if err != nil || message.Get("Reporting-Mta") != "dns; relay.example.com" || message.Get("Arrival-Date") == "" {
		t.Errorf("the fields of the message: %v %v", message, err)
	}
	recipient, err := status.ReadMIMEHeader()
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Final-Recipient": "rfc822; carol@example.org", "Action": "failed", "Status": "5.1.1"} {
		if got := recipient.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := recipient.Get("Diagnostic-Code"); !strings.HasPrefix(got, "smtp; 550") || !strings.HasSuffix(got, refusal) {
		t.Errorf("Diagnostic-Code: %q", got)
	}
	if more, err := status.ReadMIMEHeader(); len(more) > 0 || !errors.Is(err, io.EOF) {
		t.Errorf("another recipient is reported: %v %v", more, err)
	}
	returned := string(bodies[2])
	for _, line := range []string{"Subject: three parts", "From: Alice <alice@example.com>", "Message-ID: <three@example.com>"} {
		if !strings.Contains(returned, line+"\r\n") {
			t.Errorf("the original header lacks %q:\n%s", line, returned)
		}
	}
	if strings.Contains(returned, "Good morning.") {
		t.Error("the body came back")
	}
}

// A stranger hears nothing, for the sender may be forged: a person has to look.
func TestStrangersMailRefused(t *testing.T) {
	t.Parallel()
	r, sink := install(t, rig.Up)
	sink.Refuse("alice@example.com", 550, refusal)
	configure(r, sink, "127.0.0.0/8", "127.0.0.2/32", "deliver: inbox", "deliver: provider")
	r.Start()
	c := dialFrom(t, "127.0.0.3", r.SMTP())
	expect(t, c, "MAIL FROM:<mallory@example.net>", "250")
	expect(t, c, "RCPT TO:<alice@example.com>", "250")
	id := transfer(t, c, plain("from outside"))
	r.Eventually("it is held for a person", 20*time.Second, func() bool {
		w := waitingIn(r, "dead", id)
		return w != nil && w.GetGroups()[0].GetLast().GetReply().GetCode() == 550
	})
	if n := len(r.InRoom("")); n != 1 {
		t.Errorf("%d messages wait, want the one", n)
	}
	if got := sink.Deliveries(); len(got) != 0 {
		t.Errorf("mail went out: %+v", got)
	}
}
