package antivirus

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
	"github.com/stagecoachmail/stagecoach/stage/stagetest"
)

func settings(t testing.TB) stage.Settings {
	return stage.Settings{Logger: slog.New(slog.DiscardHandler), TempDir: t.TempDir(), Now: time.Now}
}

func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

// program is a file that begins as Windows programs do, and is none.
func program() []byte { return append([]byte("MZ\x90\x00\x03\x00\x00\x00"), make([]byte, 200)...) }

func uuencode(name string, data []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "begin 644 %s\n", name)
	for len(data) > 0 {
		n := min(len(data), 45)
		line := append(bytes.Clone(data[:n]), 0, 0)
		data = data[n:]
		b.WriteByte(byte(' ' + n))
		for i := 0; i < n; i += 3 {
			v := uint32(line[i])<<16 | uint32(line[i+1])<<8 | uint32(line[i+2])
			for shift := 18; shift >= 0; shift -= 6 {
				if c := byte(v >> shift & 63); c == 0 {
					b.WriteByte('`')
				} else {
					b.WriteByte(' ' + c)
				}
			}
		}
		b.WriteByte('\n')
	}
	b.WriteString("`\nend")
	return b.String()
}

// expand puts in what may not lie on a disk that a scanner looks at.
func expand(s string) string {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	var qp strings.Builder
	for i := range testSignature {
		if fmt.Fprintf(&qp, "=%02X", testSignature[i]); i%20 == 19 {
			qp.WriteString("=\n")
		}
	}
	inner := "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b64(testSignature) + "\r\n"
	return strings.NewReplacer(
		"{{eicar}}", testSignature,
		"{{eicar-base64}}", b64(testSignature),
		"{{eicar-base64-spaced}}", strings.Join(strings.Split(b64(testSignature), ""), "*\n"),
		"{{eicar-qp}}", qp.String(),
		"{{eicar-uu}}", uuencode("a.txt", []byte(testSignature)),
		"{{nested-base64}}", b64("Subject: inner\r\n"+inner),
		"{{multipart-base64}}", b64("--q\r\n"+inner+"--q--\r\n"),
		"{{pe-base64}}", base64.StdEncoding.EncodeToString(program()),
	).Replace(s)
}

// load reads a golden mail: its line ends are LF in the file, CR LF in the message.
func load(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(crlf(expand(string(b))))
}

func goldenMails(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob("testdata/*.eml")
	if err != nil || len(names) < 50 {
		t.Fatalf("%d golden mails, %v", len(names), err)
	}
	return names
}

// verdict is "continue", or "quarantine" with the reason.
func verdict(t testing.TB, st *Stage, raw []byte) string {
	t.Helper()
	res, err := st.Process(t.Context(), stagetest.Message(raw))
	if err != nil {
		t.Fatal(err)
	}
	if !res.Edits.Empty() || len(res.Forks) > 0 {
		t.Errorf("edits or forks: %+v", res)
	}
	return strings.TrimSpace(res.Verdict.Kind.String() + " " + res.Verdict.Reason)
}

// Each testdata/NN-name.eml is judged as NN-name.want begins.
func TestGolden(t *testing.T) {
	st, err := New(settings(t), defaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range goldenMails(t) {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".eml"), func(t *testing.T) {
			want, err := os.ReadFile(strings.TrimSuffix(name, ".eml") + ".want")
			if err != nil {
				t.Fatal(err)
			}
			got := verdict(t, st, load(t, name))
			if !strings.HasPrefix(got, strings.TrimSpace(string(want))) {
				t.Errorf("%s, want %s", got, want)
			}
			for _, r := range got {
				if r < ' ' || r > '~' {
					t.Errorf("the reason %q is not plain text", got)
				}
			}
		})
	}
}

func TestConformance(t *testing.T) {
	var samples [][]byte
	for i, name := range goldenMails(t) {
		if i%10 == 0 {
			samples = append(samples, load(t, name))
		}
	}
	t.Run("builtin", func(t *testing.T) { stagetest.Run(t, Factory(), stagetest.Suite{Samples: samples}) })
	t.Run("clamd", func(t *testing.T) {
		f := newFakeClamd(t, "tcp", script{reply: "stream: OK\x00"})
		stagetest.Run(t, Factory(), stagetest.Suite{Config: "clamd: " + f.url + "\n", Samples: samples})
	})
}

func TestConfig(t *testing.T) {
	if c := defaultConfig(); c.Validate() != nil {
		t.Errorf("the defaults: %v", c.Validate())
	}
	for _, change := range []func(*Config){
		func(c *Config) { c.Clamd = "clamav:3310" },
		func(c *Config) { c.Clamd = "tcp://clamav" },
		func(c *Config) { c.Clamd = "tcp://:3310" },
		func(c *Config) { c.Clamd = "unix://clamd.sock" },
		func(c *Config) { c.MaxScans = 0 },
		func(c *Config) { c.MaxScans = maxMaxScans + 1 },
		func(c *Config) { c.BlockedNames = []string{"[a"} },
		func(c *Config) { c.BlockedNames = []string{""} },
		func(c *Config) { c.BlockedNames = []string{"a/b"} },
		func(c *Config) { c.BlockedTypes = []string{"exe"} },
		func(c *Config) { c.BlockedTypes = []string{"application/"} },
	} {
		c := defaultConfig()
		change(&c)
		if c.Validate() == nil {
			t.Errorf("%q %q %q %d is taken", c.Clamd, c.BlockedNames, c.BlockedTypes, c.MaxScans)
		}
	}
	for url, want := range map[string]endpoint{
		"tcp://clamav:3310": {"tcp", "clamav:3310"}, "tcp://[::1]:3310": {"tcp", "[::1]:3310"}, "unix:///run/clamd.sock": {"unix", "/run/clamd.sock"},
	} {
		if got, err := parseClamd(url); err != nil || got != want {
			t.Errorf("%s: %v, %v", url, got, err)
		}
	}
}

func TestRules(t *testing.T) {
	c := defaultConfig()
	c.BlockedNames, c.BlockedTypes = []string{"*.Odd", "secret?.txt"}, []string{"Image/*", "SCRIPT"}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	st, err := New(settings(t), c)
	if err != nil {
		t.Fatal(err)
	}
	mailWith := func(field, body string) []byte {
		return []byte(crlf("Content-Type: " + field + "\n\n" + body))
	}
	for want, raw := range map[string][]byte{
		`quarantine blocked: the file name "a.ODD" of an attachment matches "*.odd"`: mailWith("x/y; name=a.ODD", ""),
		`quarantine blocked: the media type "image/png" matches "image/*"`:           mailWith("image/png", ""),
		"quarantine blocked: an attachment is of the kind script":                    mailWith("text/plain", "#!/bin/sh\n"),
		"continue": mailWith("x/y; name=setup.exe", string(program())),
	} {
		if got := verdict(t, st, raw); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// A content that cannot be read is an error, not a clean message, wherever it fails.
func TestUnreadable(t *testing.T) {
	st, err := New(settings(t), defaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	raw := load(t, "testdata/57-ok-attachment.eml")
	failed := 0
	for failAt := 1; ; failAt++ {
		c := &faultyContent{Content: mail.FromBytes(raw), failAt: failAt}
		m := stagetest.Message(nil)
		m.Content = c
		res, err := st.Process(t.Context(), m)
		if c.reads < failAt {
			break
		}
		if err == nil {
			t.Errorf("read %d failed, and the verdict is %v", failAt, res.Verdict.Kind)
		}
		failed++
	}
	if failed < 3 {
		t.Errorf("only %d reads", failed)
	}
}

type faultyContent struct {
	mail.Content
	failAt, reads int
}

func (c *faultyContent) ReadAt(p []byte, off int64) (int, error) {
	if c.reads++; c.reads == c.failAt {
		return 0, os.ErrDeadlineExceeded
	}
	return c.Content.ReadAt(p, off)
}
