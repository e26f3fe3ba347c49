package cli

import (
	"bufio"
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

// trials are what a fake has for tail, grant and chain shadow.
type trials struct {
	adminv1.UnimplementedEventServiceServer
	adminv1.UnimplementedGrantServiceServer

	events []*adminv1.TailEventsResponse
	grants []*adminv1.Grant
	shadow *adminv1.GetShadowReportResponse
}

func (f *fake) TailEvents(r *adminv1.TailEventsRequest, s grpc.ServerStreamingServer[adminv1.TailEventsResponse]) error {
	if err := f.ask(r); err != nil {
		return err
	}
	for _, e := range f.events {
		if err := s.Send(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) ListGrants(context.Context, *adminv1.ListGrantsRequest) (*adminv1.ListGrantsResponse, error) {
	return &adminv1.ListGrantsResponse{Grants: f.grants}, nil
}

func (f *fake) CreateGrant(context.Context, *adminv1.CreateGrantRequest) (*adminv1.CreateGrantResponse, error) {
	return &adminv1.CreateGrantResponse{Grant: f.grants[0]}, nil
}

func (f *fake) RevokeGrant(_ context.Context, r *adminv1.RevokeGrantRequest) (*adminv1.RevokeGrantResponse, error) {
	for _, g := range f.grants {
		if g.GetId() == r.GetId() {
			return &adminv1.RevokeGrantResponse{Grant: g}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "there is no grant %q", r.GetId())
}

func (f *fake) GetShadowReport(context.Context, *adminv1.GetShadowReportRequest) (*adminv1.GetShadowReportResponse, error) {
	return f.shadow, nil
}

func grantSamples() []*adminv1.Grant {
	return []*adminv1.Grant{
		{Id: "branch/192.0.2.7/32", Rule: "branch", Network: "192.0.2.7/32", By: "alice", Reason: "the line\u202e in Hull", Created: before(time.Hour), Expires: before(-23 * time.Hour)},
		{Id: "homes/2001:db8::/64", Rule: "homes", Network: "2001:db8::/64", By: "bob", Created: before(50 * time.Hour), Expires: before(-100 * time.Hour)},
	}
}

func eventSamples() []*adminv1.TailEventsResponse {
	m := &adminv1.TraceSummary{Id: idOne, ReversePath: "alice@example.com", Recipients: []string{"bob@example.net", "carol@example.org"}, Subject: "Grüße\n\x1b[2J", Size: 1234}
	delivered := &relayv1.Fate{Recipient: "1", Kind: relayv1.FateKind_FATE_KIND_DELIVERED, Host: "mx.example.net", Reply: &stagev1.Reply{Code: 250, Text: "ok"}}
	refused := &relayv1.Fate{Kind: relayv1.FateKind_FATE_KIND_DEFERRED, Concern: relayv1.Concern_CONCERN_DESTINATION, About: "example.org", Reason: "timeout"}
	event := func(e *adminv1.TraceEvent) *adminv1.TailEventsResponse {
		e.At = before(time.Minute)
		return &adminv1.TailEventsResponse{Id: idOne, Message: m, Event: e}
	}
	accepted := event(&adminv1.TraceEvent{})
	accepted.Accepted = true
	late := event(&adminv1.TraceEvent{Text: "released", Actor: "anna"})
	late.Missed = 12
	unknown := &adminv1.TailEventsResponse{Id: idThree, Message: &adminv1.TraceSummary{Id: idThree}, Event: &adminv1.TraceEvent{At: before(0), Text: "a note", Ends: []*adminv1.TraceEnd{{Recipients: []string{"1"}, Kind: "reported"}}}}
	return []*adminv1.TailEventsResponse{accepted,
		event(&adminv1.TraceEvent{Chain: "outbound", Hops: []*adminv1.HopStep{
			{Report: &relayv1.HopReport{Instance: "footer", Outcome: relayv1.Outcome_OUTCOME_VERDICT, Verdict: stagev1.Verdict_VERDICT_CONTINUE, Recipients: []string{"1", "2"}, Took: durationpb.New(3 * time.Millisecond)}, At: before(2 * time.Minute)},
			{Report: &relayv1.HopReport{Instance: "dry", Outcome: relayv1.Outcome_OUTCOME_VERDICT, Verdict: stagev1.Verdict_VERDICT_QUARANTINE, Recipients: []string{"2"}, Reason: "odd"}, Shadow: true}}}),
		event(&adminv1.TraceEvent{Fates: []*relayv1.Fate{delivered}}),
		event(&adminv1.TraceEvent{Ends: []*adminv1.TraceEnd{{Recipients: []string{"1"}, Kind: "delivered", Fate: delivered}}, Waits: []*adminv1.TraceWait{{Recipients: []string{"2"}, Room: "retry", Next: before(-time.Minute), Last: refused}}}),
		late, {Missed: 3}, unknown}
}

func shadowSample() *adminv1.GetShadowReportResponse {
	return &adminv1.GetShadowReportResponse{Messages: 120, Failed: 2, Beside: "footer", Alone: 1, SameEdits: 100, OtherEdits: 7, UnknownEdits: 1, OtherEditsExamples: []string{idOne}, Took: durationpb.New(12 * time.Millisecond),
		TookMost: durationpb.New(3 * time.Second), BesideTook: durationpb.New(2 * time.Millisecond), Partly: true,
		Verdicts: []*adminv1.ShadowVerdicts{{Shadow: "continue", Beside: "continue", Messages: 108, Examples: []string{idOne, idThree}}, {Shadow: "quarantine", Beside: "continue", Messages: 9, Examples: []string{idThree}}, {Shadow: "failed", Beside: "continue", Messages: 2}}}
}

// What they print: on a terminal, in a pipe, and as JSON.
func TestTrialOutput(t *testing.T) {
	f := newFake(t)
	f.events, f.grants, f.shadow = eventSamples(), grantSamples(), shadowSample()
	for name, c := range map[string]struct {
		args string
		doc  proto.Message
	}{
		"tail":         {"tail", nil},
		"grant-list":   {"grant list", &adminv1.ListGrantsResponse{Grants: f.grants}},
		"grant-add":    {"grant add branch 192.0.2.7", &adminv1.CreateGrantResponse{Grant: f.grants[0]}},
		"grant-revoke": {"grant revoke branch/192.0.2.7/32", &adminv1.RevokeGrantResponse{Grant: f.grants[0]}},
		"chain-shadow": {"chain shadow outbound footer-new", f.shadow},
	} {
		args := append(strings.Fields(c.args), "--socket", f.socket)
		for _, how := range []string{"terminal", "pipe"} {
			p := &person{terminal: how == "terminal"}
			if code := p.runs(t, args...); code != ExitDone {
				t.Errorf("%s: exit code %d, %s", c.args, code, p.stderr)
			}
			golden(t, name+"."+how, p.stdout)
			harmlessOnly(t, name, p.stdout)
		}
		p := &person{}
		if code := p.runs(t, append(args, "--json")...); code != ExitDone {
			t.Errorf("%s: exit code %d, %s", c.args, code, p.stderr)
		}
		if c.doc != nil {
			sameDocument(t, p.stdout, c.doc)
		}
	}
	p := &person{}
	p.runs(t, "tail", "--json", "--socket", f.socket)
	lines := bufio.NewScanner(strings.NewReader(p.stdout))
	n := 0
	for ; lines.Scan(); n++ {
		var e adminv1.TailEventsResponse
		if err := protojson.Unmarshal(lines.Bytes(), &e); err != nil || !proto.Equal(&e, f.events[n]) {
			t.Errorf("line %d: %v, %v", n, err, &e)
		}
	}
	if n != len(f.events) {
		t.Errorf("%d lines", n)
	}
}

func TestTrialRequests(t *testing.T) {
	f := newFake(t)
	f.grants, f.shadow = grantSamples(), &adminv1.GetShadowReportResponse{}
	for args, want := range map[string]proto.Message{
		"tail --id x --address *@b --chain c --kind end,wait": &adminv1.TailEventsRequest{Id: "x", Address: "*@b", Chain: "c", Kinds: []string{"end", "wait"}},
		"grant add branch 192.0.2.7 --for 90m --reason why":   &adminv1.CreateGrantRequest{Rule: "branch", Network: "192.0.2.7", Lifetime: durationpb.New(90 * time.Minute), Reason: "why"},
		"grant add branch 192.0.2.7":                          &adminv1.CreateGrantRequest{Rule: "branch", Network: "192.0.2.7", Lifetime: durationpb.New(24 * time.Hour)},
		"grant revoke nothing":                                &adminv1.RevokeGrantRequest{Id: "nothing"},
		"chain shadow c s --beside b --since 24h --until 1h":  &adminv1.GetShadowReportRequest{Chain: "c", Stage: "s", Beside: "b", Since: before(day), Until: before(time.Hour)},
	} {
		p := &person{}
		code := p.runs(t, append(strings.Fields(args), "--socket", f.socket)...)
		if fails := strings.Contains(args, "nothing") || strings.HasPrefix(args, "chain"); fails != (code == ExitFailed) {
			t.Errorf("%s: exit code %d, %s", args, code, p.stderr)
		}
		if got := f.last(t); !proto.Equal(got, want) {
			t.Errorf("%s: asked %v, not %v", args, got, want)
		}
	}
	for _, args := range []string{"tail x", "grant", "grant add branch", "grant add", "grant revoke", "chain shadow c", "chain shadow c s --since never", "grant add b 192.0.2.7 --for ever"} {
		p := &person{}
		if code := p.runs(t, append(strings.Fields(args), "--socket", f.socket)...); code != ExitUsage && args != "grant" {
			t.Errorf("%s: exit code %d, %s", args, code, p.stderr)
		}
	}
	f.fails = status.Error(codes.ResourceExhausted, "20 follow already")
	p := &person{}
	if code := p.runs(t, "tail", "--socket", f.socket); code != ExitFailed || !strings.Contains(p.stderr, "20 follow already") {
		t.Errorf("exit code %d, %s", code, p.stderr)
	}
}
