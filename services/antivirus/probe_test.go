package antivirus

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// answering is the address of something that answers each command with text, and then hangs up or stays silent.
func answering(t *testing.T, text string, hang bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				b := make([]byte, 9)
				if _, err := io.ReadFull(c, b); err != nil || string(b) != "zVERSION\x00" {
					t.Errorf("%q, %v", b, err)
				}
				_, _ = io.WriteString(c, text)
				if hang {
					_, _ = io.Copy(io.Discard, c)
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return "tcp://" + l.Addr().String()
}

func TestProbeClamd(t *testing.T) {
	signed := time.Date(2024, 12, 16, 9, 42, 13, 0, time.UTC)
	for text, want := range map[string]ClamdReport{
		"ClamAV 1.4.1/27486/Mon Dec 16 09:42:13 2024\x00": {Version: "ClamAV 1.4.1", Signed: signed},
		"ClamAV 1.0.7/27486/Mon Dec  2 00:00:00 2024\x00": {Version: "ClamAV 1.0.7", Signed: time.Date(2024, 12, 2, 0, 0, 0, 0, time.UTC)},
		"ClamAV 1.4.1\x00":            {Version: "ClamAV 1.4.1"},
		"ClamAV 1.4.1/27486/soon\x00": {Version: "ClamAV 1.4.1"},
	} {
		if got, err := ProbeClamd(t.Context(), answering(t, text, false)); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"":                       "no whole answer",
		"ClamAV 1.4":             "no whole answer",
		"UNKNOWN COMMAND\x00":    `VERSION gives "UNKNOWN COMMAND"`,
		strings.Repeat("x", 9e3): "no whole answer",
	} {
		if got, err := ProbeClamd(t.Context(), answering(t, text, false)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %+v, %v", text, got, err)
		}
	}
	for _, address := range []string{"127.0.0.1:3310", "unix:///nowhere/at/all"} {
		if _, err := ProbeClamd(t.Context(), address); err == nil {
			t.Errorf("%s: no error", address)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := ProbeClamd(ctx, answering(t, "ClamAV", true)); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("a silent clamd: %v", err)
	}
}
