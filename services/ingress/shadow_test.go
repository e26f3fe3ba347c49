package ingress

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

// trial writes the trail of messages that a stage in shadow has seen.
type trial struct {
	o *office
	n int
}

// step is what one stage said to recipients 1 and 2.
func step(instance string, k stage.Kind, hunks ...mail.Hunk) spool.Hop {
	return spool.Hop{Report: chain.Report{Instance: instance, Outcome: chain.ByVerdict, Verdict: k, Recipients: []mail.RecipientID{"1", "2"}, Took: 10 * time.Millisecond,
		Diff: mail.Diff{Hunks: hunks}, Shadow: instance == "new"}}
}

func insert(at int64, s string) mail.Hunk { return mail.Hunk{Offset: at, Inserted: []byte(s)} }

// saw tells of a message; the shadow's report comes in an event of its own, as it does when it is late.
func (r *trial) saw(age time.Duration, hops ...spool.Hop) string {
	r.n++
	at := time.Now().Add(-age)
	id := mail.NewID(at)
	for i, h := range hops {
		h.At = at.Add(time.Duration(i) * time.Millisecond)
		r.o.shard().log.Trail(&spool.Event{ID: id, At: h.At, Chain: "all", Hops: []spool.Hop{h}})
	}
	return id
}

func TestShadowReport(t *testing.T) {
	o := newOffice(t, false)
	r := &trial{o: o}
	pass, hold := stage.KindContinue, stage.KindQuarantine
	cut := step("new", pass)
	cut.Diff.Cut = true
	failed := step("new", pass)
	failed.Outcome, failed.Took = chain.Failed, 2*time.Second
	skipped := step("new", pass)
	skipped.Outcome, skipped.Reason = chain.Skipped, chain.TooManyShadows
	one, two := step("new", hold), step("new", pass)
	one.Recipients, two.Recipients = one.Recipients[:1], two.Recipients[1:]
	rewrites := step("new", pass)
	rewrites.Edits.Rewrites = []mail.Rewrite{{Recipient: "2", To: mail.Address{Local: "x", Domain: "y.example"}}}
	earnest := step("new", hold)
	earnest.Shadow = false // before it was in shadow

	alsoDry := step("old", hold)
	alsoDry.Shadow = true // it was tried itself before
	r.saw(time.Minute, step("new", pass), step("old", pass), alsoDry)
	r.saw(time.Minute, step("old", pass, insert(5, "x")), step("new", pass, insert(5, "x")))
	other := r.saw(time.Minute, step("old", pass, insert(5, "x")), step("new", pass, insert(6, "x")))
	last := r.saw(30*time.Second, step("old", pass), rewrites)
	r.saw(time.Minute, cut, step("old", pass, insert(5, "x")))
	held := r.saw(time.Minute, step("old", pass), step("new", hold))
	r.saw(time.Minute, step("old", hold), step("new", hold))
	r.saw(time.Minute, step("old", pass), failed)
	r.saw(time.Minute, step("old", pass), one, two)
	r.saw(time.Minute, step("new", pass))                                       // alone
	r.saw(time.Minute, step("old", pass), skipped)                              // not judged
	r.saw(time.Minute, step("old", pass))                                       // not seen
	r.saw(time.Minute, step("old", pass), earnest)                              // not in shadow
	r.saw(time.Minute, step("new", hold), step("old", pass), step("new", pass)) // the last word counts
	r.saw(25*time.Hour, step("old", pass), step("new", hold))                   // too old
	end := r.saw(0, step("third", pass))
	eventually(t, "the trail has it", func() bool {
		tr, err := o.Trace().GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: end})
		return err == nil && len(tr.GetTrace().GetEvents()) == 1
	})
	ask := func(q *adminv1.GetShadowReportRequest) *adminv1.GetShadowReportResponse {
		t.Helper()
		q.Chain, q.Stage = "all", "new"
		resp, err := o.Trace().GetShadowReport(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	pairs := func(g *adminv1.GetShadowReportResponse) string {
		var out []string
		for _, v := range g.GetVerdicts() {
			out = append(out, fmt.Sprintf("%s/%s %d", v.GetShadow(), v.GetBeside(), v.GetMessages()))
		}
		return strings.Join(out, ", ")
	}
	g := ask(&adminv1.GetShadowReportRequest{Beside: "old"})
	if g.GetMessages() != 11 || g.GetFailed() != 1 || g.GetBeside() != "old" || g.GetAlone() != 1 || g.GetPartly() {
		t.Errorf("%v", g)
	}
	if got, want := pairs(g), "continue/continue 6, failed/continue 1, mixed/continue 1, quarantine/continue 1, quarantine/quarantine 1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if g.GetSameEdits() != 3 || g.GetOtherEdits() != 2 || g.GetUnknownEdits() != 1 || fmt.Sprint(g.GetOtherEditsExamples()) != fmt.Sprint([]string{last, other}) {
		t.Errorf("%v, not %s, %s", g, last, other)
	}
	if g.GetVerdicts()[3].GetExamples()[0] != held || g.GetTookMost().AsDuration() != 2*time.Second || g.GetTook().AsDuration() < 100*time.Millisecond || g.GetBesideTook().AsDuration() != 10*time.Millisecond {
		t.Errorf("%v", g)
	}
	// Beside nothing it is compared with what lets all pass unchanged.
	g = ask(&adminv1.GetShadowReportRequest{})
	if got, want := pairs(g), "continue/continue 7, quarantine/continue 2, failed/continue 1, mixed/continue 1"; got != want || g.GetBeside() != "" || g.GetAlone() != 0 || g.GetBesideTook() != nil {
		t.Errorf("%s, want %s: %v", got, want, g)
	}
	if g.GetSameEdits() != 3 || g.GetOtherEdits() != 3 {
		t.Errorf("%v", g)
	}
	if g = ask(&adminv1.GetShadowReportRequest{Since: timestamppb.New(time.Now().Add(-26 * time.Hour))}); g.GetMessages() != 12 {
		t.Errorf("with those of yesterday: %v", g)
	}
	if g = ask(&adminv1.GetShadowReportRequest{Since: timestamppb.New(time.Now().Add(-45 * time.Second))}); g.GetMessages() != 1 {
		t.Errorf("of the last moments: %v", g)
	}
	for _, q := range []*adminv1.GetShadowReportRequest{{Stage: "new"}, {Chain: "all"}, {Chain: "all", Stage: "new", Since: timestamppb.New(time.Now()), Until: timestamppb.New(time.Unix(0, 0))}} {
		_, err := o.Trace().GetShadowReport(t.Context(), q)
		wantCode(t, err, codes.InvalidArgument)
	}
	if g, err := o.Trace().GetShadowReport(t.Context(), &adminv1.GetShadowReportRequest{Chain: "other", Stage: "new"}); err != nil || g.GetMessages() != 0 {
		t.Errorf("of another chain: %v, %v", g, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	_, err := o.Trace().GetShadowReport(ctx, &adminv1.GetShadowReportRequest{Chain: "all", Stage: "new"})
	if err == nil {
		t.Error("without time there is a report")
	}
}

func TestBesideOf(t *testing.T) {
	s := func(name, typ string) *config.Stage { return &config.Stage{Name: name, Type: typ} }
	old, dry, more, scan := s("old", "disclaimer"), s("new", "disclaimer"), s("more", "disclaimer"), s("scan", "antivirus")
	cfg := &config.Config{Stages: map[string]*config.Stage{"old": old, "new": dry, "scan": scan}, Chains: []*config.Chain{
		{Name: "out", Stages: []config.Use{{Stage: scan}, {Stage: dry, Shadow: true}, {Stage: more, Shadow: true}, {Stage: old}}}, {Name: "in", Stages: []config.Use{{Stage: scan, Shadow: true}, {Stage: dry, Shadow: true}}}}}
	for _, c := range []struct{ chain, stage, want string }{{"out", "new", "old"}, {"in", "new", ""}, {"in", "scan", ""}, {"gone", "new", ""}, {"out", "gone", ""}} {
		if got := besideOf(cfg, c.chain, c.stage); got != c.want {
			t.Errorf("%s in %s: %q", c.stage, c.chain, got)
		}
	}
}
