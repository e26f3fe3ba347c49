package signer

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
	"github.com/stagecoachmail/stagecoach/stage/stagetest"
)

var update = flag.Bool("update", false, "write the .want files anew")

// Each testdata/NN-name has the message (.eml), what becomes of it behind verdict and notes (.want), and why (.readme).
func TestGolden(t *testing.T) {
	st := build(t, settings(t), keysInTestdata)
	for _, file := range goldenFiles(t) {
		name := strings.TrimSuffix(filepath.Base(file), ".eml")
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat("testdata/" + name + ".readme"); err != nil {
				t.Error(err)
			}
			m := message(string(raw))
			r, err := st.Process(context.Background(), m)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			fmt.Fprintf(&b, "%v\n", r.Verdict.Kind)
			if r.Verdict.Reply != nil {
				fmt.Fprintf(&b, "%s\n", r.Verdict.Reply.Public())
			}
			for _, n := range r.Notes {
				fmt.Fprintf(&b, "%s=%s\n", n.Key, n.Value)
			}
			if r.Verdict.Kind == stage.KindContinue {
				c, err := mail.Apply(m.Content, r.Edits.Splices)
				if err != nil {
					t.Fatal(err)
				}
				after, err := mail.ReadAll(c)
				if err != nil {
					t.Fatal(err)
				}
				b.WriteString("\n" + string(after))
				for _, v := range verify(t, string(after), lookup(t, "testdata/keys")) {
					if v.Err != nil && v.Domain != "example.org" {
						t.Error(v.Err)
					}
				}
			}
			wantFile := "testdata/" + name + ".want"
			if *update {
				if err := os.WriteFile(wantFile, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
			}
		})
	}
}

func goldenFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.eml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d golden mails (%v)", len(files), err)
	}
	return files
}

func TestConformance(t *testing.T) {
	suite := stagetest.Suite{Config: keysInTestdata, ConfigDir: settings(t).ConfigDir}
	for _, file := range goldenFiles(t) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		suite.Samples = append(suite.Samples, raw)
	}
	stagetest.Run(t, Factory(), suite)
}

// The configuration in the README is one that works.
func TestReadmeConfig(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var example strings.Builder
	fenced := false // what is fenced is a part of a config: TestReadmeRules
	for line := range strings.Lines(string(readme)) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		if code, ok := strings.CutPrefix(line, "    "); ok && !fenced {
			example.WriteString(code)
		}
	}
	var file struct {
		Stages map[string]struct {
			Config yaml.MapSlice `yaml:"config"`
		} `yaml:"stages"`
	}
	if err := yaml.Unmarshal([]byte(example.String()), &file); err != nil || len(file.Stages) != 1 {
		t.Fatalf("%d stages (%v)", len(file.Stages), err)
	}
	s := settings(t)
	if _, err := WriteKeys(filepath.Join(s.DataDir, "keys"), "example.com", "s1", Ed25519); err != nil {
		t.Fatal(err)
	}
	for _, st := range file.Stages {
		config, err := yaml.Marshal(st.Config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tryBuild(s, string(config)); err != nil || len(st.Config) == 0 {
			t.Errorf("%s: %v", config, err)
		}
	}
}
