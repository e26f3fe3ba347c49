package signer

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/goccy/go-yaml"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// settings are those of a test: the configuration is in testdata, the clock stands still.
func settings(t testing.TB) stage.Settings {
	t.Helper()
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return stage.Settings{
		Instance: "signer", Hostname: "relay.example.com", Logger: slog.New(slog.DiscardHandler),
		ConfigDir: dir, DataDir: t.TempDir(), TempDir: t.TempDir(), Now: func() time.Time { return noon },
	}
}

func build(t testing.TB, s stage.Settings, config string) stage.Stage {
	t.Helper()
	st, err := tryBuild(s, config)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func tryBuild(s stage.Settings, config string) (stage.Stage, error) {
	c, err := Factory().Decode(func(into any) error {
		return yaml.UnmarshalWithOptions([]byte(config), into, yaml.Strict())
	})
	if err != nil {
		return nil, err
	}
	return Factory().New(s, c)
}

func message(text string) *mail.Message {
	return &mail.Message{
		ID: "test", Attempt: 1, Received: noon.Add(-time.Minute),
		Envelope: mail.Envelope{
			ReversePath: mail.Address{Local: "anna", Domain: "example.com"},
			Recipients:  []mail.Recipient{{ID: "1", Address: mail.Address{Local: "bob", Domain: "example.net"}}},
			Origin:      mail.Origin{Direction: mail.Outbound, Relay: "staff"},
		},
		Pending: []mail.RecipientID{"1"},
		Content: mail.FromBytes([]byte(text)),
	}
}

// process runs the stage, which must continue, and gives the message after its edits.
func process(t testing.TB, st stage.Stage, m *mail.Message) (string, stage.Result) {
	t.Helper()
	r, err := st.Process(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict.Kind != stage.KindContinue {
		t.Fatalf("verdict %v: %v", r.Verdict.Kind, r.Verdict.Reply)
	}
	c, err := mail.Apply(m.Content, r.Edits.Splices)
	if err != nil {
		t.Fatal(err)
	}
	b, err := mail.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), r
}

// lookup answers for the keys in dir, as a DNS would.
func lookup(t testing.TB, dir string) func(string) ([]string, error) {
	t.Helper()
	r := &keyring{keyDir: dir, log: slog.New(slog.DiscardHandler), now: func() time.Time { return noon }}
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	records := map[string][]string{}
	for _, keys := range *r.keys.Load() {
		for _, k := range keys {
			record, err := k.key.Record(k.domain, k.selector)
			if err != nil {
				t.Fatal(err)
			}
			records[record.Name] = []string{strings.Join(record.Strings(), "")}
		}
	}
	return func(name string) ([]string, error) {
		if txt, ok := records[name]; ok {
			return txt, nil
		}
		return nil, errors.New("no such name: " + name)
	}
}

// verify gives the result of each signature, the uppermost first.
func verify(t testing.TB, text string, txt func(string) ([]string, error)) []*dkim.Verification {
	t.Helper()
	if !strings.Contains(text, "\r\n\r\n") {
		text += "\r\n" // the verifier wants the empty line that a message without a body need not have
	}
	got, err := dkim.VerifyWithOptions(strings.NewReader(text), &dkim.VerifyOptions{LookupTXT: txt, MaxVerifications: 20})
	if err != nil {
		t.Fatalf("verify: %v\n%s", err, text)
	}
	return got
}

func mustVerify(t testing.TB, text string, n int, txt func(string) ([]string, error)) {
	t.Helper()
	got := verify(t, text, txt)
	if len(got) != n {
		t.Fatalf("%d signatures, not %d\n%s", len(got), n, text)
	}
	for i, v := range got {
		if v.Err != nil {
			t.Fatalf("signature %d of %s: %v\n%s", i, v.Domain, v.Err, text)
		}
	}
}

const keysInTestdata = "key_dir: keys\n"

const simple = "From: Anna <anna@example.com>\r\nTo: bob@example.net\r\nSubject: Hello\r\n there\r\n" +
	"Date: Sun, 22 Nov 2026 11:59:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\nHi Bob,\r\n\r\n  this  is it. \r\n\r\n\r\n"

func TestBothSignaturesVerifyAfterTransport(t *testing.T) {
	st := build(t, settings(t), keysInTestdata)
	txt := lookup(t, "testdata/keys")
	text, r := process(t, st, message(simple))
	if !strings.HasSuffix(text, simple) {
		t.Fatal("the message itself was changed")
	}
	if len(r.Edits.Splices) != 2 {
		t.Fatalf("%d splices", len(r.Edits.Splices))
	}
	change := func(old, new string) func(string) string {
		return func(s string) string {
			if strings.Count(s, old) != 1 {
				t.Fatalf("%q stands %d times", old, strings.Count(s, old))
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	for name, on := range map[string]func(string) string{
		"unchanged":            func(s string) string { return s },
		"folded differently":   change("Subject: Hello\r\n there", "Subject:\r\n\tHello there  "),
		"name in upper case":   change("Message-ID:", "MESSAGE-ID:"),
		"trailing white space": change("Hi Bob,\r\n", "Hi Bob, \t\r\n"),
		"runs of white space":  change("  this  is it. ", " this\tis it."),
		"empty lines gone":     func(s string) string { return strings.TrimRight(s, "\r\n") + "\r\n" },
		"empty lines added":    func(s string) string { return s + "\r\n\r\n" },
		"trace fields added":   func(s string) string { return "Received: from a by b; now\r\nReturn-Path: <anna@example.com>\r\n" + s },
		"foreign fields added": func(s string) string { return "X-Spam: no\r\nReply-To: x@example.com\r\n" + s },
	} {
		t.Run("survives/"+name, func(t *testing.T) { mustVerify(t, on(text), 2, txt) })
	}
	for name, on := range map[string]func(string) string{
		"body":             change("Hi Bob", "Hi Rob"),
		"body added":       func(s string) string { return s + "more\r\n" },
		"body cut":         change("  this  is it. \r\n", ""),
		"subject":          change("Hello", "Hallo"),
		"from":             change("anna@example.com>\r\nTo", "anne@example.com>\r\nTo"),
		"from added":       func(s string) string { return "From: eve@example.org\r\n" + s },
		"to added":         func(s string) string { return "To: eve@example.org\r\n" + s },
		"subject added":    func(s string) string { return "Subject: Win\r\n" + s },
		"date added":       func(s string) string { return "Date: Mon, 23 Nov 2026 11:59:00 +0000\r\n" + s },
		"from added below": change("Message-ID:", "From: eve@example.org\r\nMessage-ID:"),
		"message-id":       change("<1@example.com>", "<2@example.com>"),
		"message-id gone":  change("Message-ID: <1@example.com>\r\n", ""),
	} {
		t.Run("breaks/"+name, func(t *testing.T) {
			got := verify(t, on(text), txt)
			if len(got) != 2 {
				t.Fatalf("%d signatures", len(got))
			}
			for _, v := range got {
				if v.Err == nil {
					t.Error("a signature is still valid")
				}
			}
		})
	}
}

// What is signed is fixed: RSA first, relaxed, no l=, the four fields once more than they are there.
func TestSignatureFields(t *testing.T) {
	text, _ := process(t, build(t, settings(t), keysInTestdata), message(simple))
	h := mail.FromBytes([]byte(text)).Header()
	fields := h.Find("DKIM-Signature")
	if len(fields) != 2 {
		t.Fatalf("%d signatures", len(fields))
	}
	for i, algorithm := range []string{"rsa-sha256", "ed25519-sha256"} {
		for line := range strings.SplitSeq(strings.TrimSuffix(string(fields[i].Raw), "\r\n"), "\r\n") {
			if len(line) > 78 {
				t.Errorf("a line of %d characters: %s", len(line), line)
			}
		}
		tags := map[string]string{}
		for tag := range strings.SplitSeq(fields[i].Value(), ";") {
			name, value, _ := strings.Cut(strings.TrimSpace(tag), "=")
			tags[name] = strings.Join(strings.Fields(value), "")
		}
		want := map[string]string{
			"v": "1", "a": algorithm, "c": "relaxed/relaxed", "d": "example.com", "t": "1795348740",
			"h": "From:From:To:To:Subject:Subject:Date:Date:Message-ID",
		}
		for name, value := range want {
			if tags[name] != value {
				t.Errorf("%s=%s, not %s", name, tags[name], value)
			}
		}
		for _, name := range []string{"l", "x", "i", "z"} {
			if _, ok := tags[name]; ok {
				t.Errorf("there is a tag %s=", name)
			}
		}
	}
}

func TestSigningAgain(t *testing.T) {
	st := build(t, settings(t), keysInTestdata)
	txt := lookup(t, "testdata/keys")
	first, _ := process(t, st, message(simple))
	again, _ := process(t, st, message(simple))
	if first != again {
		t.Error("the same message was signed differently when run again")
	}
	twice, _ := process(t, st, message(first))
	mustVerify(t, twice, 4, txt)
}

func TestTime(t *testing.T) {
	st := build(t, settings(t), keysInTestdata)
	for name, received := range map[string]time.Time{"unknown": {}, "to come": noon.Add(time.Hour)} {
		m := message(simple)
		m.Received = received
		text, _ := process(t, st, m)
		if !strings.Contains(text, " t=1795348800;") {
			t.Errorf("%s: not signed with the time of the clock\n%s", name, text)
		}
	}
}

func TestAuthors(t *testing.T) {
	for name, c := range map[string]struct {
		from, must, domains string
		fails               bool
	}{
		"no key":                      {from: "a@example.org"},
		"several, one with a key":     {from: "a@example.org, b@example.com", domains: "example.com"},
		"several, the first with key": {from: "b@example.com, c@example.edu", domains: "example.com"},
		"and one that must":           {from: "b@example.com, c@example.edu", must: "[example.edu]", domains: "example.com example.edu"},
		"upper case":                  {from: "b@EXAMPLE.com", must: "[Example.COM]", domains: "example.com"},
		"address as display name":     {from: `"b@example.com" <a@example.org>`},
		"address as comment":          {from: `a@example.org (b@example.com)`},
		"a subdomain is another":      {from: "a@sub.example.com"},
		"none":                        {from: "undisclosed:;"},
	} {
		t.Run(name, func(t *testing.T) {
			config := keysInTestdata
			if c.must != "" {
				config += "must_sign: " + c.must + "\n"
			}
			text, r := process(t, build(t, settings(t), config), message("From: "+c.from+"\r\n\r\nx\r\n"))
			want := strings.Fields(c.domains)
			mustVerify(t, text, 2*len(want), lookup(t, "testdata/keys"))
			for i, v := range verify(t, text, lookup(t, "testdata/keys")) {
				if v.Domain != want[i/2] {
					t.Errorf("signature %d is of %s, not %s", i, v.Domain, want[i/2])
				}
			}
			if len(r.Notes) == 0 {
				t.Error("no note for the trail")
			}
		})
	}
}

func TestUnsignable(t *testing.T) {
	st := build(t, settings(t), keysInTestdata)
	for name, c := range map[string]struct {
		text string
		want stage.Kind
	}{
		"several From fields":         {"From: a@example.com\r\nFrom: b@example.org\r\n\r\nx\r\n", stage.KindReject},
		"several From fields, no key": {"From: a@example.org\r\nFrom: b@example.org\r\n\r\nx\r\n", stage.KindContinue},
		"a line that is no field":     {"From: a@example.com\r\nwhat is this\r\nSubject: x\r\n\r\nx\r\n", stage.KindReject},
		"large header":                {"From: a@example.com\r\nX: " + strings.Repeat("a\r\n ", 100_000) + "a\r\n\r\nx\r\n", stage.KindReject},
		"many fields":                 {"From: a@example.com\r\n" + strings.Repeat("To: b@example.net\r\n", 1000) + "\r\nx\r\n", stage.KindReject},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := st.Process(context.Background(), message(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if r.Verdict.Kind != c.want || !r.Edits.Empty() {
				t.Fatalf("verdict %v, edits %v", r.Verdict.Kind, r.Edits)
			}
			if c.want == stage.KindReject && r.Verdict.Reply.Code/100 != 5 {
				t.Errorf("reply %v", r.Verdict.Reply)
			}
		})
	}
}

// What no signature can survive is our own fault: an error, so the message waits.
func TestBrokenContentIsAnError(t *testing.T) {
	st := build(t, settings(t), keysInTestdata)
	for name, body := range map[string]string{"LF": "a\nb\r\n", "CR": "a\rb\r\n", "CR at the end": "a\r", "CR CR LF": "a\r\r\nb", "LF first": "\na"} {
		if _, err := st.Process(context.Background(), message("From: a@example.com\r\n\r\n"+body)); err == nil {
			t.Errorf("bare %s was signed", name)
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := build(t, settings(t), keysInTestdata).Process(ctx, message(simple)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// badContent fails to read behind its header.
type badContent struct{ mail.Content }

var errBroken = errors.New("the disk is gone")

func (c badContent) ReadAt(p []byte, off int64) (int, error) {
	if off >= c.Header().Size {
		return 0, errBroken
	}
	return c.Content.ReadAt(p, off)
}

func TestReadErrorIsAnError(t *testing.T) {
	m := message(simple)
	m.Content = badContent{m.Content}
	if _, err := build(t, settings(t), keysInTestdata).Process(context.Background(), m); !errors.Is(err, errBroken) {
		t.Errorf("error %v", err)
	}
}

func FuzzSign(f *testing.F) {
	f.Add("Subject: x\r\n", " a \r\n\r\nb\t\r\n\r\n")
	f.Add("To: x\r\nTO : y\r\n", "")
	f.Add("X:\r\n \r\n", "\r\n")
	st := build(f, settings(f), keysInTestdata)
	txt := lookup(f, "testdata/keys")
	f.Fuzz(func(t *testing.T, fields, body string) {
		text := "From: a@example.com\r\n" + fields + "\r\n" + body
		r, err := st.Process(context.Background(), message(text))
		if err != nil || r.Edits.Empty() {
			return
		}
		h := mail.FromBytes([]byte(text)).Header()
		if h.End != mail.EndEmptyLine || strings.ContainsAny(strings.ReplaceAll(text[:h.Size], "\r\n", ""), "\r\n") {
			return // readers differ on where such a header ends
		}
		for _, field := range h.Fields {
			// The verifier trims all Unicode white space, RFC 6376 names two characters.
			if !isASCII(field.Raw) || bytes.ContainsAny(field.Raw, "\v\f") {
				return
			}
		}
		signed, _ := process(t, st, message(text))
		mustVerify(t, signed, 2+strings.Count(strings.ToLower(fields), "dkim-signature"), txt)
	})
}

func isASCII(b []byte) bool {
	return !bytes.ContainsFunc(b, func(r rune) bool { return r >= utf8.RuneSelf })
}

func TestStreamsLargeBodies(t *testing.T) {
	const size = 8 << 20
	for name, block := range map[string]string{"text": "A line of text in a large message, as they are.\r\n", "empty lines": "\r\n"} {
		t.Run(name, func(t *testing.T) {
			body := bytes.Repeat([]byte(block), size/len(block))
			got := testing.AllocsPerRun(1, func() {
				if _, err := hashBody(context.Background(), bytes.NewReader(body)); err != nil {
					t.Fatal(err)
				}
			})
			if got > 10 {
				t.Errorf("%v allocations for %d MB", got, size>>20)
			}
		})
	}
}

// Mail of a stranger can take a chain that signs: to a postmaster elsewhere, say. It must not leave with our name on it.
func TestStrangersMailIsNotSigned(t *testing.T) {
	s := settings(t)
	if _, err := WriteKeys(filepath.Join(s.DataDir, "keys"), "example.com", "s1"); err != nil {
		t.Fatal(err)
	}
	st := build(t, s, "must_sign: [example.com]")
	m := message("From: boss@example.com\r\nSubject: pay this\r\n\r\nnow\r\n")
	m.Envelope.Origin = mail.Origin{Direction: mail.Inbound}
	res, err := st.Process(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if !res.Edits.Empty() || res.Verdict.Kind != stage.KindContinue {
		t.Errorf("a stranger's mail got %+v", res)
	}
}
