package cli

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (f *fake) GetConfig(context.Context, *adminv1.GetConfigRequest) (*adminv1.GetConfigResponse, error) {
	return proto.CloneOf(f.file), nil
}

func (f *fake) EditChain(context.Context, *adminv1.EditChainRequest) (*adminv1.EditChainResponse, error) {
	return &adminv1.EditChainResponse{Change: f.edit}, nil
}

func configSample() *adminv1.GetConfigResponse {
	return &adminv1.GetConfigResponse{File: "stagecoach.yaml", Revision: "r1", Running: "r1", Writable: true, Text: "a: b # \x1b\n", Chains: []*adminv1.ConfigChain{
		{Name: "inbound", Deliver: "exchange", Uses: []*adminv1.ConfigUse{{Stage: "antivirus", Inline: true}, {Stage: "tagger", Shadow: true}, {Stage: "archive\u202e", OnError: "quarantine"}}},
		{Name: "outbound", Deliver: "provider"},
	}}
}

const diffSample = "--- f\n+++ f\n@@ -1,2 +1,2 @@\n-a\x1b\n+b\n c\n"

// What is asked of the service is what was typed.
func TestChainRequests(t *testing.T) {
	f := newFake(t)
	f.edit = &adminv1.ConfigChange{Diff: diffSample, Written: true, InForce: true}
	insert := func(u *adminv1.ConfigUse, p *adminv1.UsePlace) *adminv1.EditChainRequest {
		return &adminv1.EditChainRequest{Chain: "out", Edit: &adminv1.EditChainRequest_Insert{Insert: &adminv1.InsertUse{Use: u, Place: p}}}
	}
	dry := insert(&adminv1.ConfigUse{Stage: "footer"}, &adminv1.UsePlace{Place: &adminv1.UsePlace_Last{Last: true}})
	dry.DryRun = true
	for args, want := range map[string]*adminv1.EditChainRequest{
		"insert out footer --before archive --on-error skip --shadow": insert(&adminv1.ConfigUse{Stage: "footer", OnError: "skip", Shadow: true}, &adminv1.UsePlace{Place: &adminv1.UsePlace_Before{Before: "archive"}}),
		"insert out footer --after archive --inline":                  insert(&adminv1.ConfigUse{Stage: "footer", Inline: true}, &adminv1.UsePlace{Place: &adminv1.UsePlace_After{After: "archive"}}),
		"insert out footer --last --dry-run":                          dry,
		"remove out footer":                                           {Chain: "out", Edit: &adminv1.EditChainRequest_Remove{Remove: &adminv1.RemoveUse{Stage: "footer"}}},
		"move out footer --first":                                     {Chain: "out", Edit: &adminv1.EditChainRequest_Move{Move: &adminv1.MoveUse{Stage: "footer", Place: &adminv1.UsePlace{Place: &adminv1.UsePlace_First{First: true}}}}},
		"replace out footer footer-de":                                {Chain: "out", Edit: &adminv1.EditChainRequest_Replace{Replace: &adminv1.ReplaceUse{Stage: "footer", By: "footer-de"}}},
	} {
		p := &person{}
		if code := p.runs(t, append([]string{"chain", "--socket", f.socket}, strings.Fields(args)...)...); code != ExitDone || p.stdout != diffSample {
			t.Errorf("%s: exit code %d, %q, %s", args, code, p.stdout, p.stderr)
			continue
		}
		if got := f.last(t); !proto.Equal(got, want) {
			t.Errorf("%s: asked %v, not %v", args, got, want)
		}
	}
	f.asked = nil
	for _, args := range []string{"insert out footer", "insert out footer --first --last", "insert out", "move out footer", "move out footer --before a --after b", "remove out", "replace out footer", "show", "list x", "insrt"} {
		p := &person{}
		if code := p.runs(t, append([]string{"chain", "--socket", f.socket}, strings.Fields(args)...)...); code != ExitUsage || len(f.asked) > 0 {
			t.Errorf("%s: exit code %d, %s, asked %v", args, code, p.stderr, f.asked)
		}
	}
}

// What became of an edit is in the exit code, and in words on a terminal.
func TestChainOutcome(t *testing.T) {
	f := newFake(t)
	for _, c := range []struct {
		resp   *adminv1.ConfigChange
		more   string
		code   int
		stderr string
	}{
		{&adminv1.ConfigChange{Diff: diffSample, Written: true, InForce: true, Revision: "0123456789abcdef"}, "", ExitDone, "in force from the next message on: revision 0123456789ab\n"},
		{&adminv1.ConfigChange{Diff: diffSample, Warnings: []string{"be\x1bware"}}, "--dry-run", ExitDone, "warning: be"},
		{&adminv1.ConfigChange{Diff: diffSample, Errors: []string{"f:1:2: one", "f:3:4: two\x1b"}}, "--dry-run", ExitFailed, "f:1:2: one\nf:3:4: two"},
		{&adminv1.ConfigChange{Diff: diffSample, Problem: "read-only: f has mode 0444"}, "", ExitFailed, "mode 0444\nWhat is shown is the patch"},
		{&adminv1.ConfigChange{Diff: diffSample, Written: true, Problem: "stage b cannot run it"}, "", ExitPartly, "not in force: stage b cannot run it"},
		{&adminv1.ConfigChange{Written: true, InForce: true}, "", ExitDone, "nothing changes"},
	} {
		f.edit = c.resp
		for _, how := range []string{"terminal", "pipe", "json"} {
			p := &person{terminal: how == "terminal"}
			args := append(strings.Fields("chain remove out footer --socket "+f.socket), strings.Fields(c.more)...)
			if how == "json" {
				args = append(args, "--json")
			}
			if code := p.runs(t, args...); code != c.code {
				t.Errorf("%s %v: exit code %d, %s", how, c.resp, code, p.stderr)
			}
			if strings.Contains(p.stderr, "\x1b") {
				t.Errorf("%s: not harmless: %q", how, p.stderr)
			}
			switch how {
			case "terminal":
				harmlessOnly(t, how, p.stdout)
				if !strings.Contains(p.stderr, c.stderr) {
					t.Errorf("it says %q, not %q", p.stderr, c.stderr)
				}
			case "pipe":
				if p.stdout != c.resp.GetDiff() {
					t.Errorf("the diff is %q", p.stdout)
				}
			default:
				sameDocument(t, p.stdout, c.resp)
			}
		}
	}
}

func TestChainsShown(t *testing.T) {
	f := newFake(t)
	f.file = configSample()
	for args, want := range map[string]string{
		"chain list":          "inbound\tantivirus,tagger,archive\\u202e\texchange\noutbound\t\tprovider\n",
		"chain show inbound":  "antivirus\tdefer\tinline\ntagger\tdefer\tshadow\narchive\\u202e\tquarantine\tqueue\n",
		"chain show outbound": "",
		"config show":         f.file.GetText(),
	} {
		for _, terminal := range []bool{false, true} {
			p := &person{terminal: terminal}
			if code := p.runs(t, append(strings.Fields(args), "--socket", f.socket)...); code != ExitDone || p.stderr != "" {
				t.Errorf("%s: exit code %d, %s", args, code, p.stderr)
			}
			if terminal {
				harmlessOnly(t, args, p.stdout)
			} else if p.stdout != want {
				t.Errorf("%s: %q, not %q", args, p.stdout, want)
			}
		}
	}
	p := &person{}
	p.runs(t, "config", "show", "--json", "--socket", f.socket)
	sameDocument(t, p.stdout, f.file)
	p = &person{}
	if code := p.runs(t, "chain", "show", "inbuond", "--socket", f.socket); code != ExitFailed || !strings.Contains(p.stderr, "did you mean inbound?") {
		t.Errorf("exit code %d, %s", code, p.stderr)
	}
	f.file.Running, f.file.Refused = "r0", "no \x1bstage"
	for _, args := range []string{"chain list", "chain show outbound", "config show"} {
		p := &person{}
		if code := p.runs(t, append(strings.Fields(args), "--socket", f.socket)...); code != ExitDone || !strings.Contains(p.stderr, "not in force: no ") || strings.Contains(p.stderr, "\x1b") {
			t.Errorf("%s: exit code %d, %q", args, code, p.stderr)
		}
	}
}
