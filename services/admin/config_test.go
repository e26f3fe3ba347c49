package admin

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const chainsFile = `# ours
stages: {a: {}, b: {}, bad: {}}
chains:
  - name: out
    stages: [a] # one
    deliver: outbox
`

// process is what runs: a text that names the stage bad twice is wrong, and the test says what else is.
type process struct {
	file     string
	revision string
	refuse   error
	reloads  int
}

func (p *process) Parse(text []byte) (*config.Config, error) {
	if strings.Count(string(text), "bad") > 1 {
		return nil, config.Errors{{File: p.file, Line: 5, Column: 14, Message: "bad is bad"}, {File: p.file, Line: 6, Column: 1, Message: "worse"}}
	}
	return &config.Config{Warnings: config.Errors{{File: p.file, Line: 1, Column: 1, Message: "beware"}}}, nil
}

func (p *process) Reload() error {
	p.reloads++
	if p.refuse != nil {
		return p.refuse
	}
	text, err := os.ReadFile(p.file)
	p.revision = revisionOf(text)
	return err
}

func (p *process) Revision() string { return p.revision }
func (p *process) Refused() error   { return p.refuse }

func newConfigService(t *testing.T) (*Configuration, *process) {
	t.Helper()
	p := &process{file: filepath.Join(t.TempDir(), "stagecoach.yaml"), revision: revisionOf([]byte(chainsFile))}
	if err := os.WriteFile(p.file, []byte(chainsFile), 0o640); err != nil {
		t.Fatal(err)
	}
	return ConfigService(ConfigOptions{File: p.file, History: filepath.Join(t.TempDir(), "history"), Running: p, Logger: slog.New(slog.DiscardHandler)}), p
}

func insertUse(stage string) *adminv1.EditChainRequest {
	return &adminv1.EditChainRequest{Chain: "out", Edit: &adminv1.EditChainRequest_Insert{Insert: &adminv1.InsertUse{
		Use: &adminv1.ConfigUse{Stage: stage, OnError: "skip"}, Place: &adminv1.UsePlace{Place: &adminv1.UsePlace_Last{Last: true}}}}}
}

// holds says what the file has, and that nothing lies beside it.
func (p *process) holds(t *testing.T, want string) {
	t.Helper()
	text, err := os.ReadFile(p.file)
	if err != nil || string(text) != want {
		t.Errorf("the file is %q, %v", text, err)
	}
	beside, err := os.ReadDir(filepath.Dir(p.file))
	if err != nil || len(beside) != 1 {
		t.Errorf("beside it: %v, %v", beside, err)
	}
}

var edited = strings.Replace(chainsFile, "[a]", "[a, {use: b, on_error: skip}]", 1)

func TestEditChain(t *testing.T) {
	s, p := newConfigService(t)
	r := insertUse("b")
	r.DryRun = true
	resp, err := s.EditChain(t.Context(), r)
	want := fmt.Sprintf("--- %s\n+++ %s\n@@ -2,5 +2,5 @@\n stages: {a: {}, b: {}, bad: {}}\n chains:\n   - name: out\n-    stages: [a] # one\n+    stages: [a, {use: b, on_error: skip}] # one\n     deliver: outbox\n", p.file, p.file)
	if err != nil || resp.GetChange().GetDiff() != want || resp.GetChange().GetWritten() || resp.GetChange().GetInForce() || resp.GetChange().GetRevision() != revisionOf([]byte(edited)) || len(resp.GetChange().GetWarnings()) != 1 || p.reloads != 0 {
		t.Errorf("a dry run: %v, %v", resp, err)
	}
	p.holds(t, chainsFile)

	r.DryRun = false
	resp, err = s.EditChain(t.Context(), r)
	if err != nil || resp.GetChange().GetDiff() != want || !resp.GetChange().GetWritten() || !resp.GetChange().GetInForce() || resp.GetChange().GetProblem() != "" || p.reloads != 1 {
		t.Errorf("%v, %v", resp, err)
	}
	p.holds(t, edited)
	if st, err := os.Stat(p.file); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	got, err := s.GetConfig(t.Context(), nil)
	if err != nil || got.GetText() != edited || !got.GetWritable() || got.GetRunning() != got.GetRevision() || len(got.GetChains()) != 1 || got.GetChains()[0].GetUses()[1].GetOnError() != "skip" {
		t.Errorf("%v, %v", got, err)
	}
	// And back.
	resp, err = s.EditChain(t.Context(), &adminv1.EditChainRequest{Chain: "out", Edit: &adminv1.EditChainRequest_Remove{Remove: &adminv1.RemoveUse{Stage: "b"}}})
	if err != nil || !resp.GetChange().GetInForce() {
		t.Errorf("%v, %v", resp, err)
	}
	p.holds(t, chainsFile)
}

// What is broken changes nothing, and says all that is wrong.
func TestBrokenEdit(t *testing.T) {
	s, p := newConfigService(t)
	resp, err := s.EditChain(t.Context(), insertUse("bad"))
	if err != nil || len(resp.GetChange().GetErrors()) != 2 || !strings.Contains(resp.GetChange().GetErrors()[0], "stagecoach.yaml:5:14: bad is bad") || resp.GetChange().GetWritten() || resp.GetChange().GetDiff() == "" {
		t.Errorf("%v, %v", resp, err)
	}
	for _, r := range []*adminv1.EditChainRequest{insertUse("nobody"), {Chain: "out"}, {Chain: "outt", Edit: insertUse("b").GetEdit()}} {
		if _, err := s.EditChain(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", r, err)
		}
	}
	p.holds(t, chainsFile)
	if p.reloads != 0 {
		t.Error("it was taken up")
	}
}

// A file that is not to be written is not, not even by root; the answer has the patch.
func TestReadOnly(t *testing.T) {
	s, p := newConfigService(t)
	if err := os.Chmod(p.file, 0o444); err != nil {
		t.Fatal(err)
	}
	resp, err := s.EditChain(t.Context(), insertUse("b"))
	if err != nil || resp.GetChange().GetWritten() || resp.GetChange().GetInForce() || !strings.Contains(resp.GetChange().GetProblem(), "read-only") || !strings.Contains(resp.GetChange().GetDiff(), "+    stages: [a, {use: b") {
		t.Errorf("%v, %v", resp, err)
	}
	p.holds(t, chainsFile)
	if got, err := s.GetConfig(t.Context(), nil); err != nil || got.GetWritable() || !strings.Contains(got.GetNotWritable(), "0444") {
		t.Errorf("%v, %v", got, err)
	}
}

// What somebody else writes between reading and renaming stays.
func TestForeignChange(t *testing.T) {
	s, p := newConfigService(t)
	theirs := chainsFile + "# theirs\n"
	s.file.beforeRename = func() {
		if err := os.WriteFile(p.file, []byte(theirs), 0o600); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.EditChain(t.Context(), insertUse("b")); status.Code(err) != codes.Aborted {
		t.Errorf("%v", err)
	}
	p.holds(t, theirs)
	if p.reloads != 0 {
		t.Error("it was taken up")
	}
}

// The link stays a link.
func TestLink(t *testing.T) {
	s, p := newConfigService(t)
	link := filepath.Join(t.TempDir(), "link.yaml")
	if err := os.Symlink(p.file, link); err != nil {
		t.Fatal(err)
	}
	s.o.File, s.file.path = link, link
	if resp, err := s.EditChain(t.Context(), insertUse("b")); err != nil || !resp.GetChange().GetInForce() {
		t.Errorf("%v, %v", resp, err)
	}
	p.holds(t, edited)
	if to, err := os.Readlink(link); err != nil || to != p.file {
		t.Errorf("%q, %v", to, err)
	}
}

// A change that those who run it refuse is in the file, and the answer says that it is not in force.
func TestNotTakenUp(t *testing.T) {
	s, p := newConfigService(t)
	p.refuse = errors.New("stage b cannot run it")
	resp, err := s.EditChain(t.Context(), insertUse("b"))
	if err != nil || !resp.GetChange().GetWritten() || resp.GetChange().GetInForce() || resp.GetChange().GetProblem() != "stage b cannot run it" {
		t.Errorf("%v, %v", resp, err)
	}
	p.holds(t, edited)
	if got, err := s.GetConfig(t.Context(), nil); err != nil || got.GetRefused() == "" || got.GetRunning() == got.GetRevision() {
		t.Errorf("%v, %v", got, err)
	}
}

func TestNoFile(t *testing.T) {
	s := ConfigService(ConfigOptions{BuiltIn: []byte(chainsFile), Running: &process{revision: "r"}, Logger: slog.New(slog.DiscardHandler)})
	if _, err := s.EditChain(t.Context(), insertUse("b")); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "stagecoach.yaml") {
		t.Errorf("%v", err)
	}
	got, err := s.GetConfig(t.Context(), nil)
	if err != nil || got.GetText() != chainsFile || got.GetFile() != "" || got.GetWritable() || len(got.GetChains()) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestUnified(t *testing.T) {
	numbers := func(from, to int) string {
		var b strings.Builder
		for i := from; i <= to; i++ {
			fmt.Fprintln(&b, i)
		}
		return b.String()
	}
	for _, c := range []struct{ old, now, want string }{
		{"a\n", "a\n", ""},
		{"", "a\n", "@@ -0,0 +1,1 @@\n+a\n"},
		{"a", "a\nb\n", "@@ -1,1 +1,2 @@\n-a\n\\ No newline at end of file\n+a\n+b\n"},
		{numbers(1, 20), strings.Replace(strings.Replace(numbers(1, 20), "\n2\n", "\n", 1), "19\n", "19\nx\n", 1), "@@ -1,5 +1,4 @@\n 1\n-2\n 3\n 4\n 5\n@@ -17,4 +16,5 @@\n 17\n 18\n 19\n+x\n 20\n"},
		{numbers(1, 9), strings.Replace(strings.Replace(numbers(1, 9), "2\n", "", 1), "8\n", "y\n", 1), "@@ -1,9 +1,8 @@\n 1\n-2\n 3\n 4\n 5\n 6\n 7\n-8\n+y\n 9\n"},
	} {
		want := c.want
		if want != "" {
			want = "--- f\n+++ f\n" + want
		}
		if got := unified("f", c.old, c.now); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
