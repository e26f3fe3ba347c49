package chain

import (
	"log/slog"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/stagecoachmail/stagecoach/mail"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/stage"
)

func sampleEdits() mail.Edits {
	return mail.Edits{Splices: []mail.Splice{{Insert: []byte("X: y\r\n")}, {Offset: 5, Length: 2}}, ReversePath: &mail.Address{Local: "b", Domain: "example.org"},
		Rewrites: []mail.Rewrite{{Recipient: "2", To: mail.Address{Local: "c d", Domain: "example.net"}}}}
}

func sampleResult() stage.Result {
	return stage.Result{Branch: stage.Branch{Edits: sampleEdits()}, Notes: []slog.Attr{slog.String("k", "v")}, Forks: []stage.Fork{
		{To: []mail.RecipientID{"1"}, Branch: stage.Branch{Verdict: stage.Defer(mail.Reply{Code: 450, Enhanced: "4.2.0", Text: "t", Private: "p"}, time.Minute)}},
		{To: []mail.RecipientID{"2"}, Branch: stage.Branch{Verdict: stage.Discard("rule")}}, {To: []mail.RecipientID{"3"}, Branch: stage.Branch{Verdict: stage.Quarantine("why")}}}}
}

func sampleReport() Report {
	return Report{Instance: "a", Hash: hash, Recipients: []mail.RecipientID{"1", "2"}, Outcome: Skipped, Verdict: stage.KindReject, Took: time.Second, Edits: sampleEdits(),
		Diff:  mail.Diff{Hunks: []mail.Hunk{{Inserted: []byte("X: y\r\n"), After: []byte("abc")}, {Offset: 5, Length: 2, Removed: []byte("de"), Before: []byte("\xff")}}},
		Notes: []slog.Attr{slog.String("k", "v")}, Reason: "r", Shadow: true}
}

func sampleFate() Fate {
	return Fate{Recipient: "1", Kind: Deferred, Concern: AboutDestination, About: "mx", Reply: &mail.Reply{Code: 450, Enhanced: "4.2.0", Text: "t", Private: "p"},
		After: time.Minute, Host: "h", Reason: "r", ByError: true}
}

func sampleSlip() Slip {
	return Slip{Chain: "c", Revision: "r", Route: Route{Name: "n", Hash: "h", Address: "a:1"}, Hops: []Hop{
		{Instance: "i", Type: "t", Hash: "h", Address: "b:2", Identity: "id", Timeout: time.Second, OnError: OnErrorSkip, ProcessOnly: true, Shadow: true, Released: true},
		{Instance: "j", OnError: OnErrorQuarantine}, {Instance: "k", OnError: OnErrorDefer}}}
}

// What is sent is what is received.
func TestWire(t *testing.T) {
	over := func(from, to proto.Message) {
		t.Helper()
		b, err := proto.Marshal(from)
		if err == nil {
			err = proto.Unmarshal(b, to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	same := func(got, want any, err error) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("received\n%+v (%v)\nsent\n%+v", got, err, want)
		}
	}
	var result stagev1.Result
	over(resultProto(sampleResult()), &result)
	r, err := resultFrom(&result)
	same(r, sampleResult(), err)
	var report relayv1.HopReport
	over(ReportProto(sampleReport()), &report)
	rep, err := ReportFrom(&report)
	same(rep, sampleReport(), err)
	var fate relayv1.Fate
	over(FateProto(sampleFate()), &fate)
	same(FateFrom(&fate), sampleFate(), nil)
	var slip relayv1.Slip
	over(slipProto(sampleSlip()), &slip)
	same(slipFrom(&slip), sampleSlip(), nil)
	var envelope stagev1.Envelope
	want := parcel(nil, Slip{}).Envelope
	want.Ret, want.EnvID, want.EightBitMIME, want.SMTPUTF8, want.Origin.TLS, want.Origin.User = "HDRS", "e 1", true, true, true, "u"
	over(EnvelopeProto(&want), &envelope)
	env, err := EnvelopeFrom(&envelope)
	same(env, want, err)
	for k := range fateKinds {
		same(FateFrom(FateProto(Fate{Kind: k, Concern: AboutHop})).Kind, k, nil)
	}
	for _, tr := range []stage.Traits{{}, allTraits, {Seals: true}, {EditsHeader: true, Effects: true}, {ReadsBody: true, EditsBody: true, EditsEnvelope: true}} {
		same(traitsFrom(traitsProto(tr)), tr, nil)
	}
}

// What clients and hosts say is no UTF-8 at times; it has to be sent all the same.
func TestWireNotUTF8(t *testing.T) {
	env := parcel(nil, Slip{}).Envelope
	env.EnvID, env.Origin.Helo, env.Origin.User, env.Recipients[0].ORcpt, env.Ret = "\xff", "\xfe", "\xfd", "rfc822;\xfc", "\xfb"
	report := sampleReport()
	report.Reason, report.Notes = "\xff", []slog.Attr{slog.String("\xff", "\xff")}
	fate := sampleFate()
	fate.Reply, fate.About, fate.Host, fate.Reason = &mail.Reply{Code: 550, Enhanced: "\xff", Text: "\xff", Private: "\xff"}, "\xff", "\xff", "\xff"
	result := stage.Result{Branch: stage.Branch{Verdict: stage.Discard("\xff")}, Notes: report.Notes, Forks: []stage.Fork{{Branch: stage.Branch{Verdict: stage.Quarantine("\xff")}}}}
	for _, m := range []proto.Message{EnvelopeProto(&env), ReportProto(report), FateProto(fate), resultProto(result)} {
		if _, err := proto.Marshal(m); err != nil {
			t.Errorf("%T: %v", m, err)
		}
	}
}

func seed(f *testing.F, m proto.Message) {
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(b, 0xf8, 0x07, 0x01))
}

// FuzzWire: whatever bytes a peer sends, reading them ends in a value or an error; a value can be sent on and is the
// same again.
func FuzzWire(f *testing.F) {
	seed(f, resultProto(sampleResult()))
	seed(f, ReportProto(sampleReport()))
	seed(f, FateProto(sampleFate()))
	seed(f, slipProto(sampleSlip()))
	env := parcel(nil, Slip{}).Envelope
	seed(f, EnvelopeProto(&env))
	f.Fuzz(func(t *testing.T, b []byte) {
		var result stagev1.Result
		if proto.Unmarshal(b, &result) == nil {
			if r, err := resultFrom(&result); err == nil {
				again, err := resultFrom(resultProto(r))
				if err != nil || !proto.Equal(resultProto(r), resultProto(again)) {
					t.Errorf("%+v became %+v (%v)", r, again, err)
				}
				m := parcel(mail.FromBytes([]byte(raw)), Slip{}).Message
				if check(r, allTraits, &m) == nil {
					branches, err := split(r, &m, Hop{})
					if err == nil {
						seen := 0
						for _, b := range branches {
							seen += len(b.to)
						}
						if seen != len(m.Pending) {
							t.Errorf("%d of %d recipients in %+v", seen, len(m.Pending), branches)
						}
					}
				}
			}
		}
		var report relayv1.HopReport
		if proto.Unmarshal(b, &report) == nil {
			if r, err := ReportFrom(&report); err == nil {
				if _, err := ReportFrom(ReportProto(r)); err != nil {
					t.Errorf("%+v: %v", r, err)
				}
				if err := r.Diff.Validate(); err != nil {
					t.Errorf("%+v: %v", r.Diff, err)
				}
			}
		}
		var fate relayv1.Fate
		if proto.Unmarshal(b, &fate) == nil {
			if k := FateFrom(FateProto(FateFrom(&fate))).Kind; k != FateFrom(&fate).Kind || k == "" {
				t.Errorf("fate %q", k)
			}
		}
		var slip relayv1.Slip
		if proto.Unmarshal(b, &slip) == nil {
			for _, h := range slipFrom(slipProto(slipFrom(&slip))).Hops {
				if h.OnError == "" {
					t.Error("a hop without on_error")
				}
			}
		}
		var envelope stagev1.Envelope
		if proto.Unmarshal(b, &envelope) == nil {
			if e, err := EnvelopeFrom(&envelope); err == nil {
				again, err := EnvelopeFrom(EnvelopeProto(&e))
				if err != nil || !reflect.DeepEqual(e, again) {
					t.Errorf("%+v became %+v (%v)", e, again, err)
				}
			}
		}
	})
}
