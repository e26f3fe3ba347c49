package disclaimer

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
	"github.com/stagecoachmail/stagecoach/stage/stagetest"
)

var update = flag.Bool("update", false, "write the .want files anew")

// noon is when the messages of the tests were accepted.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const goldenConfig = `
text: |
  -- 
  Grüße aus Köln — {{.SenderName}}, {{.SenderDomain}}
  Example GmbH, HRB 1 = registered
html: |
  <hr>
  <p>Grüße aus Köln — {{.SenderName}} &lt;<a href="mailto:{{.Sender}}">{{.Sender}}</a>&gt;</p>
`

func settings(t testing.TB) stage.Settings {
	t.Helper()
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return stage.Settings{
		Instance: "footer", Hostname: "relay.example.com", Logger: slog.New(slog.DiscardHandler),
		ConfigDir: dir, DataDir: t.TempDir(), TempDir: t.TempDir(), Now: func() time.Time { return noon },
	}
}

func tryBuild(s stage.Settings, config string) (stage.Stage, error) {
	c, err := Factory().Decode(func(into any) error {
		return yaml.UnmarshalWithOptions([]byte(config), into, yaml.Strict())
	})
	if err != nil {
		return nil, err
	}
	return Factory().New(s, c)
}

func build(t testing.TB, config string) stage.Stage {
	t.Helper()
	st, err := tryBuild(settings(t), config)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func message(raw []byte) *mail.Message {
	return &mail.Message{
		ID: "test", Attempt: 1, Received: noon,
		Envelope: mail.Envelope{
			ReversePath: mail.Address{Local: "anna", Domain: "example.com"},
			Recipients:  []mail.Recipient{{ID: "1", Address: mail.Address{Local: "bob", Domain: "example.net"}}},
		},
		Pending: []mail.RecipientID{"1"},
		Content: mail.FromBytes(raw),
	}
}

// run gives the message after the stage, and its notes.
func run(t testing.TB, st stage.Stage, raw []byte) (after []byte, notes string) {
	t.Helper()
	m := message(raw)
	r, err := st.Process(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict.Kind != stage.KindContinue || len(r.Forks) > 0 {
		t.Fatalf("verdict %v, %d forks", r.Verdict.Kind, len(r.Forks))
	}
	c, err := mail.Apply(m.Content, r.Edits.Splices)
	if err != nil {
		t.Fatal(err)
	}
	after, err = mail.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "%s=%s\n", n.Key, n.Value)
	}
	return after, b.String()
}

// Each testdata/NN-name has the message (.eml), the message with its disclaimer behind the notes (.want), and why
// (.readme).
func TestGolden(t *testing.T) {
	st := build(t, goldenConfig)
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
			after, notes := run(t, st, raw)
			got := notes + "\n" + string(after)
			wantFile := "testdata/" + name + ".want"
			if *update {
				if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			twice, _ := run(t, st, after)
			if string(twice) != string(after) {
				t.Errorf("stamped again on the second pass:\n%s", twice)
			}
		})
	}
}

func goldenFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.eml")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d golden mails (%v)", len(files), err)
	}
	return files
}

func TestConformance(t *testing.T) {
	suite := stagetest.Suite{Config: goldenConfig}
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
	for line := range strings.Lines(string(readme)) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
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
	for _, st := range file.Stages {
		config, err := yaml.Marshal(st.Config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tryBuild(settings(t), string(config)); err != nil || len(st.Config) == 0 {
			t.Errorf("%s: %v", config, err)
		}
	}
}
