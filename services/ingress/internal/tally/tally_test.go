package tally

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

func TestNilCountsNothing(t *testing.T) {
	t.Parallel()
	var x *Tally
	l := x.Listener("mx")
	l.Opened()
	l.Closed()
	l.LoginFailed()
	l.Accepted(1)
	l.Refused("mail", &mail.Reply{Code: 550})
	x.Spool().Appended(time.Second, 1)
	x.Recipients("c", Accepted, 1)
	x.Delivered(time.Second)
	x.Report(&chain.Report{}, false)
	x.Fate("r", &chain.Fate{})
}

// Of a refusal the class and the subject are kept, whatever stands in its code.
func TestRefusals(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	x := New(r)
	for _, c := range []struct {
		code     int
		enhanced string
	}{{550, "5.7.1"}, {550, "5.7.26"}, {452, "4.3.1"}, {421, ""}, {550, "5.99.1"}, {550, "5.-1.1"}, {550, "5.7"}} {
		x.Listener("mx").Refused("rcpt", &mail.Reply{Code: c.code, Enhanced: c.enhanced})
	}
	got := map[string]float64{}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "stagecoach_smtp_refusals_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			key := ""
			for _, l := range m.GetLabel() {
				key += l.GetValue() + " "
			}
			got[key] += m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{"rcpt 5xx mx policy ": 2, "rcpt 4xx mx system ": 1, "rcpt 4xx mx other ": 1, "rcpt 5xx mx other ": 3}
	for k, n := range want {
		if got[k] != n {
			t.Errorf("%q: %v, want %v", k, got[k], n)
		}
	}
	if s := x.Read(); len(got) != len(want) || s.GetRefusedForGood() != 5 || s.GetRefusedForNow() != 2 {
		t.Error(got, s)
	}
}

// Every report and every fate is counted as one thing.
func TestReportsAndFates(t *testing.T) {
	t.Parallel()
	x := New(prometheus.NewRegistry())
	edits := mail.Edits{Splices: []mail.Splice{{Insert: []byte("x")}}}
	for _, rep := range []chain.Report{
		{Outcome: chain.ByVerdict, Verdict: stage.KindContinue, Edits: edits, Took: time.Second},
		{Outcome: chain.ByVerdict, Verdict: stage.KindContinue, EditsOmitted: true},
		{Outcome: chain.ByVerdict, Verdict: stage.KindReject}, {Outcome: chain.ByVerdict, Verdict: stage.KindDefer},
		{Outcome: chain.ByVerdict, Verdict: stage.KindQuarantine}, {Outcome: chain.ByVerdict, Verdict: stage.KindDiscard},
		{Outcome: chain.Skipped}, {Outcome: chain.Failed},
	} {
		rep.Instance = "s"
		x.Report(&rep, false)
	}
	x.Report(&chain.Report{Instance: "s", Outcome: chain.ByVerdict, Verdict: stage.KindReject}, true)
	s := x.Read().GetStages()[0]
	if s.GetContinued() != 2 || s.GetEdited() != 2 || s.GetRejected() != 1 || s.GetDeferred() != 1 || s.GetQuarantined() != 1 || s.GetDiscarded() != 1 ||
		s.GetSkipped() != 1 || s.GetFailed() != 1 || s.GetShadow() != 1 || s.GetLatency().GetCount() != 9 || s.GetLatency().GetTotal().AsDuration() != time.Second {
		t.Error(s)
	}
	for _, f := range []chain.Fate{
		{Kind: chain.Delivered, Concern: chain.AboutRecipient}, {Kind: chain.Deferred, Concern: chain.AboutDestination, About: "example.net"},
		{Kind: chain.Refused, Concern: chain.AboutRoute, About: "r"}, {Kind: chain.Unknown, Concern: chain.AboutHop, About: chain.EgressHop},
		{Kind: chain.Rejected, Concern: chain.AboutRecipient}, {Kind: chain.Rejected, Concern: chain.AboutRecipient, About: "antivirus"}, // the last two are a
		{Kind: chain.Deferred, Concern: chain.AboutHop, About: "antivirus"}, // stage's
	} {
		x.Fate("r", &f)
	}
	r := x.Read().GetRoutes()[0]
	if r.GetDelivered() != 1 || r.GetDeferred() != 1 || r.GetRejected() != 1 || r.GetUnknown() != 1 {
		t.Error(r)
	}
}

// BenchmarkMessage is what counting costs for a message with one recipient and four stages.
func BenchmarkMessage(b *testing.B) {
	x := New(prometheus.NewRegistry())
	reports := make([]chain.Report, 4)
	for i := range reports {
		reports[i] = chain.Report{Instance: string(rune('a' + i)), Outcome: chain.ByVerdict, Took: time.Millisecond}
	}
	fate := chain.Fate{Kind: chain.Delivered, Concern: chain.AboutRecipient}
	b.ReportAllocs()
	for b.Loop() {
		l := x.Listener("mx")
		l.Opened()
		x.Spool().Appended(time.Millisecond, 1)
		x.Recipients("outbound", Accepted, 1)
		l.Accepted(10_000)
		for i := range reports {
			x.Report(&reports[i], false)
		}
		x.Fate("provider", &fate)
		x.Recipients("outbound", Delivered, 1)
		x.Delivered(time.Millisecond)
		x.Spool().Appended(time.Millisecond, 1)
		l.Closed()
	}
}
