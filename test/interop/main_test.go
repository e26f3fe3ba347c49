//go:build interop

package interop

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

func TestMain(m *testing.M) {
	code := m.Run()
	rig.Cleanup()
	os.Exit(code)
}

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// header begins a message; more header fields may follow it.
func header(subject string) string {
	return crlf("From: Alice <alice@example.com>\nTo: Bob <bob@example.net>\nSubject: " + subject + "\nDate: Tue, 03 Feb 2026 04:05:06 +0000\nMessage-ID: <" + strings.ReplaceAll(subject, " ", ".") + "@example.com>\nMIME-Version: 1.0\n")
}

// plain is a message in one part.
func plain(subject, text string) string {
	return header(subject) + "Content-Type: text/plain; charset=utf-8\r\n\r\n" + crlf(text)
}

// run runs a program to its end, with input if there is any, and gives what it printed. It must succeed.
func run(t testing.TB, input string, program string, args ...string) string {
	t.Helper()
	out, err := try(t, input, program, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(program), err, out)
	}
	return out
}

// try is run for a program that may fail.
func try(t testing.TB, input string, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// logged says whether a line of a process's log has all the words.
func logged(r *rig.Rig, proc string, words ...string) bool {
	b, err := os.ReadFile(r.Path(proc + ".log"))
	if err != nil {
		r.T.Fatal(err)
	}
next:
	for line := range bytes.Lines(b) {
		for _, w := range words {
			if !bytes.Contains(line, []byte(w)) {
				continue next
			}
		}
		return true
	}
	return false
}

// withSubject finds the one delivery of a message whose sender did not tell us its id.
func withSubject(r *rig.Rig, sink *rig.Sink, subject string) rig.Delivery {
	r.T.Helper()
	var found []rig.Delivery
	r.Eventually(subject+" arrives", 15*time.Second, func() bool {
		found = nil
		for _, d := range sink.Deliveries() {
			if bytes.Contains(d.Raw, []byte("\r\nSubject: "+subject+"\r\n")) {
				found = append(found, d)
			}
		}
		return len(found) > 0
	})
	if len(found) != 1 {
		r.T.Errorf("%d copies of %q", len(found), subject)
	}
	return found[0]
}

// textOf is a message without its header.
func textOf(raw []byte) string {
	_, text, _ := strings.Cut(string(raw), "\r\n\r\n")
	return text
}
