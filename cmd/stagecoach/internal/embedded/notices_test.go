package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/services/ingress"
)

// started is a whole installation with the given file; it ends with the test. DIR in the file is a folder of its own.
func started(t *testing.T, text string, change func(*Options)) (in *Installation, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sc") // short: a socket lives in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	reading := config.Options{Mode: config.ModeUp}
	cfg, err := reading.Parse("test", dir, []byte(strings.ReplaceAll(text, "DIR", dir)))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Config: cfg, Reading: reading, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	in, err = New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- in.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-in.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	return in, dir
}

// letter waits until a file of a maildir has all the words.
func letter(t *testing.T, dir string, words ...string) string {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for {
		files, _ := filepath.Glob(filepath.Join(dir, "new", "*")) //nolint:errcheck // the pattern is good
	files:
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range words {
				if !strings.Contains(string(data), w) {
					continue files
				}
			}
			return string(data)
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no letter has %q, of %d", words, len(files))
		}
	}
}

// A route is down: the postmaster has a mail about it, by another route, and another one when it is over.
func TestPostmasterIsTold(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	in, dir := started(t, fmt.Sprintf(`hostname: relay.example.com
postmaster: it@example.com
data_dir: DIR/data
ingress: {listeners: [{name: local, address: "127.0.0.1:0", tls: none}]}
domains: [{name: example.com, recipients: any}]
relay: [{name: here, networks: [127.0.0.0/8]}]
stages: {}
chains:
  - {name: in, match: {direction: [inbound, internal]}, stages: [], deliver: inbox}
  - {name: out, match: {direction: outbound}, stages: [], deliver: provider}
routes:
  inbox: {maildir: {path: DIR/inbox}}
  provider: {smarthost: {address: %q, tls: none}}
`, nobody), func(o *Options) {
		o.NoticeTimes = ingress.NoticeTimes{Look: 20 * time.Millisecond, Stopped: 100 * time.Millisecond, Over: 200 * time.Millisecond, Collect: 20 * time.Millisecond}
	})
	err = smtp.SendMail(in.Addr("local").String(), nil, "alice@example.com", []string{"bob@example.net"}, []byte("Subject: hello\r\n\r\nHello.\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	text := letter(t, filepath.Join(dir, "inbox"), "Subject: [stagecoach] route provider is down", "refused", "it: 1;")
	for _, want := range []string{"Return-Path: <>", "From: Stagecoach <MAILER-DAEMON@relay.example.com>", "Auto-Submitted: auto-generated"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q:\n%s", want, text)
		}
	}
	// It is there again.
	back, err := net.Listen("tcp", nobody)
	if err != nil {
		t.Skipf("the port was taken in between: %v", err)
	}
	defer back.Close()
	go greet(back)
	letter(t, filepath.Join(dir, "inbox"), "Subject: [stagecoach] over: route provider is down")
}

// greet is a host that answers, and refuses every recipient.
func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 1024)
			reply := "220 here\r\n"
			for {
				if _, err := c.Write([]byte(reply)); err != nil {
					return
				}
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				reply = "250 ok\r\n"
				if strings.HasPrefix(strings.ToUpper(string(buf[:n])), "RCPT") {
					reply = "550 5.1.1 nobody\r\n"
				}
			}
		}()
	}
}
