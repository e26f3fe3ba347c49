package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What is asked: flags, then the environment, then the current context, then this machine.
func TestTarget(t *testing.T) {
	t.Chdir(t.TempDir())
	token := secret(t, "sc_x")
	context := func(server string) *remoteContext {
		return &remoteContext{Server: server, TokenFile: token, ServerName: "mail.example.com"}
	}
	file := &contextFile{path: filepath.Join(t.TempDir(), "contexts.yaml"), Current: "current", Contexts: map[string]*remoteContext{
		"current": context("current:1"), "other": context("other:1"), "broken": {Server: "broken:1", TokenFile: "nowhere", ServerName: "x"}}}
	if err := file.write(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name                            string
		socket, config, context, server string
		env                             map[string]string
		none                            bool // without contexts
		want, err                       string
	}{
		{name: "nothing at all", none: true, want: "data/admin.sock"},
		{name: "the current one", want: "current:1"},
		{name: "socket", socket: "s", want: "s"},
		{name: "file", config: "/nowhere.yaml", err: "nowhere.yaml"},
		{name: "context", context: "other", want: "other:1"},
		{name: "server", server: "here:2", want: "here:2"},
		{name: "context and server", context: "other", server: "here:2", want: "here:2"},
		{name: "environment before the current one", env: map[string]string{contextEnv: "other"}, want: "other:1"},
		{name: "socket of the environment before the current one", env: map[string]string{socketEnv: "s"}, want: "s"},
		{name: "flag before the environment", context: "current", env: map[string]string{contextEnv: "other", socketEnv: "s"}, want: "current:1"},
		{name: "server before the socket of the environment", server: "here:2", env: map[string]string{socketEnv: "s"}, want: "here:2"},
		{name: "socket before the environment", socket: "s", env: map[string]string{contextEnv: "other", socketEnv: "t"}, want: "s"},
		{name: "local", context: "local", want: "data/admin.sock"},
		{name: "local of the environment", env: map[string]string{contextEnv: "local"}, want: "data/admin.sock"},
		{name: "local and its socket", context: "local", env: map[string]string{socketEnv: "s"}, want: "s"},
		{name: "two of the environment", env: map[string]string{contextEnv: "other", socketEnv: "s"}, err: "both set"},
		{name: "near and far", socket: "s", context: "other", err: "one kind"},
		{name: "server alone", server: "here:2", none: true, err: "context add NAME --server here:2"},
		{name: "a server that is local", context: "local", server: "here:2", err: "context add"},
		{name: "no port", server: "here", err: "not host:port"},
		{name: "unknown", context: "othr", err: "did you mean other?"},
		{name: "no token", context: "broken", err: "context broken: token_file"},
	} {
		a := newApp(Options{Getenv: func(k string) string {
			if k == contextsEnv && !c.none {
				return file.path
			}
			return c.env[k]
		}})
		a.socket, a.config, a.context, a.server = c.socket, c.config, c.context, c.server
		got, r, err := a.target()
		if r != nil {
			got = r.context.Server
		}
		if got != c.want || (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

// Contexts are added, shown, chosen and removed, in a file for its owner alone.
func TestContextCommands(t *testing.T) {
	ca := newAuthority(t)
	ca.person(t, "alice", 24*time.Hour)
	t.Chdir(ca.dir)
	p := &person{env: map[string]string{"HOME": t.TempDir()}}
	p.must(t, "context", "add", "prod", "--server", "mail.example.com:7443", "--ca", "ca.pem", "--certificate", "alice.pem", "--key", "alice-key.pem")
	p.must(t, "context", "add", "branch", "--server", "[::1]:7443", "--server-name", "mail.example.org", "--token-file", secret(t, "sc_x"), "--use")
	file := filepath.Join(p.env["HOME"], ".config", "stagecoach", "contexts.yaml")
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st, err)
	}
	p.must(t, "context", "list")
	if want := "prod\tmail.example.com:7443\t" + ca.path("alice.pem") + "\t\n"; !strings.HasPrefix(p.stdout, "branch\t[::1]:7443\t") || !strings.Contains(p.stdout, "\tcurrent\n") || !strings.HasSuffix(p.stdout, want) {
		t.Errorf("list: %q", p.stdout)
	}
	p.must(t, "context", "use", "prod")
	p.must(t, "context", "show")
	for _, want := range []string{"prod\n", "mail.example.com:7443", ca.path("ca.pem"), "stagecoach:person:alice", "2026-11-23"} {
		if !strings.Contains(p.stdout, want) {
			t.Errorf("show lacks %q:\n%s", want, p.stdout)
		}
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"add", "prod", "--server", "x:1", "--server-name", "x", "--token-file", secret(t, "x")}, ExitFailed, "already"},
		{[]string{"add", "local", "--server", "x:1"}, ExitUsage, "this machine"},
		{[]string{"add", "a b", "--server", "x:1"}, ExitUsage, "no name of a context"},
		{[]string{"add", "x", "--server-name", "x", "--token-file", "x"}, ExitUsage, "server is missing"},
		{[]string{"add", "x", "--server", "x", "--token-file", "x"}, ExitUsage, "not host:port"},
		{[]string{"add", "x", "--server", "x:1", "--ca", "ca.pem"}, ExitUsage, "who you are"},
		{[]string{"add", "x", "--server", "x:1", "--ca", "ca.pem", "--certificate", "alice.pem"}, ExitUsage, "go together"},
		{[]string{"add", "x", "--server", "x:1", "--ca", "ca.pem", "--certificate", "alice.pem", "--key", "alice-key.pem", "--token-file", "x"}, ExitUsage, "only one"},
		{[]string{"add", "x", "--server", "x:1", "--token-file", "x"}, ExitUsage, "server_name must be set"},
		{[]string{"add", "x", "--server", "x:1", "--ca", "ca.pem", "--certificate", "alice.pem", "--key", "ca-key.pem"}, ExitFailed, "does not match"},
		{[]string{"add", "x", "--server", "x:1", "--ca", "ca-key.pem", "--certificate", "alice.pem", "--key", "alice-key.pem"}, ExitFailed, "holds no certificate"},
		{[]string{"add", "x", "--server", "x:1", "--ca", "ca.pem", "--token-file", secret(t, "two words")}, ExitFailed, "one token"},
		{[]string{"use", "prd"}, ExitFailed, "did you mean prod?"},
		{[]string{"remove", "x"}, ExitFailed, "no context"},
		{[]string{"show", "x"}, ExitFailed, "no context"},
	} {
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if code := p.runs(t, append([]string{"context"}, c.args...)...); code != c.code || !strings.Contains(p.stderr, c.want) {
			t.Errorf("%v: exit code %d: %s", c.args, code, p.stderr)
		}
		if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
			t.Errorf("%v: the file has changed (%v)", c.args, err)
		}
	}
	p.must(t, "context", "remove", "prod")
	p.must(t, "context", "list")
	if strings.Contains(p.stdout, "prod") || strings.Contains(p.stdout, "current") {
		t.Errorf("after the removal: %q", p.stdout)
	}
	if code := p.runs(t, "context", "show"); code != ExitFailed || !strings.Contains(p.stderr, "no context is current") {
		t.Errorf("show: exit code %d: %s", code, p.stderr)
	}
}

// A file that others may write or read, and one that is not understood, is not used.
func TestContextFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "contexts.yaml")
	for _, c := range []struct {
		text string
		mode os.FileMode
		want string
	}{
		{"contexts: {}\n", 0o640, "chmod 600"},
		{"contexts: {}\n", 0o602, "chmod 600"},
		{"contexts: {a: {sever: x}}\n", 0o600, "sever"},
		{"contexts: {a: {server: x}}\n", 0o600, "context a: server \"x\" is not host:port"},
		{"contexts: {local: {server: \"x:1\", token_file: t, ca: c}}\n", 0o600, "local"},
		{"contexts: {a: }\n", 0o600, "nothing in it"},
		{"current: b\n", 0o600, "no context \"b\""},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		p := &person{env: map[string]string{contextsEnv: path}}
		if code := p.runs(t, "user", "list"); code != ExitFailed || !strings.Contains(p.stderr, c.want) {
			t.Errorf("%q: exit code %d: %s", c.text, code, p.stderr)
		}
	}
	// A token that others may read is refused too.
	token := secret(t, "sc_x")
	if err := os.Chmod(token, 0o644); err != nil {
		t.Fatal(err)
	}
	p := &person{env: map[string]string{contextsEnv: filepath.Join(t.TempDir(), "c.yaml")}}
	if code := p.runs(t, "context", "add", "x", "--server", "x:1", "--server-name", "x", "--token-file", token); code != ExitFailed || !strings.Contains(p.stderr, "chmod 600") {
		t.Errorf("token: exit code %d: %s", code, p.stderr)
	}
}

// What works with files of this machine says so.
func TestFilesAreHere(t *testing.T) {
	for _, args := range [][]string{
		{"user", "list", "--file", "users.yaml", "--context", "x"},
		{"dkim", "new", "example.com", "--keys", "keys", "--server", "x:1"},
		{"pki", "list", "--server", "x:1"},
		{"context", "list", "--context", "x"},
	} {
		p := &person{}
		if code := p.runs(t, args...); code != ExitUsage || !strings.Contains(p.stderr, "this machine") {
			t.Errorf("%v: exit code %d: %s", args, code, p.stderr)
		}
	}
}
