package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const realFile = `# ours
ingress: {listeners: [{name: l, address: "127.0.0.1:2525", tls: none}]}
stages:
  a: {type: x, address: "unix:/x", traits: []}
  b: {type: x, address: "unix:/x", traits: [], config: {n: 1}}
chains:
  - {name: out, stages: [a], deliver: box}
routes: {box: {maildir: {path: /box}}}
`

// configRunner reads files as a process does, and takes up what it is told to.
type configRunner struct {
	file    string
	service *Configuration

	mu     sync.Mutex
	text   []byte
	refuse error
}

func (r *configRunner) Parse(text []byte) (*config.Config, error) {
	return config.Options{Mode: config.ModeUp}.Parse(r.file, filepath.Dir(r.file), text)
}

func (r *configRunner) Reload() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return r.refuse
	}
	text, err := os.ReadFile(r.file)
	if err == nil {
		_, err = r.Parse(text)
	}
	if err == nil && !bytes.Equal(text, r.text) {
		r.text = text
		r.service.InForce(revisionOf(text))
	}
	return err
}

func (r *configRunner) Revision() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return revisionOf(r.text)
}

func (r *configRunner) Refused() error { return nil }

// startedConfig is a service on a file, with what runs by it and what it logs.
func startedConfig(t *testing.T) (*Configuration, *configRunner, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	r := &configRunner{file: filepath.Join(dir, "stagecoach.yaml"), text: []byte(realFile)}
	need(t, os.WriteFile(r.file, r.text, 0o600))
	log := &bytes.Buffer{}
	r.service = ConfigService(ConfigOptions{File: r.file, History: filepath.Join(dir, "data", "history"), Running: r, Logger: slog.New(slog.NewTextHandler(log, nil))})
	return r.service, r, log
}

func (r *configRunner) write(t *testing.T, text string) {
	t.Helper()
	need(t, os.WriteFile(r.file, []byte(text), 0o600))
}

func (r *configRunner) read(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(r.file)
	need(t, err)
	return string(text)
}

// fileWith is the file with a piece replaced.
func fileWith(old, now string) string { return strings.Replace(realFile, old, now, 1) }

var (
	byAlice  = func(t *testing.T) context.Context { return service.AsActor(t.Context(), "alice") }
	twoFile  = fileWith("[a]", "[a, b]")
	restFile = fileWith("listeners:", "limits: {recipients: 200}, listeners:")
)

func applyOf(text string) *adminv1.ApplyConfigRequest { return &adminv1.ApplyConfigRequest{Text: text} }

// historyLines are the history as a person reads it, the newest first.
func historyLines(t *testing.T, s *Configuration) string {
	t.Helper()
	resp, err := s.ListRevisions(t.Context(), &adminv1.ListRevisionsRequest{})
	need(t, err)
	var out []string
	for _, r := range resp.GetRevisions() {
		line := strings.Join([]string{r.GetWhat(), r.GetBy(), r.GetComment()}, "/")
		if r.GetCurrent() {
			line += "*"
		}
		out = append(out, line)
	}
	return strings.Join(out, " ")
}

func plannedIn(c *adminv1.ConfigChange) string {
	var out []string
	for _, i := range c.GetPlan() {
		out = append(out, fmt.Sprintf("%s %s %s: %s -> %s", i.GetKind(), i.GetName(), i.GetAction(), i.GetFrom(), i.GetTo()))
	}
	return strings.Join(out, "; ")
}

// Every change is in the history, with who made it and why, and each of them can be taken back.
func TestApplyAndRollback(t *testing.T) {
	t.Parallel()
	s, r, log := startedConfig(t)
	if _, err := s.RollbackConfig(byAlice(t), &adminv1.RollbackConfigRequest{}); status.Code(err) != codes.NotFound {
		t.Errorf("nothing was changed yet: %v", err)
	}
	dry := applyOf(twoFile)
	dry.DryRun = true
	resp, err := s.ApplyConfig(byAlice(t), dry)
	if c := resp.GetChange(); err != nil || c.GetWritten() || plannedIn(c) != "chain out changed:  -> stage b, after a" || !strings.Contains(c.GetDiff(), "+  - {name: out, stages: [a, b]") || r.read(t) != realFile {
		t.Errorf("%v, %v", resp, err)
	}
	a := applyOf(twoFile)
	a.Comment, a.Base = "ticket 12", revisionOf([]byte(realFile))
	if resp, err := s.ApplyConfig(byAlice(t), a); err != nil || !resp.GetChange().GetInForce() || r.read(t) != twoFile {
		t.Fatalf("%v, %v", resp, err)
	}
	if _, err := s.ApplyConfig(byAlice(t), a); status.Code(err) != codes.Aborted || r.read(t) != twoFile {
		t.Errorf("made from a former revision: %v", err)
	}
	edit := &adminv1.EditChainRequest{Chain: "out", Comment: "no b", Edit: &adminv1.EditChainRequest_Remove{Remove: &adminv1.RemoveUse{Stage: "b"}}}
	if resp, err := s.EditChain(byAlice(t), edit); err != nil || plannedIn(resp.GetChange()) != "chain out changed: stage b, after a -> " || r.read(t) != realFile {
		t.Fatalf("%v, %v", resp, err)
	}
	back, err := s.RollbackConfig(byAlice(t), &adminv1.RollbackConfigRequest{})
	if err != nil || !back.GetChange().GetInForce() || r.read(t) != twoFile || plannedIn(back.GetChange()) == "" {
		t.Fatalf("%v, %v", back, err)
	}
	if back, err := s.RollbackConfig(byAlice(t), &adminv1.RollbackConfigRequest{Revision: revisionOf([]byte(realFile))[:6], DryRun: true}); err != nil || back.GetChange().GetWritten() || r.read(t) != twoFile || back.GetChange().GetDiff() == "" {
		t.Errorf("%v, %v", back, err)
	}
	two := revisionOf([]byte(twoFile))
	if got, want := historyLines(t, s), fmt.Sprintf("config rollback %.12s/alice/* chain remove out b/alice/no b config apply/alice/ticket 12 the file was changed//", two); got != want {
		t.Errorf("%s\nnot\n%s", got, want)
	}
	for name, code := range map[string]codes.Code{"ffffff": codes.NotFound, two[:5]: codes.NotFound} {
		if _, err := s.RollbackConfig(byAlice(t), &adminv1.RollbackConfigRequest{Revision: name}); status.Code(err) != code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !strings.Contains(log.String(), `what="config apply" comment="ticket 12"`) || strings.Contains(log.String(), "history cannot") {
		t.Error(log)
	}
}

// What is already in the file is not written again, but put in force.
func TestApplyWhatIsThere(t *testing.T) {
	t.Parallel()
	s, r, _ := startedConfig(t)
	r.write(t, twoFile)
	before, err := os.Stat(r.file)
	need(t, err)
	resp, err := s.ApplyConfig(byAlice(t), applyOf(twoFile))
	after, serr := os.Stat(r.file)
	need(t, serr)
	if err != nil || !resp.GetChange().GetWritten() || !resp.GetChange().GetInForce() || resp.GetChange().GetDiff() != "" || !os.SameFile(before, after) {
		t.Errorf("%v, %v", resp, err)
	}
	if got := historyLines(t, s); got != "the file was changed//* the file was changed//" {
		t.Error(got)
	}
}

// What was written into the file by hand is in the history when it comes into force, and before something else takes
// its place.
func TestChangesByHand(t *testing.T) {
	t.Parallel()
	s, r, _ := startedConfig(t)
	r.write(t, twoFile)
	need(t, r.Reload())
	broken := fileWith("deliver: box", "deliver: nowhere")
	r.write(t, broken)
	s.InForce(revisionOf([]byte("another")))
	if got := historyLines(t, s); got != "the file was changed// the file was changed//" {
		t.Errorf("before: %s", got)
	}
	resp, err := s.ApplyConfig(byAlice(t), applyOf(restFile))
	if err != nil || !resp.GetChange().GetInForce() || plannedIn(resp.GetChange()) != "ingress.limits.recipients  changed: 1000 -> 200; chain out changed: stage b, after a -> " {
		t.Errorf("by what was in force: %q, %v, %v", plannedIn(resp.GetChange()), resp, err)
	}
	if got := historyLines(t, s); got != "config apply/alice/* the file was changed// the file was changed// the file was changed//" {
		t.Error(got)
	}
	got, err := s.GetRevision(t.Context(), &adminv1.GetRevisionRequest{})
	if err != nil || got.GetText() != broken || got.GetPlan() != nil || got.GetRevision().GetCurrent() {
		t.Errorf("%v, %v", got, err)
	}
	// Going back to what is broken changes nothing.
	back, err := s.RollbackConfig(byAlice(t), &adminv1.RollbackConfigRequest{})
	if err != nil || len(back.GetChange().GetErrors()) == 0 || back.GetChange().GetWritten() || r.read(t) != restFile {
		t.Errorf("%v, %v", back, err)
	}
	// The next start knows it all.
	r.write(t, twoFile)
	s = ConfigService(s.o)
	if got := historyLines(t, s); !strings.HasPrefix(got, "the file was changed//* config apply/alice/ ") {
		t.Error(got)
	}
}

func TestRevisionsShown(t *testing.T) {
	t.Parallel()
	s, r, _ := startedConfig(t)
	for i := range 4 {
		if _, err := s.ApplyConfig(byAlice(t), applyOf(fileWith("# ours", fmt.Sprintf("# ours %d", i)))); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for token, pages := "", 1; ; pages++ {
		resp, err := s.ListRevisions(t.Context(), &adminv1.ListRevisionsRequest{PageSize: 2, PageToken: token})
		need(t, err)
		for _, rev := range resp.GetRevisions() {
			got = append(got, rev.GetRevision())
		}
		if token = resp.GetNextPageToken(); token == "" {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
	}
	if len(got) != 5 || got[0] != r.Revision() || got[4] != revisionOf([]byte(realFile)) {
		t.Errorf("%v", got)
	}
	resp, err := s.GetRevision(t.Context(), &adminv1.GetRevisionRequest{Revision: got[4]})
	if err != nil || resp.GetText() != realFile || !strings.Contains(resp.GetDiff(), "\n+# ours 3\n") || len(resp.GetPlan()) != 0 || resp.GetRevision().GetCurrent() {
		t.Errorf("%v, %v", resp, err)
	}
	resp, err = s.GetRevision(t.Context(), &adminv1.GetRevisionRequest{Revision: got[1][:8], With: got[2][:8]})
	if err != nil || !strings.Contains(resp.GetDiff(), "\n-# ours 2\n+# ours 1\n") {
		t.Errorf("%v, %v", resp, err)
	}
	for _, req := range []*adminv1.ListRevisionsRequest{{PageSize: 201}, {PageToken: "x"}} {
		if _, err := s.ListRevisions(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
	need(t, os.WriteFile(s.history.path(got[3]+textSuffix), []byte("x"), 0o600))
	if _, err := s.GetRevision(t.Context(), &adminv1.GetRevisionRequest{Revision: got[3]}); status.Code(err) != codes.DataLoss {
		t.Errorf("a damaged text: %v", err)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	s, r, _ := startedConfig(t)
	resp, err := s.ValidateConfig(t.Context(), &adminv1.ValidateConfigRequest{Text: twoFile})
	if c := resp.GetChange(); err != nil || len(c.GetErrors()) > 0 || plannedIn(c) == "" || c.GetDiff() == "" || c.GetWritten() {
		t.Errorf("%v, %v", resp, err)
	}
	resp, err = s.ValidateConfig(t.Context(), &adminv1.ValidateConfigRequest{Text: fileWith("[a]", "[nobody]") + strings.Repeat("#", maxApplied)})
	if c := resp.GetChange(); err != nil || len(c.GetErrors()) == 0 || plannedIn(c) != "" {
		t.Errorf("%v, %v", resp, err)
	}
	if r.read(t) != realFile {
		t.Error("it was written")
	}
}

// Nothing is changed without the history, and what it does not have is not said to be there.
func TestApplyRefused(t *testing.T) {
	t.Parallel()
	s, r, log := startedConfig(t)
	for _, c := range []struct {
		req  *adminv1.ApplyConfigRequest
		code codes.Code
	}{
		{applyOf(strings.Repeat("#", maxApplied+1)), codes.InvalidArgument},
		{&adminv1.ApplyConfigRequest{Text: twoFile, Comment: "a\nb"}, codes.InvalidArgument},
		{&adminv1.ApplyConfigRequest{Text: twoFile, Comment: strings.Repeat("x", maxComment+1)}, codes.InvalidArgument},
	} {
		if _, err := s.ApplyConfig(byAlice(t), c.req); status.Code(err) != c.code {
			t.Errorf("%v", err)
		}
	}
	s.history.sync = func(*os.File) error { return errors.New("no space left on device") }
	if _, err := s.ApplyConfig(byAlice(t), applyOf(twoFile)); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "no space left") || r.read(t) != realFile {
		t.Errorf("a full disk: %v", err)
	}
	s.history.sync = (*os.File).Sync
	s.file.beforeRename = func() { r.write(t, restFile) }
	if _, err := s.ApplyConfig(byAlice(t), applyOf(twoFile)); status.Code(err) != codes.Aborted || r.read(t) != restFile {
		t.Errorf("changed meanwhile: %v", err)
	}
	s.file.beforeRename = nil
	if got := historyLines(t, s); got != "the file was changed//" {
		t.Errorf("what did not come into the file: %s", got)
	}
	need(t, os.Chmod(r.file, 0o400))
	resp, err := s.ApplyConfig(byAlice(t), applyOf(twoFile))
	if err != nil || resp.GetChange().GetWritten() || !strings.Contains(resp.GetChange().GetProblem(), "read-only") || resp.GetChange().GetDiff() == "" || plannedIn(resp.GetChange()) == "" {
		t.Errorf("%v, %v", resp, err)
	}
	if got := historyLines(t, s); got != "the file was changed//" {
		t.Error(got)
	}
	need(t, os.Chmod(r.file, 0o600))
	r.refuse = errors.New("port 25 is in use")
	resp, err = s.ApplyConfig(byAlice(t), applyOf(twoFile))
	if c := resp.GetChange(); err != nil || !c.GetWritten() || c.GetInForce() || c.GetProblem() != "port 25 is in use" {
		t.Errorf("%v, %v", resp, err)
	}
	if got := historyLines(t, s); got != "config apply/alice/* the file was changed// the file was changed//" {
		t.Error(got)
	}
	if strings.Contains(log.String(), "history cannot") {
		t.Error(log)
	}
}

// A history that cannot be kept is logged, and changes wait until it can.
func TestNoHistory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := &configRunner{file: filepath.Join(dir, "stagecoach.yaml"), text: []byte(realFile)}
	r.write(t, realFile)
	need(t, os.WriteFile(filepath.Join(dir, "data"), nil, 0o600))
	log := &bytes.Buffer{}
	s := ConfigService(ConfigOptions{File: r.file, History: filepath.Join(dir, "data", "history"), Running: r, Logger: slog.New(slog.NewTextHandler(log, nil))})
	r.service = s
	if !strings.Contains(log.String(), "its history cannot be kept") {
		t.Error(log)
	}
	if _, err := s.ApplyConfig(byAlice(t), applyOf(twoFile)); status.Code(err) != codes.FailedPrecondition || r.read(t) != realFile {
		t.Errorf("%v", err)
	}
	if _, err := s.ListRevisions(t.Context(), nil); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("%v", err)
	}
	need(t, os.Remove(filepath.Join(dir, "data")))
	if resp, err := s.ApplyConfig(byAlice(t), applyOf(twoFile)); err != nil || !resp.GetChange().GetInForce() {
		t.Errorf("%v, %v", resp, err)
	}
	if got := historyLines(t, s); got != "config apply/alice/* the file was changed//" {
		t.Error(got)
	}
}

// Many at once: each is carried out as a whole or says that somebody else was first, and the history has them all.
func TestChangesAtOnce(t *testing.T) {
	t.Parallel()
	s, r, _ := startedConfig(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := map[string]bool{}
	for i := range 8 {
		wg.Go(func() {
			req := applyOf(fileWith("# ours", fmt.Sprintf("# ours %d", i)))
			if i%2 == 0 {
				req.Base = revisionOf([]byte(realFile))
			}
			resp, err := s.ApplyConfig(byAlice(t), req)
			if err != nil && status.Code(err) != codes.Aborted {
				t.Error(err)
			}
			if resp.GetChange().GetInForce() {
				mu.Lock()
				done[resp.GetChange().GetRevision()] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	list := s.history.list()
	if len(list) != len(done)+1 || len(done) < 4 || list[0].Revision != revisionOf([]byte(r.read(t))) {
		t.Errorf("%d of %d are in the history", len(list)-1, len(done))
	}
	for _, e := range list[:len(list)-1] {
		if !done[e.Revision] {
			t.Errorf("%s was not made", e.Revision)
		}
	}
}

// The record has who changed what; the text itself is in the history.
func TestTextIsNotOnRecord(t *testing.T) {
	t.Parallel()
	for _, m := range []any{&adminv1.ApplyConfigRequest{Text: "hunter2", Comment: "why"}, &adminv1.ValidateConfigRequest{Text: "hunter2"}} {
		if got := request(m); strings.Contains(got, "hunter2") {
			t.Error(got)
		}
	}
}
