package signer

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestKeysRoundTrip(t *testing.T) {
	for _, kind := range []Kind{RSA, Ed25519} {
		k, err := NewKey(kind)
		if err != nil {
			t.Fatal(err)
		}
		file, err := k.PEM()
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseKey(append([]byte("a comment\n"), file...))
		if err != nil {
			t.Fatal(err)
		}
		a, err := k.Record("example.com", "s1")
		if err != nil {
			t.Fatal(err)
		}
		b, err := back.Record("Example.COM", "s1")
		if err != nil || a != b || back.Kind() != kind {
			t.Errorf("%s: %v is not %v (%v)", kind, b, a, err)
		}
	}
	if _, err := NewKey("dsa"); err == nil {
		t.Error("made a key of a kind that is none")
	}
}

func TestParseKeyRefuses(t *testing.T) {
	short := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: []byte("x")})
	for name, c := range map[string]struct {
		file, want string
	}{
		"nothing":     {"", "no private key"},
		"public":      {"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no private key"},
		"encrypted":   {"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "passphrase"},
		"encrypted 1": {"-----BEGIN RSA PRIVATE KEY-----\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n", "passphrase"},
		"garbage":     {string(short), "PKCS#1"},
		"garbage 8":   {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "PKCS#8"},
	} {
		if _, err := ParseKey([]byte(c.file)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func TestRecord(t *testing.T) {
	k, err := NewKey(RSA)
	if err != nil {
		t.Fatal(err)
	}
	r, err := k.Record("bücher.example", "s1")
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != "s1._domainkey.xn--bcher-kva.example" || !strings.HasPrefix(r.Text, "v=DKIM1; k=rsa; p=MII") {
		t.Errorf("%+v", r)
	}
	parts := r.Strings()
	if len(parts) != 2 || strings.Join(parts, "") != r.Text {
		t.Errorf("split into %q", parts)
	}
	for _, p := range parts {
		if len(p) > 255 {
			t.Errorf("a string of %d octets", len(p))
		}
	}
	zone := r.String()
	if !strings.HasPrefix(zone, r.Name+". IN TXT (\n") || strings.Count(zone, `"`) != 4 {
		t.Errorf("%s", zone)
	}
	for _, bad := range []string{"", "a b", "a..b", "../x", "-a", "a\n"} {
		if _, err := k.Record(bad, "s1"); err == nil {
			t.Errorf("domain %q was taken", bad)
		}
		if _, err := k.Record("example.com", bad); err == nil {
			t.Errorf("selector %q was taken", bad)
		}
	}
}

func TestWriteKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	files, err := WriteKeys(dir, "Example.com", "s1")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 || files[0].Selector != "s1-rsa" || files[1].Selector != "s1-ed25519" {
		t.Fatalf("%+v", files)
	}
	for _, f := range files {
		info, err := os.Stat(f.File)
		if err != nil || info.Mode().Perm() != 0o600 || f.File != filepath.Join(dir, "example.com", f.Selector+".pem") {
			t.Errorf("%s: %v (%v)", f.File, info.Mode(), err)
		}
		text, err := os.ReadFile(f.RecordFile)
		if err != nil || !strings.Contains(string(text), f.Record.Text) || !strings.Contains(string(text), f.Record.String()) {
			t.Errorf("%s: %q (%v)", f.RecordFile, text, err)
		}
	}
	before, err := os.ReadFile(files[0].File)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := WriteKeys(dir, "example.com", "s1"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v", err)
	}
	if _, err := WriteKeys(dir, "example.com", "s1-rsa", RSA); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v", err)
	}
	if after, _ := os.ReadFile(files[0].File); !bytes.Equal(before, after) {
		t.Error("a key was overwritten")
	}
	if one, err := WriteKeys(dir, "example.com", "s2", Ed25519); err != nil || len(one) != 1 || one[0].Selector != "s2" {
		t.Errorf("%+v (%v)", one, err)
	}
	for _, bad := range []string{"../evil", "a/b", ""} {
		if _, err := WriteKeys(dir, bad, "s"); err == nil {
			t.Errorf("domain %q was taken", bad)
		}
		if _, err := WriteKeys(dir, "example.com", bad, RSA); err == nil {
			t.Errorf("selector %q was taken", bad)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*", ".new-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestCreate(t *testing.T) {
	for config, domain := range map[string]string{
		"create: true\n": "relay.example.com",
		"create: true\ndomains: {example.org: {}}\nmust_sign: [example.org]\n": "example.org",
	} {
		s := settings(t)
		var made string
		for range 2 {
			st := build(t, s, config)
			text, _ := process(t, st, message("From: a@"+domain+"\r\n\r\nx\r\n"))
			mustVerify(t, text, 2, lookup(t, filepath.Join(s.DataDir, "keys")))
			if made != "" && made != text {
				t.Error("the second start made another key")
			}
			made = text
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for config, want := range map[string]string{
		"must_sign: [example.org]\n":                      "example.org has no key",
		"domains: {example.org: {}}\n":                    "example.org has no key",
		"domains: {'a b': {}}\n":                          `"a b" is not a domain`,
		"domains: {A.example: {}, a.example: {}}\n":       "the same domain",
		"must_sign: ['*']\n":                              "is not a domain",
		"domains: {a.example: {keys: [{selector: s}]}}\n": "no key_file",
		"domains: {a.example: {keys: [{key_file: x}]}}\n": "is not a selector",
		"domains: {a.example: {keys: [{selector: s, key_file: x}, {selector: S, key_file: y}]}}\n": "stands twice",
		"domains: {a.example: {keys: [{selector: s, key_file: missing.pem}]}}\n":                   "missing.pem",
		"domains: {a.example: {keys: [{selector: s, key_file: broken.pem}]}}\n":                    "broken.pem: holds no private key",
		"bogus: 1\n": "unknown field",
	} {
		s := settings(t)
		s.ConfigDir = t.TempDir()
		if err := os.WriteFile(filepath.Join(s.ConfigDir, "broken.pem"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tryBuild(s, config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", config, err, want)
		}
	}
}

func TestNamedKeysGoBeforeTheDirectory(t *testing.T) {
	config := keysInTestdata + "domains: {example.com: {keys: [{selector: s1-ed25519, key_file: keys/example.com/s1-ed25519.pem}]}}\n"
	text, _ := process(t, build(t, settings(t), config), message(simple))
	mustVerify(t, text, 1, lookup(t, "testdata/keys"))
}

// clock is a clock that a test sets.
type clock struct{ now time.Time }

func TestReload(t *testing.T) {
	s := settings(t)
	var log bytes.Buffer
	s.Logger = slog.New(slog.NewTextHandler(&log, nil))
	c := &clock{noon}
	s.Now = func() time.Time { return c.now }
	dir := filepath.Join(s.DataDir, "keys")
	write := func(domain, selector string) KeyFile {
		t.Helper()
		files, err := WriteKeys(dir, domain, selector, Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		return files[0]
	}
	first := write("example.com", "s1")
	st := build(t, s, "must_sign: [example.com]\n")
	sign := func(domain string) string {
		t.Helper()
		c.now = c.now.Add(lookEvery)
		text, _ := process(t, st, message("From: a@"+domain+"\r\n\r\nx\r\n"))
		return text
	}
	mustVerify(t, sign("example.com"), 1, lookup(t, dir))
	mustVerify(t, sign("example.org"), 0, lookup(t, dir))

	// A new domain is signed for; a new key of an old one as well.
	write("example.org", "s1")
	write("example.com", "s2")
	mustVerify(t, sign("example.org"), 1, lookup(t, dir))
	mustVerify(t, sign("example.com"), 2, lookup(t, dir))

	// A broken file changes nothing and says so, once.
	if err := os.WriteFile(first.File, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if n := strings.Count(sign("example.com"), "DKIM-Signature:"); n != 2 {
			t.Errorf("%d signatures after a key file broke", n)
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), first.File) {
		t.Errorf("the log has the broken key %d times: %s", n, log.String())
	}

	// Whole again, and the other one gone.
	if err := os.Remove(first.File); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, sign("example.com"), 1, lookup(t, dir))

	// The last one gone: what must be signed waits.
	if err := os.RemoveAll(filepath.Join(dir, "example.com")); err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(lookEvery)
	if _, err := st.Process(context.Background(), message(simple)); err == nil || !strings.Contains(err.Error(), "example.com") {
		t.Errorf("error %v", err)
	}
}

func TestReadableKeyIsWarnedOf(t *testing.T) {
	s := settings(t)
	var log bytes.Buffer
	s.Logger = slog.New(slog.NewTextHandler(&log, nil))
	files, err := WriteKeys(filepath.Join(s.DataDir, "keys"), "example.com", "s1", Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	build(t, s, "{}")
	if log.Len() > 0 {
		t.Errorf("warned without reason: %s", log.String())
	}
	if err := os.Chmod(files[0].File, 0o644); err != nil {
		t.Fatal(err)
	}
	build(t, s, "{}")
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), files[0].File) {
		t.Errorf("no warning: %s", log.String())
	}
}

func TestTooManyKeys(t *testing.T) {
	s := settings(t)
	for _, selector := range []string{"a", "b", "c", "d", "e"} {
		if _, err := WriteKeys(filepath.Join(s.DataDir, "keys"), "example.com", selector, Ed25519); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tryBuild(s, "{}"); err == nil || !strings.Contains(err.Error(), "5 keys") {
		t.Errorf("error %v", err)
	}
}
