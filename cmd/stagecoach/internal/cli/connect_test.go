package cli

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The socket is found by a flag, the file named, the environment, the file that is there, and the default folder.
func TestSocketPath(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	relative := write("etc/a.yaml", "data_dir: ../var/mail\nroutes: {x: {smarthost: {password_file: secret}}}\n")
	absolute := write("etc/b.yaml", "data_dir: /srv/mail\n")
	none := write("etc/c.yaml", "hostname: x.example\n")
	broken := write("etc/d.yaml", "data_dir: [\n")
	env := map[string]string{"STAGECOACH_SOCKET": "/run/s.sock"}
	for _, c := range []struct {
		name, socket, config string
		env                  map[string]string
		want, err            string
	}{
		{name: "nothing", want: "data/admin.sock"},
		{name: "flag", socket: "x.sock", config: absolute, env: env, want: "x.sock"},
		{name: "file before environment", config: absolute, env: env, want: "/srv/mail/admin.sock"},
		{name: "relative to the file", config: relative, want: filepath.Join(dir, "var/mail/admin.sock")},
		{name: "no data_dir", config: none, want: filepath.Join(dir, "etc/data/admin.sock")},
		{name: "environment", env: env, want: "/run/s.sock"},
		{name: "broken file", config: broken, err: "stagecoach check"},
		{name: "no file", config: "nowhere.yaml", err: "-c"},
	} {
		a := newApp(Options{Getenv: func(k string) string { return c.env[k] }})
		a.socket, a.config = c.socket, c.config
		got, err := a.socketPath()
		if got != c.want || (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	write("stagecoach.yaml", "data_dir: here\n")
	if got, err := newApp(Options{Getenv: func(string) string { return "" }}).socketPath(); got != "here/admin.sock" || err != nil {
		t.Errorf("stagecoach.yaml: %q, %v", got, err)
	}
}

func TestNotReachable(t *testing.T) {
	t.Chdir(t.TempDir())
	stale, err := net.Listen("unix", "stale.sock")
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ socket, want string }{
		{"", "nothing answers at data/admin.sock: is `stagecoach up` running in this folder?"},
		{"stale.sock", "nothing answers at stale.sock"},
		{"no\x1bsock", `nothing answers at no\x1bsock`},
		{strings.Repeat("x/", 60) + "s", "at most 107 bytes"},
	} {
		p := &person{}
		if code := p.runs(t, "status", "--socket", c.socket); code != ExitFailed || !strings.Contains(p.stderr, c.want) {
			t.Errorf("%q: exit code %d, %s", c.socket, code, p.stderr)
		}
	}
	p := &person{}
	if code := p.runs(t, "dkim", "new", "example.com"); code != ExitFailed || !strings.Contains(p.stderr, "--keys data/keys") {
		t.Errorf("dkim new without a service: %d, %s", code, p.stderr)
	}
}

// Who may not use the socket is told who may.
func TestPermission(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "data", "admin.sock")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	err := unreachable(path, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", os.ErrPermission)})
	if !strings.Contains(err.Error(), "no permission: user ") || !strings.Contains(err.Error(), "and root") {
		t.Error(err)
	}
}

// What gRPC says is said in words.
func TestWords(t *testing.T) {
	f := newFake(t)
	for code, want := range map[codes.Code]string{
		codes.Unavailable: "does not answer", codes.NotFound: "stagecoach: said\\u202e\n", codes.PermissionDenied: "not allowed", codes.Unimplemented: "another version",
		codes.Internal: "its log says more", codes.DeadlineExceeded: "no answer in time", codes.DataLoss: "damaged", codes.InvalidArgument: "stagecoach: said", codes.Unknown: "failed",
		codes.FailedPrecondition: "stagecoach: said", codes.Canceled: "interrupted",
	} {
		f.fails = status.Error(code, "said\u202e")
		p := &person{}
		exit := p.runs(t, "user", "list", "--socket", f.socket)
		wanted := ExitFailed
		if code == codes.InvalidArgument {
			wanted = ExitUsage
		}
		if exit != wanted || !strings.Contains(p.stderr, want) || strings.Contains(p.stderr, "rpc error") || strings.Contains(p.stderr, "code =") {
			t.Errorf("%v: exit code %d, %s", code, exit, p.stderr)
		}
	}
}
