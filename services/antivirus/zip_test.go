package antivirus

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

type entry struct {
	name string
	data []byte
}

func zipOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		f, err := w.Create(e.name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rawZIP has one file whose header says what the test wants.
func rawZIP(t testing.TB, change func(*zip.FileHeader), data []byte) []byte {
	t.Helper()
	var packed bytes.Buffer
	d, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	h := &zip.FileHeader{Name: "a.txt", Method: zip.Deflate, CRC32: crc32.ChecksumIEEE(data),
		UncompressedSize64: uint64(len(data)), CompressedSize64: uint64(packed.Len())}
	change(h)
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.CreateRaw(h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(packed.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func attached(name string, data []byte) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "Content-Type: application/octet-stream; name=%q\nContent-Transfer-Encoding: base64\n\n", name)
	text := base64.StdEncoding.EncodeToString(data)
	for len(text) > 0 {
		n := min(76, len(text))
		b.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	return []byte(crlf(b.String()))
}

func TestZIP(t *testing.T) {
	st, err := New(settings(t), defaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	hello := entry{"hello.txt", []byte("hello")}
	plain := zipOf(t, hello)
	evil := zipOf(t, entry{"invoice.exe", []byte("x")})
	nest := func(n int, inner []byte) []byte {
		for range n {
			inner = zipOf(t, entry{"inner.zip", inner})
		}
		return inner
	}
	many := make([]entry, maxZIPFiles+1)
	for i := range many {
		many[i].name = fmt.Sprint(i)
	}
	wrongCRC := func(h *zip.FileHeader) { h.CRC32++ }
	smallerThanItIs := func(h *zip.FileHeader) { h.UncompressedSize64 = 10 }
	renamed := bytes.Replace(zipOf(t, entry{"abc.exe", []byte("x")}), []byte("abc.exe"), []byte("abc.txt"), 1)
	inDirectory := zipOf(t, entry{"abc.exe", []byte("x")})
	i := bytes.LastIndex(inDirectory, []byte("abc.exe"))
	copy(inDirectory[i:], "abc.txt")

	const blocked, unscannable, infected, clean = "quarantine blocked", "quarantine unscannable", "quarantine infected", "continue"
	for _, c := range []struct {
		name string
		file string
		data []byte
		want string
	}{
		{"harmless", "a.zip", plain, clean},
		{"empty", "a.zip", zipOf(t), clean},
		{"folder named like a program", "a.zip", zipOf(t, entry{"Tool.app.exe/", nil}), clean},
		{"office document", "a.docx", zipOf(t, entry{"[Content_Types].xml", []byte("<x/>")}, entry{"word/document.xml", bytes.Repeat([]byte("<w:p/>"), 50_000)}), clean},
		{"blocked name", "a.zip", evil, blocked},
		{"blocked name, in a folder", "a.zip", zipOf(t, entry{`docs\deep/run.js`, nil}), blocked},
		{"blocked name, no name of its own", "", evil, blocked},
		{"blocked name, behind another file", "a.zip", append([]byte("GIF89a, says the beginning"), evil...), blocked},
		{"blocked name, in an archive in an archive", "a.zip", nest(2, evil), blocked},
		{"program under another name", "a.zip", zipOf(t, entry{"readme.txt", program()}), blocked},
		{"signature", "a.zip", zipOf(t, hello, entry{"b.txt", []byte(testSignature)}), infected},
		{"signature in an archive in an archive", "a.zip", nest(3, zipOf(t, entry{"b.txt", []byte(testSignature)})), infected},
		{"too deep", "a.zip", nest(maxNesting+1, plain), unscannable},
		{"encrypted", "a.zip", rawZIP(t, func(h *zip.FileHeader) { h.Flags |= 1 }, []byte("secret")), unscannable},
		{"encrypted, blocked name", "a.zip", rawZIP(t, func(h *zip.FileHeader) { h.Flags |= 1; h.Name = "a.vbs" }, []byte("secret")), blocked},
		{"unknown method", "a.zip", rawZIP(t, func(h *zip.FileHeader) { h.Method = 14 }, []byte("x")), unscannable},
		{"bomb", "a.zip", zipOf(t, entry{"zeros", make([]byte, 9<<20)}), unscannable},
		{"bomb that lies about its size", "a.zip", rawZIP(t, smallerThanItIs, make([]byte, 9<<20)), unscannable},
		{"too many files", "a.zip", zipOf(t, many...), unscannable},
		{"wrong checksum", "a.zip", rawZIP(t, wrongCRC, []byte("hello")), unscannable},
		{"cut off", "a.zip", plain[:len(plain)-10], unscannable},
		{"nothing but its beginning", "a.dat", []byte("PK\x03\x04" + strings.Repeat("x", 100)), unscannable},
		{"no archive at all", "a.zip", []byte("text"), unscannable},
		{"two archives in one", "a.zip", append(bytes.Clone(evil), plain...), unscannable},
		{"another name at the file than in the directory", "a.zip", renamed, blocked},
		{"another name in the directory than at the file", "a.zip", inDirectory, unscannable},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := verdict(t, st, attached(c.file, c.data)); !strings.HasPrefix(got, c.want) {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// An archive whose files share their data unfolds to far more than it has; it costs no more than the budget.
func TestBudget(t *testing.T) {
	var entries []entry
	for i := range 30 {
		// Each is within the ratio; together they are not within the budget.
		entries = append(entries, entry{fmt.Sprint(i), make([]byte, 100<<10)})
	}
	c := mail.FromBytes(zipOf(t, entry{"inner.zip", zipOf(t, entries...)}))
	x := &exam{ctx: t.Context(), rules: newRules(defaultConfig()), tempDir: t.TempDir(), content: c, left: &budget{1 << 20, 100}, worst: &finding{}}
	if err := x.zip(c, "an attachment"); err != nil || x.worst.severity != unscannable || !strings.Contains(x.worst.reason, "unfolds to more than") {
		t.Errorf("%+v, %v", x.worst, err)
	}
	x.left, x.worst = &budget{10 << 20, 100}, &finding{}
	if err := x.zip(c, "an attachment"); err != nil || x.worst.severity != clean {
		t.Errorf("within the budget: %+v, %v", x.worst, err)
	}
	if want := int64(10<<20 - 30*(100<<10)); x.left.bytes > want {
		t.Errorf("%d are left of the budget, want less than %d", x.left.bytes, want)
	}
}

func TestTooManyFiles(t *testing.T) {
	var inner []entry
	for i := range 9_000 {
		inner = append(inner, entry{fmt.Sprint(i), nil})
	}
	archive := zipOf(t, inner...)
	st, err := New(settings(t), defaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	const want = "quarantine unscannable: more than 20000 files"
	if got := verdict(t, st, attached("a.zip", zipOf(t, entry{"1.zip", archive}, entry{"2.zip", archive}, entry{"3.zip", archive}))); got != want {
		t.Errorf("archives: %s", got)
	}
	if got := verdict(t, st, []byte("\r\n"+strings.Repeat("begin 644 a.txt\r\n", maxFiles+1))); got != want {
		t.Errorf("uuencoded: %s", got)
	}
}

// What is made to be slow is not.
func TestSlowInput(t *testing.T) {
	st, err := New(settings(t), defaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for name, field := range map[string]string{
		"comments":   "x/y; name=" + strings.Repeat("(", 400_000) + strings.Repeat(")", 400_000),
		"quotes":     "x/y; name=" + strings.Repeat(`"`, 900_000),
		"parameters": "x/y" + strings.Repeat(";name=a", 120_000),
		"sections":   "x/y" + strings.Repeat(";name*1=a", 100_000),
		"words":      "x/y; name=" + strings.Repeat("=?utf-8?q?a?= ", 60_000),
		"half words": "x/y; name=" + strings.Repeat("=?", 400_000),
		"dots":       "x/y; name=" + strings.Repeat(".", 900_000),
		"percent":    "x/y; name*=" + strings.Repeat("%", 900_000),
	} {
		start := time.Now()
		got := verdict(t, st, []byte("Content-Type: "+field+"\r\n\r\nbody"))
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: %v for %s", name, took, got)
		}
		if !strings.HasPrefix(got, "quarantine unscannable") {
			t.Errorf("%s: %s", name, got)
		}
	}
	for name, body := range map[string]string{
		"quoted-printable": strings.Repeat("=", 8<<20),
		"soft breaks":      strings.Repeat("= ", 4<<20),
		"one line":         strings.Repeat("=41", 3<<20),
	} {
		start := time.Now()
		got := verdict(t, st, []byte("Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"+body))
		if took := time.Since(start); took > 5*time.Second || got != "continue" {
			t.Errorf("%s: %v for %s", name, took, got)
		}
	}
}

// A deadline in the middle of an archive is an error, not a verdict about the archive.
func TestDeadlineInArchive(t *testing.T) {
	data := zipOf(t, entry{"a", bytes.Repeat([]byte("all work and no play "), 30_000)})
	c := mail.FromBytes(data)
	for _, quiet := range []bool{false, true} {
		for reads := 0; ; reads++ {
			ctx, cancel := context.WithCancelCause(t.Context())
			x := &exam{ctx: ctx, rules: newRules(defaultConfig()), tempDir: t.TempDir(), content: c, left: &budget{maxDecoded, 100}, worst: &finding{}}
			counted := &cancelAfter{Content: c, left: reads, quiet: quiet, cancel: func() { cancel(errTest) }}
			err := x.zip(counted, "an attachment")
			ended := counted.left < 0
			cancel(nil)
			if x.worst.severity != clean {
				t.Fatalf("read %d: a verdict: %+v", reads, x.worst)
			}
			if err != nil && !errors.Is(err, errTest) || err != nil && !ended || err == nil && reads == 0 {
				t.Fatalf("read %d: error %v", reads, err)
			}
			if !ended {
				if reads < 3 {
					t.Errorf("only %d reads", reads)
				}
				break
			}
		}
	}
}

var errTest = errors.New("the test ended it")

type cancelAfter struct {
	mail.Content
	left   int
	quiet  bool // the read itself does not fail
	cancel func()
}

func (c *cancelAfter) ReadAt(p []byte, off int64) (int, error) {
	if c.left--; c.left < 0 {
		c.cancel()
		if !c.quiet {
			return 0, errTest
		}
	}
	return c.Content.ReadAt(p, off)
}

func TestSignatureFinder(t *testing.T) {
	text := strings.Repeat("-", 100) + testSignature + strings.Repeat("-", 100)
	for step := 1; step < len(text); step++ {
		var f signatureFinder
		for rest := text; len(rest) > 0; rest = rest[min(step, len(rest)):] {
			if _, err := f.Write([]byte(rest[:min(step, len(rest))])); err != nil {
				t.Fatal(err)
			}
		}
		if !f.found {
			t.Errorf("not found in steps of %d", step)
		}
	}
	var f signatureFinder
	_, _ = f.Write([]byte(testSignature[:len(testSignature)-1]))
	if f.found {
		t.Error("found before its end")
	}
}

func TestKinds(t *testing.T) {
	be := func(v ...uint32) []byte {
		var b []byte
		for _, x := range v {
			b = binary.BigEndian.AppendUint32(b, x)
		}
		return b
	}
	for want, heads := range map[kind][][]byte{
		kindPE:     {program(), program()[:28]},
		kindELF:    {[]byte("\x7fELF\x02")},
		kindMachO:  {be(0xfeedface), be(0xcffaedfe), be(0xcafebabe, 2)},
		kindJava:   {be(0xcafebabe, 61)},
		kindLNK:    {[]byte("L\x00\x00\x00\x01\x14\x02\x00")},
		kindCHM:    {[]byte("ITSF\x03")},
		kindScript: {[]byte("#!/bin/sh")},
		"":         {nil, []byte("M"), []byte("MZ"), []byte("MZ is a text of more than twenty-eight bytes"), []byte("PK\x03\x04"), be(0xcafebabe)},
	} {
		for _, h := range heads {
			if got := kindOf(h); got != want {
				t.Errorf("%q: %s, want %s", h, got, want)
			}
		}
	}
}

// Nothing that a message holds makes the built-in engine fail, hang, or say what may not be shown.
func FuzzExamine(f *testing.F) {
	for _, name := range goldenMails(f) {
		f.Add(load(f, name))
	}
	f.Add(attached("a.zip", zipOf(f, entry{"a.zip", zipOf(f, entry{"b.exe", nil})})))
	r := newRules(defaultConfig())
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		got, err := examine(ctx, r, dir, mail.FromBytes(raw), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if (got.severity == clean) != (got.reason == "") {
			t.Errorf("%+v", got)
		}
		if strings.ContainsFunc(got.reason, func(c rune) bool { return c < ' ' || c > '~' }) || len(got.reason) > 1000 {
			t.Errorf("reason %q", got.reason)
		}
		if bytes.Contains(raw, []byte(testSignature)) && got.severity != infected {
			t.Errorf("the signature is not found: %+v", got)
		}
	})
}
