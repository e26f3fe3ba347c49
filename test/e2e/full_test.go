package e2e

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// smallDisk mounts a disk of its own for the streams of an installation. It needs root; without, the spool's own tests
// have the same with a disk that only says that it is full.
func smallDisk(t *testing.T, dir string, size string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no disk can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// ballast takes all of a disk but so many bytes, until release is called.
func ballast(t *testing.T, dir string, left int64) (release func()) {
	t.Helper()
	f, err := os.Create(dir + "/ballast")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err = syscall.ENOSPC; err != nil; { // others write meanwhile
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		take := int64(st.Bavail)*st.Bsize - left
		if take <= 0 {
			break
		}
		if err = syscall.Fallocate(int(f.Fd()), 0, 0, take); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			t.Error(err)
		}
	}
}

// mailReply is what MAIL is answered with.
func mailReply(t *testing.T, r *rig.Rig) (int, string) {
	c := dialFrom(t, "127.0.0.1", r.SMTP())
	defer c.Close()
	return command(t, c, "MAIL FROM:<alice@example.com>")
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Up)
	disk := r.Path("data", "nats")
	smallDisk(t, disk, "600m")
	sink := prepare(t, r)
	r.WriteFile("secrets/smarthost", "wrong\n")
	r.Start()
	bob := []string{"bob@example.net"}
	large := threeParts + crlf(strings.Repeat(strings.Repeat("all work and no play ", 3)+"\n", 10_000))
	var ids []string
	for i := range 20 {
		raw := large
		if i%2 == 0 {
			raw = threeParts
		}
		ids = append(ids, r.MustSend("alice@example.com", bob, raw))
	}
	r.Eventually("all wait", 20*time.Second, func() bool { return len(r.InRoom("park")) == len(ids) })

	release := ballast(t, disk, 500<<20)
	r.Eventually("452 at MAIL", 10*time.Second, func() bool {
		code, text := mailReply(t, r)
		return code == 452 && strings.HasPrefix(text, "4.3.1 ")
	})
	r.WriteFile("secrets/smarthost", rig.SinkPassword+"\n") // what was accepted still flows
	once(r, sink, ids...)
	release()
	r.Eventually("mail is taken again", 10*time.Second, func() bool { code, _ := mailReply(t, r); return code == 250 })
	once(r, sink, r.MustSend("alice@example.com", bob, large))
}

// Something else fills the disk: NATS must not meet its end, and goes on when there is space again.
func TestDiskFilledByOthers(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Up)
	disk := r.Path("data", "nats")
	smallDisk(t, disk, "800m")
	sink := prepare(t, r)
	r.Start()
	l := startLoad(r, 4)
	l.more(20)
	release := ballast(t, disk, 48<<20)
	r.Eventually("NATS is stopped", 20*time.Second, func() bool { return logged(r, "up", "level=ERROR", "stopped until there is space") })
	r.Eventually("mail is refused", 20*time.Second, func() bool { code, _ := mailReply(t, r); return code/10 == 45 })
	release()
	r.Eventually("mail is taken again", 40*time.Second, func() bool { code, _ := mailReply(t, r); return code == 250 })
	l.more(20)
	each(r, sink, l.stop())
}
