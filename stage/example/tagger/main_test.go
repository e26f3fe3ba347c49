package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage/stagetest"
)

func TestConformance(t *testing.T) {
	stagetest.Run(t, factory(), stagetest.Suite{Config: `tag: "[stranger]"`, Samples: [][]byte{[]byte("subject : twice\r\nSubject:\r\n folded\r\n\r\n")}})
}

func TestProcess(t *testing.T) {
	for _, tt := range []struct {
		name, raw, want string
		direction       mail.Direction
	}{
		{"tagged", "From: a\r\nSubject: hello\r\n\r\nbody", "From: a\r\nSubject: [external] hello\r\n\r\nbody", mail.Inbound},
		{"once", "Subject: [external] hello\r\n\r\n", "Subject: [external] hello\r\n\r\n", mail.Inbound},
		{"folded", "Subject:\r\n hello\r\n\r\n", "Subject: [external]\r\n hello\r\n\r\n", mail.Inbound},
		{"no subject", "From: a\r\n\r\n", "From: a\r\n\r\n", mail.Inbound},
		{"ours", "Subject: hello\r\n\r\n", "Subject: hello\r\n\r\n", mail.Outbound},
	} {
		m := stagetest.Message([]byte(tt.raw))
		m.Envelope.Origin.Direction = tt.direction
		res, err := config{Tag: "[external]"}.Process(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		c, err := mail.Apply(m.Content, res.Edits.Splices)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := mail.ReadAll(c); err != nil || string(got) != tt.want {
			t.Errorf("%s: %q (%v), want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestConfig(t *testing.T) {
	for tag, ok := range map[string]bool{"[x]": true, "": false, "a\r\nb": false, "gr\u00fc\u00df": false} {
		if err := (&config{Tag: tag}).Validate(); (err == nil) != ok {
			t.Errorf("%q: %v", tag, err)
		}
	}
}

// docs/stages.md shows this program as it is.
func TestDocs(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../../docs/stages.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, after, ok := strings.Cut(string(page), "```go\n// Command tagger"); !ok {
		t.Fatal("docs/stages.md does not show stage/example/tagger/main.go")
	} else if shown, _, _ := strings.Cut("// Command tagger"+after, "```"); shown != string(source) {
		t.Error("docs/stages.md does not show stage/example/tagger/main.go as it is: copy it there")
	}
}
