package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (f *fake) ValidateConfig(context.Context, *adminv1.ValidateConfigRequest) (*adminv1.ValidateConfigResponse, error) {
	return &adminv1.ValidateConfigResponse{Change: f.edit}, nil
}

func (f *fake) ApplyConfig(context.Context, *adminv1.ApplyConfigRequest) (*adminv1.ApplyConfigResponse, error) {
	return &adminv1.ApplyConfigResponse{Change: f.edit}, nil
}

func (f *fake) RollbackConfig(context.Context, *adminv1.RollbackConfigRequest) (*adminv1.RollbackConfigResponse, error) {
	return &adminv1.RollbackConfigResponse{Change: f.edit}, nil
}

// ListRevisions gives pages of two.
func (f *fake) ListRevisions(_ context.Context, r *adminv1.ListRevisionsRequest) (*adminv1.ListRevisionsResponse, error) {
	all := revisionSamples()
	from := len(r.GetPageToken())
	resp := &adminv1.ListRevisionsResponse{Revisions: all[from:min(from+2, len(all))]}
	if from+2 < len(all) {
		resp.NextPageToken = r.GetPageToken() + "xx"
	}
	return resp, nil
}

func (f *fake) GetRevision(_ context.Context, r *adminv1.GetRevisionRequest) (*adminv1.GetRevisionResponse, error) {
	for i, s := range revisionSamples() {
		if s.GetRevision() == r.GetRevision() || r.GetRevision() == "" {
			return &adminv1.GetRevisionResponse{Revision: s, Text: revisionTexts[i], Diff: diffSample, Plan: planSample()}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no such revision is kept")
}

func revisionSamples() []*adminv1.ConfigRevision {
	return []*adminv1.ConfigRevision{
		{Revision: "4444444444444444", At: before(time.Minute), By: "alice", What: "config rollback 222222222222", Comment: "it broke \x1b[31msignatures\u202e", Current: true},
		{Revision: "3333333333333333", At: before(2 * time.Hour), By: "bob", What: "chain insert outbound footer after antivirus"},
		{Revision: "2222222222222222", At: before(50 * time.Hour), What: "the file was changed"},
		{Revision: "1111111111111111", At: before(240 * time.Hour), What: "the file was changed"},
	}
}

// revisionTexts are what the revisions say of chains.
var revisionTexts = []string{
	"chains: [{name: outbound, stages: [a]}, {name: inbound, stages: [a]}]",
	"chains: [{name: outbound, stages: [a, footer]}, {name: inbound, stages: [a]}] # x",
	"chains: [{stages: [a], name: outbound}, {name: inbound, stages: [a]}]",
	"chains: [{name: inbound, stages: [a]}]",
}

func planSample() []*adminv1.PlanItem {
	return []*adminv1.PlanItem{
		{Kind: "hostname", Action: "changed", From: "a.example", To: "b.example", Restart: "signer"},
		{Kind: "data_dir", Action: "changed", From: "/a", To: "/b", Restart: "every service"},
		{Kind: "listener", Name: "mx", Action: "added", To: ":25, tls starttls"},
		{Kind: "chain", Name: "outbound", Action: "removed", From: "match: everything\x1b; stages: none; deliver: out"},
		{Kind: "nats.servers", Action: "changed", From: "a", To: "b", Restart: "every service"},
	}
}

func TestHistoryOutput(t *testing.T) {
	f := newFake(t)
	f.edit = &adminv1.ConfigChange{Diff: diffSample, Plan: planSample(), Revision: "0123456789abcdef", Written: true, InForce: true, Warnings: []string{"beware"}}
	file := filepath.Join(t.TempDir(), "new.yaml")
	if err := os.WriteFile(file, []byte("a: b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	whole := &adminv1.ListRevisionsResponse{Revisions: revisionSamples()}
	ofOne := &adminv1.ListRevisionsResponse{Revisions: revisionSamples()[:3]}
	for _, c := range []struct {
		name, args string
		doc        proto.Message
	}{
		{"config-history", "config history", whole},
		{"config-history", "chain history", whole},
		{"chain-history", "chain history outbound", ofOne},
		{"config-diff", "config diff 2222222222222222", nil},
		{"config-diff", "chain diff", nil},
		{"config-apply", "config apply " + file, f.edit},
		{"config-apply", "config rollback", f.edit},
		{"config-apply", "chain remove out footer", f.edit},
		{"config-validate", "config validate " + file, f.edit},
	} {
		for _, how := range []string{"terminal", "pipe", "json"} {
			p := &person{terminal: how == "terminal"}
			args := append(strings.Fields(c.args), "--socket", f.socket)
			if how == "json" {
				args = append(args, "--json")
			}
			if code := p.runs(t, args...); code != ExitDone {
				t.Fatalf("%s: exit code %d, %s", c.args, code, p.stderr)
			}
			if how == "json" {
				if c.doc != nil {
					sameDocument(t, p.stdout, c.doc)
				}
				continue
			}
			out := p.stdout
			if how == "terminal" {
				harmlessOnly(t, c.args, out)
			}
			if p.stderr != "" {
				out += "--- on the standard error output\n" + p.stderr
				if strings.Contains(p.stderr, "\x1b") {
					t.Errorf("%s: not harmless: %q", c.args, p.stderr)
				}
			}
			golden(t, c.name+"."+how, visible(out))
		}
	}
}

// What is asked of the service is what was typed.
func TestConfigRequests(t *testing.T) {
	f := newFake(t)
	f.edit = &adminv1.ConfigChange{Diff: diffSample, Written: true, InForce: true}
	file := filepath.Join(t.TempDir(), "new.yaml")
	if err := os.WriteFile(file, []byte("a: b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]proto.Message{
		"config apply " + file:                         &adminv1.ApplyConfigRequest{Text: "a: b\n"},
		"config apply - --dry-run --comment why":       &adminv1.ApplyConfigRequest{Text: "c: d\n", DryRun: true, Comment: "why"},
		"config validate -":                            &adminv1.ValidateConfigRequest{Text: "c: d\n"},
		"config rollback":                              &adminv1.RollbackConfigRequest{},
		"chain rollback 012345 --dry-run --comment no": &adminv1.RollbackConfigRequest{Revision: "012345", DryRun: true, Comment: "no"},
		"config diff":                                  &adminv1.GetRevisionRequest{},
		"chain diff 2222222222222222 111111":           &adminv1.GetRevisionRequest{Revision: "2222222222222222", With: "111111"},
		"chain remove out footer --comment why": &adminv1.EditChainRequest{Chain: "out", Comment: "why",
			Edit: &adminv1.EditChainRequest_Remove{Remove: &adminv1.RemoveUse{Stage: "footer"}}},
	} {
		p := &person{stdin: "c: d\n"}
		if code := p.runs(t, append(strings.Fields(args), "--socket", f.socket)...); code != ExitDone || p.stdout != diffSample {
			t.Errorf("%s: exit code %d, %q, %s", args, code, p.stdout, p.stderr)
			continue
		}
		if got := f.last(t); !proto.Equal(got, want) {
			t.Errorf("%s: asked %v, not %v", args, got, want)
		}
	}
	f.asked = nil
	large := filepath.Join(t.TempDir(), "large.yaml")
	if err := os.WriteFile(large, make([]byte, largestConfig+1), 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "binary")
	if err := os.WriteFile(binary, []byte("a: \xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, code := range map[string]int{
		"config apply": ExitUsage, "config apply a b": ExitUsage, "config validate": ExitUsage, "config rollback a b": ExitUsage, "config diff a b c": ExitUsage,
		"config apply " + large: ExitFailed, "config validate " + binary: ExitFailed, "config apply /nowhere/at/all": ExitFailed,
	} {
		p := &person{}
		if got := p.runs(t, append(strings.Fields(args), "--socket", f.socket)...); got != code || len(f.asked) > 0 {
			t.Errorf("%s: exit code %d, %s, asked %v", args, got, p.stderr, f.asked)
		}
	}
}

// A configuration that is wrong is told as such, each error on its own.
func TestValidateFails(t *testing.T) {
	f := newFake(t)
	f.edit = &adminv1.ConfigChange{Diff: diffSample, Errors: []string{"f:1:2: one", "f:3:4: two\x1b"}}
	for _, command := range []string{"validate", "apply"} {
		p := &person{stdin: "x"}
		if code := p.runs(t, "config", command, "-", "--socket", f.socket); code != ExitFailed || !strings.Contains(p.stderr, "wrong:\nf:1:2: one\nf:3:4: two") || strings.Contains(p.stderr, "\x1b") {
			t.Errorf("%s: exit code %d, %q", command, code, p.stderr)
		}
	}
	p := &person{}
	if code := p.runs(t, "chain", "history", "inbuond", "--socket", f.socket); code != ExitFailed || !strings.Contains(p.stderr, "did you mean inbound?") {
		t.Errorf("exit code %d, %s", code, p.stderr)
	}
	p = &person{}
	if code := p.runs(t, "config", "diff", "ffffff", "--socket", f.socket); code != ExitFailed || !strings.Contains(p.stderr, "no such revision") {
		t.Errorf("exit code %d, %s", code, p.stderr)
	}
}
