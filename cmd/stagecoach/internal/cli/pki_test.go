package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/pki"
)

// pkiAt runs `pki init` as if it were so long before noon, and gives the folder.
func pkiAt(t *testing.T, ago time.Duration, services ...string) pki.Folder {
	t.Helper()
	f := pki.Folder{Dir: filepath.Join(t.TempDir(), "pki"), Now: func() time.Time { return noon.Add(-ago) }}
	var list []pki.Service
	for _, s := range services {
		list = append(list, pki.Service{Name: s})
	}
	if _, err := f.Init(list); err != nil {
		t.Fatal(err)
	}
	return f
}

// samplePKI has something of everything: ends soon, has ended, does not fit, is of another CA, is not to be read.
func samplePKI(t *testing.T) string {
	t.Helper()
	f := pkiAt(t, pki.Valid-10*day, "ingress")
	add := func(ago time.Duration, name string) {
		f.Now = func() time.Time { return noon.Add(-ago) }
		if _, _, err := f.Renew(pki.Renewal{Names: []string{name}}); err != nil {
			t.Fatal(err)
		}
	}
	add(pki.Valid+day-30*day, "egress") // the CA begins later than a year ago
	add(0, "admin")
	add(0, "signer")
	add(0, "tagger")
	add(0, "archive")
	other := pkiAt(t, 0, "antivirus", "signer")
	for from, to := range map[string]string{"signer-key.pem": "signer-key.pem", "antivirus.pem": "antivirus.pem", "antivirus-key.pem": "antivirus-key.pem"} {
		data, err := os.ReadFile(filepath.Join(other.Dir, from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.Dir, to), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(f.Dir, "tagger-key.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.Dir, "archive.pem"), []byte("\x1b[31mgarbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	return f.Dir
}

// What the commands print.
func TestPKIOutput(t *testing.T) {
	for _, c := range []struct {
		name, args string
		code       int
	}{
		{"pki-list", "pki list", 2},
		{"pki-renew", "pki renew", 1},
		{"pki-renew-all", "pki renew --all admin signer other", 0},
	} {
		for _, how := range []string{"terminal", "pipe", "json"} {
			dir := samplePKI(t)
			p := &person{terminal: how == "terminal"}
			args := append(strings.Fields(c.args), "--dir", dir)
			if how == "json" {
				args = append(args, "--json")
			}
			if code := p.runs(t, args...); code != c.code {
				t.Fatalf("%s, %s: exit code %d: %s", c.name, how, code, p.stderr)
			}
			harmlessOnly(t, how, p.stdout)
			if how == "json" && !json.Valid([]byte(p.stdout)) {
				t.Errorf("%s: this is no JSON document: %s", c.name, p.stdout)
			}
			golden(t, c.name+"."+how, strings.ReplaceAll(visible(p.stdout), dir, "DIR"))
		}
	}
	for _, how := range []string{"terminal", "pipe", "json"} {
		dir := filepath.Join(t.TempDir(), "pki")
		p := &person{terminal: how == "terminal"}
		args := []string{"pki", "init", "--dir", dir}
		if how == "json" {
			args = append(args, "--json")
		}
		if code := p.runs(t, args...); code != 0 || !strings.Contains(p.stderr, "warning: "+dir+"/ca-key.pem lies where the services can read it") {
			t.Fatalf("exit code %d: %s", code, p.stderr)
		}
		golden(t, "pki-init."+how, visible(p.stdout))
	}
}

// From the first file to the next year, by the commands alone.
func TestPKICommands(t *testing.T) {
	tmp := t.TempDir()
	dir, ca, file := filepath.Join(tmp, "pki"), filepath.Join(tmp, "ca"), filepath.Join(tmp, "stagecoach.yaml")
	where := []string{"--dir", dir, "--ca-dir", ca}
	if err := os.WriteFile(file, []byte("stages: {antivirus: {}, mark: {type: tagger, identity: tagger.example}, two: {type: antivirus}, broken-is-fine: null}\nnobody: knows\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(code int, args ...string) *person {
		t.Helper()
		p := &person{}
		if got := p.runs(t, append(append([]string{"pki"}, args...), where...)...); got != code {
			t.Fatalf("%v: exit code %d, not %d: %s%s", args, got, code, p.stdout, p.stderr)
		}
		return p
	}
	run(2, "list")
	run(2, "renew")
	p := run(0, "init", "-c", file)
	var names []string
	for line := range strings.Lines(p.stdout) {
		name, _, _ := strings.Cut(line, "\t")
		names = append(names, name)
	}
	if got := strings.Join(names, " "); got != "ca admin antivirus broken-is-fine egress ingress tagger" || p.stderr != "" {
		t.Errorf("made: %s; %s", got, p.stderr)
	}
	// Callers look for the identity that the configuration names.
	services, err := servicesOf(file)
	if i := slices.IndexFunc(services, func(s pki.Service) bool { return s.Name == "tagger" }); err != nil || i < 0 || !slices.Equal(services[i].Also, []string{"tagger.example"}) {
		t.Errorf("%+v, %v", services, err)
	}
	if p := run(2, "init"); !strings.Contains(p.stderr, "nothing is overwritten") {
		t.Error(p.stderr)
	}
	run(0, "list")
	if p := run(0, "renew"); strings.Count(p.stdout, "\tkept\t") != 6 {
		t.Error(p.stdout)
	}
	if p := run(0, "renew", "other"); !strings.HasPrefix(p.stdout, "other\tmade\t") {
		t.Error(p.stdout)
	}
	run(0, "renew", "--all")
	for _, wrong := range [][]string{{"renew", "--before", "soon"}, {"renew", "--before", "365d"}, {"renew", "--before", "-1h"}, {"renew", "../x"}, {"renew", "ca"}, {"init", "x"}, {"list", "x"}} {
		run(64, wrong...)
	}
	run(2, "init", "-c", filepath.Join(tmp, "none.yaml"))
}

// The end of the CA is told long before.
func TestPKIEndOfCA(t *testing.T) {
	f := pkiAt(t, 3640*day, "ingress")
	p := &person{}
	if code := p.runs(t, "pki", "renew", "--dir", f.Dir); code != 1 || !strings.Contains(p.stdout, "ingress\trenewed\t") || !strings.Contains(p.stderr, "ca.pem ends on 2026-12-04") {
		t.Errorf("exit code %d: %s%s", code, p.stdout, p.stderr)
	}
	if code := p.runs(t, "pki", "list", "--dir", f.Dir); code != 1 || strings.Count(p.stdout, "ends within 14 days") != 2 {
		t.Errorf("exit code %d: %s", code, p.stdout)
	}
}
