package e2e

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

const (
	largeMessages = 16
	largeSize     = 50_000_000
	// mostMemory is what a process may have in memory at its worst, in bytes.
	mostMemory = 400 << 20
)

// TestLargeMessages moves 800 MB through everything, twice: -short leaves it out.
func TestLargeMessages(t *testing.T) {
	if testing.Short() {
		t.Skip("moves 800 MB, twice")
	}
	line := strings.Repeat("QUJD", 19) + "\r\n"
	raw := crlf("From: Alice <alice@example.com>\nTo: bob@example.net\nSubject: large\nDate: Tue, 03 Feb 2026 04:05:06 +0000\nMIME-Version: 1.0\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n") +
		strings.Repeat(line, largeSize/len(line))
	for _, mode := range []rig.Mode{rig.Up, rig.Services} {
		t.Run(string(mode), func(t *testing.T) {
			r, sink := install(t, mode)
			sink.DropBodies()
			r.Start()
			start := time.Now()
			var wg sync.WaitGroup
			ids := make([]string, largeMessages)
			for i := range ids {
				wg.Go(func() {
					for end := time.Now().Add(time.Minute); ; { // 452: too much is under way
						var err error
						if ids[i], err = r.Send("alice@example.com", []string{"bob@example.net"}, raw); err == nil {
							return
						}
						if !strings.HasPrefix(err.Error(), "452 ") || time.Now().After(end) {
							t.Errorf("message %d: %v", i, err)
							return
						}
					}
				})
			}
			wg.Wait()
			accepted := time.Since(start)
			if t.Failed() {
				return
			}
			for _, id := range ids {
				sink.Wait(id, time.Minute)
			}
			t.Logf("%d messages of %d MB: accepted after %v, delivered after %v", largeMessages, largeSize/1_000_000, accepted.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
			for _, name := range r.Names() {
				peak := r.Proc(name).PeakRSS(t)
				t.Logf("%s: %d MiB", name, peak>>20)
				if peak > mostMemory {
					t.Errorf("%s had %d MiB in memory, more than %d", name, peak>>20, mostMemory>>20)
				}
			}
		})
	}
}
