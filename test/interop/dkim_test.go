//go:build interop

package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

const dkimBody = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
stages:
  footer: {type: disclaimer, config: {text: "Example Ltd, registered in Exampleton.", html: "<p>Example Ltd, registered in Exampleton.</p>"}}
  signer: {config: {must_sign: [example.com]}}
chains:
  - {name: inbound, match: {direction: [inbound, internal]}, stages: [], deliver: provider}
  - {name: outbound, match: {direction: outbound}, stages: [footer, signer], deliver: provider}
routes:
  provider: ROUTE
`

// dkimpy verifies every signature of the message on its standard input; the arguments are name=record, what the DNS
// would say. It prints one line for each signature.
const dkimpy = `
import dkim, re, sys
records = dict(a.encode().split(b"=", 1) for a in sys.argv[1:])
def txt(name, timeout=5):
    return records.get(name.rstrip(b"."))
raw = sys.stdin.buffer.read()
head = raw.split(b"\r\n\r\n", 1)[0]
for i in range(len(re.findall(br"(?im)^DKIM-Signature:", head))):
    d = dkim.DKIM(raw)
    try:
        good = d.verify(idx=i, dnsfunc=txt)
    except dkim.DKIMException as e:
        good = e
    fields = d.signature_fields or {}
    print(fields.get(b"a", b"?").decode(), "good" if good is True else "bad: %s" % good)
`

var (
	quoted        = regexp.MustCompile(`"([^"]*)"`)
	signature     = regexp.MustCompile(`(?mi)^DKIM-Signature:.*\r\n(?:[ \t].*\r\n)*`)
	algorithm     = regexp.MustCompile(`\ba=([a-z0-9-]+)`)
	theAlgorithms = []string{"ed25519-sha256", "rsa-sha256"}
)

// records are what the DNS would have for the keys of example.com, by name.
func records(r *rig.Rig) map[string]string {
	r.T.Helper()
	files, err := filepath.Glob(r.Path("data", "keys", "example.com", "*.txt"))
	if err != nil || len(files) != len(theAlgorithms) {
		r.T.Fatalf("records: %v, %v", files, err)
	}
	out := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			r.T.Fatal(err)
		}
		var record strings.Builder
		for _, part := range quoted.FindAllSubmatch(b, -1) {
			record.Write(part[1])
		}
		out[strings.TrimSuffix(filepath.Base(f), ".txt")+"._domainkey.example.com"] = record.String()
	}
	return out
}

// byDkimpy gives the algorithms of the signatures that dkimpy finds good, and what it says.
func byDkimpy(r *rig.Rig, raw string) (good []string, said string) {
	r.T.Helper()
	args := []string{"-c", dkimpy}
	for name, record := range records(r) {
		args = append(args, name+"="+record)
	}
	said = run(r.T, raw, "/usr/bin/python3", args...)
	for line := range strings.Lines(said) {
		if a, ok := strings.CutSuffix(strings.TrimSpace(line), " good"); ok {
			good = append(good, a)
		}
	}
	return good, said
}

// byOpenDKIM is byDkimpy with opendkim, which is shown one signature at a time: it is content with the first good one.
func byOpenDKIM(r *rig.Rig, raw string) (good []string, said string) {
	r.T.Helper()
	var dns strings.Builder
	for name, record := range records(r) {
		fmt.Fprintf(&dns, "%s %s\n", name, record)
	}
	conf := r.WriteFile("opendkim/opendkim.conf", "Mode v\nOn-Default accept\nTestDNSData file:"+r.WriteFile("opendkim/dns", dns.String())+"\n")
	all := signature.FindAllString(raw, -1)
	for i, keep := range all {
		one := raw
		for j, other := range all {
			if j != i {
				one = strings.Replace(one, other, "", 1)
			}
		}
		out, err := try(r.T, "", "opendkim", "-x", conf, "-t", r.WriteFile("opendkim/message.eml", one))
		if err == nil && strings.Contains(out, "verification") && strings.Contains(out, "succeeded") {
			good = append(good, algorithm.FindStringSubmatch(keep)[1])
		}
		said += out
	}
	return good, said
}

func TestDKIM(t *testing.T) {
	t.Parallel()
	need(t, "opendkim", "/usr/bin/python3")
	r := rig.New(t, rig.Up)
	sink := r.NewSink("smarthost")
	if _, err := signer.WriteKeys(r.Path("data", "keys"), "example.com", "test"); err != nil {
		t.Fatal(err)
	}
	r.Configure(strings.Replace(dkimBody, "ROUTE", sink.Route(), 1))
	r.Start()
	verifiers := map[string]func(*rig.Rig, string) ([]string, string){"dkimpy": byDkimpy, "opendkim": byOpenDKIM}
	for _, c := range []struct{ name, raw string }{
		{"text", plain("text", text)},
		{"attachment", withAttachment("attachment", "noise.bin", noise(300<<10))},
		{"empty body", header("empty body") + "\r\n"},
		{"only empty lines", header("only empty lines") + "\r\n\r\n\r\n\r\n"},
		{"white space in the header", "From:Alice  <alice@example.com>\r\nTo: bob@example.net,\r\n\t carol@example.org\r\nSubject:  folded \t\r\n   and  spaced \r\nDate: Tue, 03 Feb 2026 04:05:06 +0000\r\n\r\nHello.\r\n"},
		{"several of a field", header("several of a field") + "Cc: a@example.net\r\nCc: b@example.net\r\nReply-To: c@example.net\r\n\r\nHello.\r\n"},
	} {
		r.Run(c.name, func(t *testing.T) {
			raw := string(sink.Wait(r.MustSend("alice@example.com", []string{"bob@example.net"}, c.raw), 15*time.Second).Raw)
			for name, verify := range verifiers {
				if good, said := verify(r, raw); !sameWords(good, theAlgorithms) {
					t.Errorf("%s: good are %v, it says:\n%s", name, good, said)
				}
				at := len(raw) - 3 // the last letter of the text
				if strings.TrimSpace(textOf([]byte(raw))) == "" {
					at = strings.Index(raw, "alice@")
				}
				flipped := raw[:at] + string(raw[at]^1) + raw[at+1:]
				if good, said := verify(r, flipped); len(good) != 0 {
					t.Errorf("%s: with one bit flipped, good are %v, it says:\n%s", name, good, said)
				}
				for _, added := range []string{"Subject: another\r\n", "From: Mallory <mallory@example.org>\r\n"} {
					if good, said := verify(r, added+raw); len(good) != 0 {
						t.Errorf("%s: with one more %q, good are %v, it says:\n%s", name, added, good, said)
					}
				}
			}
		})
	}
}

func sameWords(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	seen := map[string]bool{}
	for _, w := range a {
		seen[w] = true
	}
	for _, w := range b {
		if !seen[w] {
			return false
		}
	}
	return true
}
