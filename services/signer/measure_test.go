package signer

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// What is encoded anew is in memory once, whatever the number of forms.
func TestEncodedOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("18 MB")
	}
	b := mail.NewBuilder(t.TempDir())
	defer b.Discard()
	fmt.Fprint(b, "From: anna@example.com\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n")
	block := []byte(strings.Repeat(strings.Repeat("Grüße und viele andere Worte. ", 3)+"\r\n", 1000))
	for b.Size() < 18_000_000 {
		if _, err := b.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	content, err := b.Content()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Release()
	m := sent("From: anna@example.com\r\n\r\n")
	m.Content = content
	st := build(t, settings(t), rulesInTestdata)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	r, err := st.Process(t.Context(), m)
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if err != nil || len(r.Forks) != 1 {
		t.Fatalf("result %v (%v)", r.Notes, err)
	}
	allocated, edits := int64(after.TotalAlloc-before.TotalAlloc), int64(r.Edits.EncodedSize())
	t.Logf("%d MB of text in two forms, with DKIM: %v, %d MB allocated, edits of %d MB", content.Size()/1e6, took, allocated/1e6, edits/1e6)
	if allocated > edits+edits/4+2<<20 {
		t.Errorf("%d bytes were allocated, for edits of %d", allocated, edits)
	}
}

// A large message with attachments in base64 is signed in little memory: its edits are small, and it is read in pieces.
func TestLargeInLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("50 MiB")
	}
	const size = 50 << 20
	b := mail.NewBuilder(t.TempDir())
	defer b.Discard()
	fmt.Fprintf(b, "From: anna@example.com\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nGrüße\r\n--b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n")
	line := []byte(strings.Repeat("QUJD", 19) + "\r\n")
	block := bytes.Repeat(line, 1000)
	for b.Size() < size {
		if _, err := b.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprint(b, "--b--\r\n")
	content, err := b.Content()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Release()
	m := sent("From: anna@example.com\r\n\r\n")
	m.Content = content
	st := build(t, settings(t), rulesInTestdata)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	r, err := st.Process(t.Context(), m)
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if err != nil || len(r.Forks) != 1 || !strings.Contains(fmt.Sprint(r.Notes), "signed=openpgp") {
		t.Fatalf("result %v (%v)", r.Notes, err)
	}
	allocated := int64(after.TotalAlloc-before.TotalAlloc) >> 10
	t.Logf("%d MiB in two forms, with DKIM: %v, %d KiB allocated, edits of %d bytes", content.Size()>>20, took, allocated, r.Edits.EncodedSize())
	if allocated > 8<<10 || r.Edits.EncodedSize() > 64<<10 {
		t.Errorf("%d KiB were allocated, for edits of %d bytes", allocated, r.Edits.EncodedSize())
	}
}
