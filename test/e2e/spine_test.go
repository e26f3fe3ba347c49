// Package e2e runs whole installations: real processes, a smarthost that demands TLS and AUTH.
package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/stagecoachmail/stagecoach/services/archive"
	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

func TestMain(m *testing.M) {
	code := m.Run()
	rig.Cleanup()
	os.Exit(code)
}

// body is the configuration of most tests; {{...}} are addresses, ROUTE is the sink's.
const body = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
stages:
  antivirus: {address: "{{antivirus}}", timeout: 20s, config: {}}
  footer:
    type: disclaimer
    address: "{{disclaimer}}"
    config: {text: "Example Ltd, registered in Exampleton.", html: "<p>Example Ltd, registered in Exampleton.</p>"}
  archive: {address: "{{archive}}", config: {}}
  signer: {address: "{{signer}}", config: {must_sign: [example.com]}}
chains:
  - name: inbound
    match: {direction: [inbound, internal]}
    stages: [antivirus]
    deliver: inbox
  - name: outbound
    match: {direction: outbound}
    stages: [antivirus, footer, archive, signer]
    deliver: provider
routes:
  provider: ROUTE
  inbox: {maildir: {path: inbox}}
`

func install(t *testing.T, mode rig.Mode) (*rig.Rig, *rig.Sink) {
	t.Helper()
	r := rig.New(t, mode)
	return r, prepare(t, r)
}

// prepare gives an installation what body needs.
func prepare(t *testing.T, r *rig.Rig) *rig.Sink {
	t.Helper()
	sink := r.NewSink("smarthost")
	if _, err := signer.WriteKeys(r.Path("data", "keys"), "example.com", "test"); err != nil {
		t.Fatal(err)
	}
	r.Configure(strings.Replace(body, "ROUTE", sink.Route(), 1))
	return sink
}

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

var threeParts = crlf(`From: Alice <alice@example.com>
To: Bob <bob@example.net>
Subject: three parts
Date: Tue, 03 Feb 2026 04:05:06 +0000
Message-ID: <three@example.com>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="mix"

--mix
Content-Type: multipart/alternative; boundary="alt"

--alt
Content-Type: text/plain; charset=utf-8

Good morning.
--alt
Content-Type: text/html; charset=utf-8

<html><body><p>Good morning.</p></body></html>
--alt--
--mix
Content-Type: application/octet-stream; name="data.bin"
Content-Disposition: attachment; filename="data.bin"
Content-Transfer-Encoding: base64

AAECAwQFBgcICQ==
--mix--
`)

// eicar is the standard test signature, put together so that this file is not one.
func eicar() string {
	sig := `X5O!P%@AP[4\PZX54(P^)7CC)7}$` + `EICAR-STANDARD-` + `ANTIVIRUS-TEST-FILE!$H+H*`
	return crlf("From: Alice <alice@example.com>\nTo: bob@example.net\nSubject: infected\nDate: Tue, 03 Feb 2026 04:05:06 +0000\n\n" + sig + "\n")
}

func TestSpine(t *testing.T) {
	for _, mode := range rig.Modes() {
		t.Run(string(mode), func(t *testing.T) {
			r, sink := install(t, mode)
			r.Start()
			id := r.MustSend("alice@example.com", []string{"bob@example.net", "carol@example.org"}, threeParts)
			infected := r.MustSend("alice@example.com", []string{"bob@example.net"}, eicar())
			d := sink.Wait(id, 20*time.Second)
			t.Run("arrived", func(t *testing.T) { checkArrived(t, d) })
			t.Run("unchanged", func(t *testing.T) { checkUnchanged(t, d.Raw) })
			t.Run("signed", func(t *testing.T) { checkSigned(t, r, d.Raw) })
			t.Run("archived", func(t *testing.T) { checkArchived(t, r, id) })
			t.Run("quarantined", func(t *testing.T) {
				r.Eventually("EICAR is in quarantine", 10*time.Second, func() bool {
					w := r.InRoom("quarantine")
					return len(w) == 1 && w[0].GetId() == infected && w[0].GetGroups()[0].GetLast().GetAbout() == "antivirus"
				})
				if found := sink.Find(infected); len(found) > 0 {
					t.Fatal("EICAR reached the smarthost")
				}
			})
		})
	}
}

func checkArrived(t *testing.T, d rig.Delivery) {
	if d.From != "alice@example.com" || strings.Join(d.To, " ") != "bob@example.net carol@example.org" {
		t.Errorf("envelope: %s -> %v", d.From, d.To)
	}
	if n := bytes.Count(d.Raw, []byte("Example Ltd, registered in Exampleton.")); n != 2 {
		t.Errorf("the disclaimer stands %d times, not in both parts", n)
	}
	if !bytes.Contains(d.Raw, []byte("by relay.example.com (Stagecoach)")) {
		t.Error("no Received field of ours")
	}
}

// checkUnchanged takes out what the chain was configured to add; the rest must be what was sent, byte for byte.
func checkUnchanged(t *testing.T, raw []byte) {
	start := bytes.Index(raw, []byte("From: Alice"))
	if start < 0 {
		t.Fatalf("the message's own header is gone:\n%s", raw)
	}
	for line := range strings.SplitSeq(strings.TrimRight(string(raw[:start]), "\r\n"), "\r\n") {
		if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") || strings.HasPrefix(line, "Received: ") || strings.HasPrefix(line, "DKIM-Signature: ") {
			continue
		}
		t.Errorf("a line that nobody asked for: %q", line)
	}
	rest := string(raw[start:])
	for _, added := range []string{"\r\n\r\nExample Ltd, registered in Exampleton.", "\r\n<p>Example Ltd, registered in Exampleton.</p>\r\n"} {
		if strings.Count(rest, added) != 1 {
			t.Fatalf("%q stands %d times in\n%s", added, strings.Count(rest, added), rest)
		}
		rest = strings.Replace(rest, added, "", 1)
	}
	if rest != threeParts {
		t.Errorf("other bytes have changed:\n%q\nwant\n%q", rest, threeParts)
	}
}

var quoted = regexp.MustCompile(`"([^"]*)"`)

// verifySigned counts the signatures that verify, and says what is wrong with the others.
func verifySigned(t *testing.T, r *rig.Rig, raw []byte) (good int, why string) {
	t.Helper()
	lookup := func(name string) ([]string, error) {
		selector := strings.SplitN(name, ".", 2)[0]
		record, err := os.ReadFile(r.Path("data", "keys", "example.com", selector+".txt"))
		var key string
		for _, part := range quoted.FindAllSubmatch(record, -1) {
			key += string(part[1])
		}
		return []string{key}, err
	}
	vs, err := dkim.VerifyWithOptions(bytes.NewReader(raw), &dkim.VerifyOptions{LookupTXT: lookup})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vs {
		if v.Err == nil && v.Domain == "example.com" {
			good++
		} else {
			why += v.Err.Error() + "; "
		}
	}
	return good, why
}

func checkSigned(t *testing.T, r *rig.Rig, raw []byte) {
	verify := func(raw []byte) (int, string) { return verifySigned(t, r, raw) }
	if good, why := verify(raw); good != 2 {
		t.Errorf("%d signatures verify, want 2: %s", good, why)
	}
	flipped := bytes.Replace(raw, []byte("AAECAwQFBgcICQ=="), []byte("AAECAwQFBgcICR=="), 1)
	if good, _ := verify(flipped); good != 0 {
		t.Errorf("%d signatures verify a message with one flipped byte", good)
	}
}

func checkArchived(t *testing.T, r *rig.Rig, id string) {
	a, err := archive.Open(r.Path("data", "archive"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Get(id)
	if err != nil {
		all, _ := filepath.Glob(r.Path("data", "archive", "*", "*", "*", "*", "*", "*"))
		t.Fatalf("%v; there is: %v", err, all)
	}
	if len(got.Versions) != 1 || len(got.Damaged) != 0 {
		t.Fatalf("archived: %+v", got)
	}
	if e := got.Versions[0].Envelope; e.ReversePath.String() != "alice@example.com" || len(e.Recipients) != 2 || e.Recipients[1].Address.String() != "carol@example.org" {
		t.Errorf("the archived envelope: %+v", e)
	}
}
