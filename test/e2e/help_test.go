package e2e

import (
	"bytes"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// configure writes the configuration of most tests with some words of it replaced.
func configure(r *rig.Rig, sink *rig.Sink, oldnew ...string) {
	r.T.Helper()
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(body, oldnew[i]) {
			r.T.Fatalf("the configuration has no %q", oldnew[i])
		}
	}
	r.Configure(strings.NewReplacer(append(oldnew, "ROUTE", sink.Route())...).Replace(body))
}

// plain is a small message with its subject.
func plain(subject string) string {
	return crlf("From: Alice <alice@example.com>\nTo: Bob <bob@example.net>\nSubject: " + subject + "\nDate: Tue, 03 Feb 2026 04:05:06 +0000\n\nGood morning.\n")
}

// inbox gives the messages that were delivered into a maildir of the installation.
func inbox(r *rig.Rig, name string) [][]byte {
	r.T.Helper()
	files, err := filepath.Glob(r.Path(name, "new", "*"))
	if err != nil {
		r.T.Fatal(err)
	}
	var out [][]byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			r.T.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// logged says whether a line of a process's log has all the words.
func logged(r *rig.Rig, proc string, words ...string) bool {
	r.T.Helper()
	b, err := os.ReadFile(r.Path(proc + ".log"))
	if err != nil {
		r.T.Fatal(err)
	}
lines:
	for line := range bytes.Lines(b) {
		for _, w := range words {
			if !bytes.Contains(line, []byte(w)) {
				continue lines
			}
		}
		return true
	}
	return false
}

// waitingIn gives a message that waits in a room, or nil.
func waitingIn(r *rig.Rig, room, id string) *adminv1.WaitingMessage {
	r.T.Helper()
	for _, w := range r.InRoom(room) {
		if w.GetId() == id {
			return w
		}
	}
	return nil
}

// dialFrom connects to an SMTP port from a given address of this machine.
func dialFrom(t *testing.T, source, addr string) *smtp.Client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 10 * time.Second}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	c, err := smtp.NewClient(nc, "client.example.net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.Hello("client.example.net"); err != nil {
		t.Fatal(err)
	}
	return c
}

// command sends one line and gives the reply, whatever it is.
func command(t *testing.T, c *smtp.Client, line string) (code int, text string) {
	t.Helper()
	n, err := c.Text.Cmd("%s", line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	c.Text.StartResponse(n)
	defer c.Text.EndResponse(n)
	code, text, err = c.Text.ReadResponse(0)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return code, text
}

// expect is command for a reply that must begin with the digits given.
func expect(t *testing.T, c *smtp.Client, line, digits string) string {
	t.Helper()
	code, text := command(t, c, line)
	got := string([]byte{byte('0' + code/100), byte('0' + code/10%10), byte('0' + code%10)})
	if !strings.HasPrefix(got, digits) {
		t.Fatalf("%s: %s %s, want %s", line, got, text, digits)
	}
	return text
}

// transfer sends the message of an open transaction after DATA, and gives its id.
func transfer(t *testing.T, c *smtp.Client, raw string) string {
	t.Helper()
	expect(t, c, "DATA", "354")
	w := c.Text.DotWriter()
	if _, err := w.Write([]byte(raw)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, text, err := c.Text.ReadResponse(250)
	if err != nil {
		t.Fatalf("after the dot: %v", err)
	}
	fields := strings.Fields(text)
	for i, f := range fields {
		if f == "accepted" && i > 0 {
			return fields[i-1]
		}
	}
	t.Fatalf("no id in %q", text)
	return ""
}
