package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

// run executes the program's commands as main does.
func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	c := root()
	c.SetArgs(args)
	c.SetOut(&out)
	c.SetErr(&errs)
	err = c.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

// The table of worst cases, by which a file is checked where a stage is not linked in, is what the stages say.
func TestTraitsTable(t *testing.T) {
	if err := config.CheckFactories(factories()...); err != nil {
		t.Fatal(err)
	}
	if len(config.Builtin()) != len(factories()) {
		t.Errorf("%d types in the table, %d linked in", len(config.Builtin()), len(factories()))
	}
}

func TestDefaultConfiguration(t *testing.T) {
	t.Chdir(t.TempDir())
	cfg, file, err := loadUp(config.Options{Mode: config.ModeUp, Factories: factories()}, upOptions{dataDir: "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	if file != "" || filepath.Base(cfg.DataDir) != "elsewhere" || len(cfg.Chains) != 1 || len(cfg.Chains[0].Stages) != 4 {
		t.Errorf("file %q, data %q, chains %+v", file, cfg.DataDir, cfg.Chains)
	}
	for _, r := range cfg.Routes {
		if r.Maildir == nil {
			t.Errorf("route %s leaves the machine", r.Name)
		}
	}
	if len(cfg.Ingress.Listeners) != 1 || !strings.HasPrefix(cfg.Ingress.Listeners[0].Address, "127.0.0.1:") {
		t.Errorf("listeners: %+v", cfg.Ingress.Listeners)
	}
}

func TestCheckTellsEveryError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stagecoach.yaml")
	text := "hostname: relay.example.com\nrelay:\n  - {name: all, networks: [0.0.0.0/0]}\nchains:\n  - {name: out, stages: [nowhere], deliver: nobody}\nroutez: {}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := run(t, "check", "--up", file)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{file + ":3:", file + ":5:", file + ":6:", "nowhere", "nobody", "routez", "0.0.0.0/0"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}
}

func TestDKIMNew(t *testing.T) {
	dir := t.TempDir()
	out, _, err := run(t, "dkim", "new", "example.com", "--keys", dir, "--selector", "s1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"s1-rsa._domainkey.example.com. IN TXT", "s1-ed25519._domainkey.example.com. IN TXT", "v=DKIM1"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if _, _, err := run(t, "dkim", "new", "example.com", "--keys", dir, "--selector", "s1"); err == nil || !strings.Contains(err.Error(), "--selector") {
		t.Errorf("a published selector got another key: %v", err)
	}
}
