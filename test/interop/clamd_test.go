//go:build interop

package interop

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// marker is what clamd's only signature finds, and the built-in engine does not.
const marker = "an interoperability test calls this a virus"

const clamdBody = `
domains:
  - {name: example.com, recipients: any}
relay:
  - {name: loopback, networks: ["127.0.0.0/8"]}
stages:
  tcp: {type: antivirus, timeout: 20s, config: {clamd: "tcp://{{clamd}}"}}
  unix: {type: antivirus, timeout: 20s, config: {clamd: "unix://SOCKET"}}
  small: {type: antivirus, timeout: 20s, config: {clamd: "tcp://{{clamd-small}}"}}
chains:
  - {name: inbound, match: {direction: [inbound, internal]}, stages: [], deliver: provider}
  - {name: unix, match: {recipients: "unix@example.net"}, stages: [unix], deliver: provider}
  - {name: small, match: {recipients: "small@example.net"}, stages: [small], deliver: provider}
  - {name: outbound, match: {direction: outbound}, stages: [tcp], deliver: provider}
routes:
  provider: ROUTE
`

// startClamd starts a clamd with the configuration that comes with the compose file, but for places and the settings
// in changed, and waits until it answers.
func startClamd(r *rig.Rig, name string, changed map[string]string) *rig.Proc {
	r.T.Helper()
	shipped, err := os.ReadFile(filepath.Join("..", "..", "deploy", "compose", "clamd.conf"))
	if err != nil {
		r.T.Fatal(err)
	}
	r.WriteFile("signatures/interop.ndb", fmt.Sprintf("Interop.Test:0:*:%s\n", hex.EncodeToString([]byte(marker))))
	temp := r.Path(name + "-tmp")
	if err := os.MkdirAll(temp, 0o700); err != nil {
		r.T.Fatal(err)
	}
	set := map[string]string{"User": "", "DatabaseDirectory": r.Path("signatures"), "TCPSocket": fmt.Sprint(r.Port(name)), "TCPAddr": "127.0.0.1",
		"LocalSocket": r.Path(name + ".sock"), "TemporaryDirectory": temp}
	for k, v := range changed {
		set[k] = v
	}
	var conf strings.Builder
	for line := range strings.Lines(string(shipped)) {
		key, _, _ := strings.Cut(line, " ")
		if _, ours := set[key]; !ours {
			conf.WriteString(line)
		}
	}
	for k, v := range set {
		if v != "" {
			fmt.Fprintf(&conf, "%s %s\n", k, v)
		}
	}
	p := r.StartForeign(name, "clamd", "--config-file="+r.WriteFile(name+".conf", conf.String()))
	r.Eventually(name+" answers", 30*time.Second, func() bool {
		if !p.Running() {
			r.T.Fatalf("%s has ended", name)
		}
		conn, err := net.DialTimeout("tcp", r.Addr(name), time.Second)
		if err != nil {
			return false
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		pong := make([]byte, 4)
		_, _ = conn.Write([]byte("zPING\x00"))
		_, err = conn.Read(pong)
		return err == nil && string(pong) == "PONG"
	})
	return p
}

// withAttachment is a message with a text and a file.
func withAttachment(subject, name string, data []byte) string {
	var b strings.Builder
	b.WriteString(header(subject) + "Content-Type: multipart/mixed; boundary=mix\r\n\r\n--mix\r\nContent-Type: text/plain\r\n\r\nSee the file.\r\n--mix\r\n" +
		"Content-Type: application/octet-stream; name=\"" + name + "\"\r\nContent-Disposition: attachment; filename=\"" + name + "\"\r\nContent-Transfer-Encoding: base64\r\n\r\n")
	for line := range chunks(base64.StdEncoding.EncodeToString(data), 76) {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("--mix--\r\n")
	return b.String()
}

func chunks(s string, n int) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for ; len(s) > n; s = s[n:] {
			if !yield(s[:n]) {
				return
			}
		}
		yield(s)
	}
}

func packed(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tarred(t *testing.T, name string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// noise is data that does not shrink, and looks like no kind of file.
func noise(size int) []byte {
	b := make([]byte, size)
	g := rand.NewChaCha8([32]byte{1})
	_, _ = g.Read(b)
	return b
}

func inRoom(r *rig.Rig, room, id string) *adminv1.WaitingMessage {
	for _, w := range r.InRoom(room) {
		if w.GetId() == id {
			return w
		}
	}
	return nil
}

func TestClamd(t *testing.T) {
	t.Parallel()
	need(t, "clamd")
	r := rig.New(t, rig.Up)
	sink := r.NewSink("smarthost")
	r.Configure(strings.NewReplacer("ROUTE", sink.Route(), "SOCKET", r.Path("clamd.sock")).Replace(clamdBody))
	clamd := startClamd(r, "clamd", nil)
	startClamd(r, "clamd-small", map[string]string{"StreamMaxLength": "1M"})
	r.Start()
	const overTCP, overUnix, small = "bob@example.net", "unix@example.net", "small@example.net"

	nested := []byte("nothing of interest")
	for range 20 {
		nested = packed(t, nested)
	}
	harmful := []byte("Dear reader,\n" + marker + ".\n")
	for _, c := range []struct {
		name, to, raw string
		// reason of the quarantine; empty: it passes.
		reason string
	}{
		{"clean over tcp", overTCP, plain("clean over tcp", "Good morning.\n"), ""},
		{"clean over unix", overUnix, plain("clean over unix", "Good morning.\n"), ""},
		{"clean attachment", overTCP, withAttachment("clean attachment", "noise.bin", noise(3<<20)), ""},
		{"attachment over tcp", overTCP, withAttachment("attachment over tcp", "letter.txt", harmful), "infected: Interop.Test.UNOFFICIAL"},
		{"attachment over unix", overUnix, withAttachment("attachment over unix", "letter.txt", harmful), "infected: Interop.Test.UNOFFICIAL"},
		{"in an archive", overTCP, withAttachment("in an archive", "letter.tar.gz", packed(t, tarred(t, "letter.txt", harmful))), "infected: Interop.Test.UNOFFICIAL"},
		{"nested too deep", overTCP, withAttachment("nested too deep", "letter.gz", nested), "unscannable: clamd did not scan all of it (Heuristics.Limits.Exceeded.MaxRecursion"},
		{"within the limit", small, withAttachment("within the limit", "noise.bin", noise(500<<10)), ""},
		{"too large", small, withAttachment("too large", "noise.bin", noise(3<<20)), "unscannable: clamd did not scan all of it (StreamMaxLength"},
	} {
		r.Run(c.name, func(t *testing.T) {
			id := r.MustSend("alice@example.com", []string{c.to}, c.raw)
			if c.reason == "" {
				if d := sink.Wait(id, 20*time.Second); !strings.HasSuffix(string(d.Raw), textOf([]byte(c.raw))) {
					t.Error("the body has changed")
				}
				return
			}
			var held *adminv1.WaitingMessage
			r.Eventually("it is held", 20*time.Second, func() bool { held = inRoom(r, "quarantine", id); return held != nil })
			if text := held.GetGroups()[0].GetLast().String(); !strings.Contains(text, c.reason) {
				t.Errorf("held for another reason: %s", text)
			}
			if !logged(r, "up", "message held", id, "engine=clamd") {
				t.Error("it was not clamd that found it")
			}
			if n := len(sink.Find(id)); n != 0 {
				t.Errorf("%d copies went out", n)
			}
		})
	}
	r.Run("killed in the middle of a scan", func(t *testing.T) {
		raw := withAttachment("while clamd dies", "noise.bin", noise(20<<20))
		died := make(chan struct{})
		go func() {
			defer close(died)
			for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
				if streams(r, "clamd") {
					clamd.Kill()
					return
				}
			}
		}()
		id := r.MustSend("alice@example.com", []string{overTCP}, raw)
		<-died
		if clamd.Running() {
			t.Fatal("clamd never had a stream")
		}
		r.Eventually("it waits", 20*time.Second, func() bool { return inRoom(r, "", id) != nil && logged(r, "up", id, "clamd") })
		if n := len(sink.Find(id)); n != 0 || inRoom(r, "quarantine", id) != nil {
			t.Fatal("a dead clamd was taken for a verdict")
		}
		startClamd(r, "clamd", nil)
		if d := sink.Wait(id, 40*time.Second); !strings.HasSuffix(string(d.Raw), textOf([]byte(raw))) {
			t.Error("the body has changed")
		}
		r.Eventually("nothing of it waits", 10*time.Second, func() bool { return inRoom(r, "", id) == nil })
		if n := len(sink.Find(id)); n != 1 {
			t.Errorf("%d copies", n)
		}
	})
}

// streams says whether a clamd has taken a part of a message, which it keeps in a file while it scans.
func streams(r *rig.Rig, clamd string) bool {
	files, err := os.ReadDir(r.Path(clamd + "-tmp"))
	if err != nil {
		return false
	}
	for _, f := range files {
		if info, err := f.Info(); err == nil && (f.IsDir() || info.Size() > 0) {
			return true
		}
	}
	return false
}
