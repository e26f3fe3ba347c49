package disclaimer

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/mail"
)

// FuzzProcess: whatever comes in, nothing but the edits changes; what was stamped has the text once, reads as before up to
// it, and is not stamped again.
func FuzzProcess(f *testing.F) {
	for _, file := range goldenFiles(f) {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	st := build(f, goldenConfig)
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := message(bytes.Clone(raw))
		r, err := st.Process(context.Background(), m)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Edits.Validate(m.Content.Size()); err != nil {
			t.Fatal(err)
		}
		if r.Edits.Empty() {
			return
		}
		after, err := mail.Apply(m.Content, r.Edits.Splices)
		if err != nil {
			t.Fatal(err)
		}
		again := *m
		again.Content = after
		if r2, err := st.Process(context.Background(), &again); err != nil || !r2.Edits.Empty() {
			t.Fatalf("stamped again (%v): %v", err, r2.Notes)
		}
		before, behind := texts(t, m.Content), texts(t, after)
		if len(before) != len(behind) {
			t.Fatalf("%d texts became %d", len(before), len(behind))
		}
		for i := range before {
			if !strings.Contains(squeeze(behind[i]), squeeze(before[i])) && !strings.Contains(before[i], "<") && len(before[i]) < 1000 {
				t.Errorf("the text does not read as before: %q, %q", before[i], behind[i])
			}
		}
	})
}

// texts gives the displayed plain texts as UTF-8.
func texts(t *testing.T, c mail.Content) []string {
	root, err := mail.Walk(c)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, x := range displayed(root).texts {
		if x.html() {
			continue
		}
		r, err := x.part.Decoded(c)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, charsetOf(x.part.Charset()).ordered(b).decode(b))
	}
	return out
}
