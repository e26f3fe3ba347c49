//go:build interop

package interop

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/rig"
)

// lacking stops a test that cannot run here. It fails, so that nothing is left out of a green run unseen, unless
// $STAGECOACH_INTEROP_PARTIAL says that less than everything will do.
func lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("STAGECOACH_INTEROP_PARTIAL") != "" {
		t.Skipf("%s; skipped, because STAGECOACH_INTEROP_PARTIAL is set", what)
	}
	t.Fatalf("%s; STAGECOACH_INTEROP_PARTIAL=1 skips what cannot run here", what)
}

// need stops a test if one of the programs is not installed.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			lacking(t, p+" is not installed: run test/interop/install as root")
		}
	}
}

// needRoot stops a test whose peers run as root only, if we do not.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		lacking(t, "the mail servers of this test run as root only, and so does it")
	}
}

// root is a folder with a mail server in it that cannot be installed beside the others. It runs with that folder as
// its root, a copy of what the install script has unpacked, and ends with the test.
type root struct {
	r    *rig.Rig
	name string
	dir  string
}

// accounts are the users of a root. The numbers are high, so that they mean nobody outside.
var accounts = map[string]int{"root": 0, "Debian-exim": 64101, "opensmtpd": 64102, "opensmtpq": 64103, "dovecot": 64104, "dovenull": 64105, store: 64106, "nobody": 65534}

// store is the user who owns the maildirs in a root.
const store = "store"

// newRoot copies a root: "exim", "opensmtpd" or "dovecot".
func newRoot(r *rig.Rig, name string) *root {
	r.T.Helper()
	needRoot(r.T)
	need(r.T, "chroot", "cp")
	unpacked := filepath.Join(cacheDir(r.T), name)
	if _, err := os.Stat(filepath.Join(unpacked, ".packages")); err != nil {
		lacking(r.T, name+" is not unpacked: run test/interop/install ("+err.Error()+")")
	}
	dir, err := os.MkdirTemp("", "sc"+name)
	if err != nil {
		r.T.Fatal(err)
	}
	o := &root{r: r, name: name, dir: dir}
	r.T.Cleanup(func() {
		o.stop()
		_ = os.RemoveAll(dir)
	})
	run(r.T, "", "cp", "-a", unpacked+"/.", dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		r.T.Fatal(err)
	}
	for device, minor := range map[string]int{"null": 3, "zero": 5, "urandom": 9} {
		o.mkdir("dev", "root", 0o755)
		if err := syscall.Mknod(o.path("dev", device), syscall.S_IFCHR|0o666, 1<<8|minor); err != nil {
			r.T.Fatalf("/dev/%s cannot be made (in a container it takes CAP_MKNOD): %v", device, err)
		}
		if err := os.Chmod(o.path("dev", device), 0o666); err != nil {
			r.T.Fatal(err)
		}
	}
	var passwd, group strings.Builder
	for _, who := range slices.Sorted(maps.Keys(accounts)) {
		fmt.Fprintf(&passwd, "%s:x:%d:%d::/nonexistent:/bin/sh\n", who, accounts[who], accounts[who])
		fmt.Fprintf(&group, "%s:x:%d:\n", who, accounts[who])
	}
	o.write("etc/passwd", passwd.String())
	o.write("etc/group", group.String())
	o.write("etc/hosts", "127.0.0.1 localhost\n")
	o.mkdir("tmp", "root", 0o1777)
	o.mkdir("mail", store, 0o755)
	r.CA.Issue(r.T, o.path("tls"), "smarthost", "smarthost.example")
	o.mkdir("tls", "root", 0o755)
	if err := os.Chmod(o.path("tls/smarthost.pem"), 0o644); err != nil {
		r.T.Fatal(err)
	}
	return o
}

// cacheDir is where the install script unpacks.
func cacheDir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("STAGECOACH_INTEROP_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "stagecoach-interop")
}

// path is a path in the root as it is seen from outside.
func (o *root) path(elem ...string) string {
	return filepath.Join(append([]string{o.dir}, elem...)...)
}

// mkdir makes a folder of the root, or gives it an owner and a mode.
func (o *root) mkdir(name, owner string, mode uint32) {
	o.r.T.Helper()
	if err := os.MkdirAll(o.path(name), 0o755); err != nil {
		o.r.T.Fatal(err)
	}
	if err := syscall.Chmod(o.path(name), mode); err != nil {
		o.r.T.Fatal(err)
	}
	o.give(name, owner)
}

func (o *root) write(name, content string) {
	o.r.T.Helper()
	if err := os.MkdirAll(filepath.Dir(o.path(name)), 0o755); err != nil {
		o.r.T.Fatal(err)
	}
	if err := os.WriteFile(o.path(name), []byte(content), 0o644); err != nil {
		o.r.T.Fatal(err)
	}
}

// give gives a file to a user.
func (o *root) give(name, owner string) {
	o.r.T.Helper()
	if err := os.Chown(o.path(name), accounts[owner], accounts[owner]); err != nil {
		o.r.T.Fatal(err)
	}
}

// serve starts a program of the root.
func (o *root) serve(program string, args ...string) *rig.Proc {
	o.r.T.Helper()
	return o.r.StartForeign(o.name, "chroot", append([]string{o.dir, program}, args...)...)
}

// stop ends what runs in the root: children that would outlive their server, too.
func (o *root) stop() {
	links, err := filepath.Glob("/proc/[0-9]*/root")
	if err != nil {
		o.r.T.Fatal(err)
	}
	for _, link := range links {
		if at, err := os.Readlink(link); err != nil || at != o.dir && !strings.HasPrefix(at, o.dir+"/") {
			continue // of somebody else, or gone
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}

// run runs a program of the root to its end.
func (o *root) run(program string, args ...string) string {
	o.r.T.Helper()
	return run(o.r.T, "", "chroot", append([]string{o.dir, program}, args...)...)
}

// uid is the number of a user of this system.
func uid(t testing.TB, name string) int {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// read is what stands in a file; nothing, if it is not there yet.
func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

// maildir reads the new messages of a maildir.
func maildir(t testing.TB, path string) (mail []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(path, "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		mail = append(mail, read(t, f))
	}
	return mail
}

// greets waits until a server of the peer demands STARTTLS before MAIL.
func greets(r *rig.Rig, proc *rig.Proc, port string) {
	r.T.Helper()
	last := error(nil)
	defer func() {
		if r.T.Failed() {
			r.T.Logf("%s said at last: %v", port, last)
		}
	}()
	r.Eventually(port+" answers", 15*time.Second, func() bool {
		if !proc.Running() {
			r.T.Fatalf("%s has ended", proc.Name)
		}
		_, last = rig.Send(r.Addr(port), "a@example.com", []string{"nobody@example.org"}, "")
		return last != nil && strings.HasPrefix(last.Error(), "530")
	})
}
