package egress

import (
	"crypto/sha256"
	"runtime"
	"testing"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtptest"
)

// 50 MB go through without being loaded, dots and all, and arrive as they were.
func TestLargeMessageStreams(t *testing.T) {
	b := mail.NewBuilder(t.TempDir())
	sum := sha256.New()
	line := []byte(".a line that begins with a dot, and is stuffed on its way to the host\r\n")
	size := int64(0)
	for size < 50_000_000 {
		if _, err := b.Write(line); err != nil {
			t.Fatal(err)
		}
		sum.Write(line)
		size += int64(len(line))
	}
	content, err := b.Content()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Release()

	s := smtptest.Start(t, smtptest.Config{Forget: true})
	r := build(t, setup{route: smart(s)})
	p := parcel("m1", "", "a@x.example")
	p.Content = content
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	got := r.carry(t, p)
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	got.want(t, chain.Delivered)
	m := s.Messages()[0]
	if m.Size != size || string(m.Sum[:]) != string(sum.Sum(nil)) || m.Bare {
		t.Errorf("%d bytes arrived, %d were sent", m.Size, size)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
		t.Errorf("%d bytes were allocated", used)
	}
}
