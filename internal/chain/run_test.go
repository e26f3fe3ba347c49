package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

func everyone(edits mail.Edits) stage.Func {
	return func(context.Context, *mail.Message) (stage.Result, error) {
		return stage.Result{Branch: stage.Branch{Edits: edits}}, nil
	}
}

func with(h hopSpec, change func(*hopSpec)) hopSpec { change(&h); return h }

var broken stage.Func = func(context.Context, *mail.Message) (stage.Result, error) {
	return stage.Result{}, errors.New("out of order")
}

var fine = spec("fine", stage.Traits{}, says(stage.Continue()))

// TestRun says what a chain makes of the verdicts, failures and edits of its stages: in one process, relayed from
// service to service, and judged from afar, always the same.
func TestRun(t *testing.T) {
	prepend := field(t, "X-One", "1")
	tests := []struct {
		name string
		hops []hopSpec
		// said are the reports and fates, sorted; delivered is the content that each recipient got.
		said      []string
		delivered map[mail.RecipientID]string
		check     func(t *testing.T, s *heard, out *outbox)
	}{
		{name: "no stages", said: []string{"1 delivered recipient ", "2 delivered recipient ", "3 delivered recipient "},
			delivered: map[mail.RecipientID]string{"1": raw, "2": raw, "3": raw}},
		{name: "continue", hops: []hopSpec{fine, spec("b", stage.Traits{}, says(stage.Continue()))},
			said:      []string{"1 delivered recipient ", "2 delivered recipient ", "3 delivered recipient ", "b verdict continue 1,2,3", "fine verdict continue 1,2,3"},
			delivered: map[mail.RecipientID]string{"1": raw, "2": raw, "3": raw}},
		{name: "edits of two stages", hops: []hopSpec{spec("a", stage.Traits{}, everyone(prepend)), spec("b", stage.Traits{}, everyone(field(t, "X-Two", "2")))},
			delivered: map[mail.RecipientID]string{"1": "X-Two: 2\r\nX-One: 1\r\n" + raw, "2": "X-Two: 2\r\nX-One: 1\r\n" + raw, "3": "X-Two: 2\r\nX-One: 1\r\n" + raw},
			check: func(t *testing.T, s *heard, _ *outbox) {
				if i := slices.IndexFunc(s.reports, func(r Report) bool { return r.Instance == "a" }); i < 0 || len(s.reports[i].Edits.Splices) != 1 || s.reports[i].Hash != hash {
					t.Errorf("report of a: %+v", s.reports)
				}
			}},
		{name: "reject", hops: []hopSpec{spec("a", stage.Traits{}, says(stage.Reject(mail.Reply{Code: 554, Enhanced: "5.7.1", Text: "no, gr\u00fc\u00df Gott", Private: "rule 7\nof 9"})))},
			said: []string{"1 rejected recipient a", "2 rejected recipient a", "3 rejected recipient a", "a verdict reject 1,2,3"},
			check: func(t *testing.T, s *heard, _ *outbox) {
				if r := s.fate(t, "2").Reply; r == nil || *r != (mail.Reply{Code: 554, Enhanced: "5.7.1", Text: "no, gr\u00fc\u00df Gott", Private: "rule 7\nof 9"}) {
					t.Errorf("reply: %+v", r)
				}
			}},
		{name: "defer", hops: []hopSpec{spec("a", stage.Traits{}, says(stage.Defer(mail.Reply{Code: 451, Enhanced: "4.7.1", Text: "later"}, 90*time.Second)))},
			said: []string{"1 deferred recipient a", "2 deferred recipient a", "3 deferred recipient a", "a verdict defer 1,2,3"},
			check: func(t *testing.T, s *heard, _ *outbox) {
				if f := s.fate(t, "1"); f.After != 90*time.Second || f.Reply == nil || f.Reply.Code != 451 {
					t.Errorf("fate: %+v", f)
				}
			}},
		{name: "quarantine", hops: []hopSpec{spec("a", stage.Traits{}, says(stage.Quarantine("infected: \xff"))), fine},
			said: []string{"1 quarantined recipient a", "2 quarantined recipient a", "3 quarantined recipient a", "a verdict quarantine 1,2,3"},
			check: func(t *testing.T, s *heard, _ *outbox) {
				if f := s.fate(t, "1"); !strings.HasPrefix(f.Reason, "infected: ") || f.ByError {
					t.Errorf("fate: %+v", f)
				}
			}},
		{name: "discard", hops: []hopSpec{spec("a", stage.Traits{}, says(stage.Discard("spam-list")))},
			said: []string{"1 discarded recipient a", "2 discarded recipient a", "3 discarded recipient a", "a verdict discard 1,2,3"},
			check: func(t *testing.T, s *heard, _ *outbox) {
				if f := s.fate(t, "1"); f.Reason != "spam-list" {
					t.Errorf("fate: %+v", f)
				}
			}},
		{name: "a released hop lets its quarantine continue", hops: []hopSpec{with(spec("a", stage.Traits{}, says(stage.Quarantine("infected"))), func(h *hopSpec) { h.Released = true })},
			said:      []string{"1 delivered recipient ", "2 delivered recipient ", "3 delivered recipient ", "a verdict continue 1,2,3"},
			delivered: map[mail.RecipientID]string{"1": raw, "2": raw, "3": raw}},
		{name: "a released hop still rejects", hops: []hopSpec{with(spec("a", stage.Traits{}, says(stage.Reject(mail.Reply{Code: 550, Text: "no"}))), func(h *hopSpec) { h.Released = true })},
			said: []string{"1 rejected recipient a", "2 rejected recipient a", "3 rejected recipient a", "a verdict reject 1,2,3"}},
		{name: "forks", hops: []hopSpec{spec("a", allTraits, func(context.Context, *mail.Message) (stage.Result, error) {
			return stage.Result{Branch: stage.Branch{Edits: field(t, "X-For", "the rest")}, Forks: []stage.Fork{
				{To: []mail.RecipientID{"2"}, Branch: stage.Branch{Edits: replacing("body", "another body")}},
				{To: []mail.RecipientID{"3"}, Branch: stage.Branch{Verdict: stage.Discard("not for three")}},
			}, Notes: []slog.Attr{slog.Int("forks", 2)}}, nil
		}), fine},
			said: []string{"1 delivered recipient ", "2 delivered recipient ", "3 discarded recipient a", "a verdict continue 1", "a verdict continue 2", "a verdict discard 3",
				"fine verdict continue 1", "fine verdict continue 2"},
			delivered: map[mail.RecipientID]string{"1": "X-For: the rest\r\n" + raw, "2": strings.Replace(raw, "body", "another body", 1)},
			check: func(t *testing.T, s *heard, _ *outbox) {
				if n := s.reports[0].Notes; len(n) != 1 || n[0].Key != "forks" || n[0].Value.String() != "2" {
					t.Errorf("notes: %v", n)
				}
			}},
		{name: "envelope edits", hops: []hopSpec{spec("a", stage.Traits{EditsEnvelope: true}, everyone(mail.Edits{ReversePath: &mail.Address{}, Rewrites: []mail.Rewrite{{Recipient: "2", To: mail.Address{Local: "new", Domain: "four.example"}}}}))},
			delivered: map[mail.RecipientID]string{"1": raw, "2": raw, "3": raw},
			check: func(t *testing.T, _ *heard, out *outbox) {
				if d := out.one(t, "2"); d.from != "" || d.to != "new@four.example" {
					t.Errorf("delivered as %+v", d)
				}
				if d := out.one(t, "1"); d.to != "u@one.example" {
					t.Errorf("delivered as %+v", d)
				}
			}},
		{name: "a stage sees the whole message", hops: []hopSpec{spec("a", stage.Traits{}, func(_ context.Context, m *mail.Message) (stage.Result, error) {
			want := parcel(nil, Slip{}).Message
			b, err := mail.ReadAll(m.Content)
			if err != nil || string(b) != raw || m.ID != want.ID || m.Attempt != want.Attempt || !m.Received.Equal(want.Received) || !slices.Equal(m.Pending, want.Pending) ||
				fmt.Sprint(m.Envelope) != fmt.Sprint(want.Envelope) {
				return stage.Result{}, fmt.Errorf("it sees %+v", m)
			}
			return stage.Result{}, nil
		})}, delivered: map[mail.RecipientID]string{"1": raw, "2": raw, "3": raw}},
		{name: "shadow", hops: []hopSpec{
			with(spec("a", allTraits, func(context.Context, *mail.Message) (stage.Result, error) {
				return stage.Result{Branch: stage.Branch{Edits: replacing("body", "changed")}, Forks: []stage.Fork{{To: []mail.RecipientID{"2"}, Branch: stage.Branch{Verdict: stage.Discard("x")}}}}, nil
			}), func(h *hopSpec) { h.Shadow = true }),
			with(spec("b", stage.Traits{}, broken), func(h *hopSpec) { h.Shadow = true }),
			with(spec("c", stage.Traits{}, says(stage.Reject(mail.Reply{Code: 550, Text: "no"}))), func(h *hopSpec) { h.Shadow, h.OnError = true, OnErrorQuarantine }),
		},
			said: []string{"1 delivered recipient ", "2 delivered recipient ", "3 delivered recipient ", "a verdict continue 1,3", "a verdict discard 2", "b failed continue 1,2,3",
				"c verdict reject 1,2,3"},
			delivered: map[mail.RecipientID]string{"1": raw, "2": raw, "3": raw}},
	}
	// What a stage may not do, or does not get done, is its failure: on_error decides.
	bad := map[string]hopSpec{
		"an error":                   spec("a", allTraits, broken),
		"a panic":                    spec("a", allTraits, func(context.Context, *mail.Message) (stage.Result, error) { panic("out of order") }),
		"a body edit outside traits": spec("a", stage.Traits{EditsHeader: true}, everyone(replacing("body", "x"))),
		"a header edit outside traits": spec("a", stage.Traits{EditsBody: true, EditsEnvelope: true},
			everyone(replacing("Subject: s", "Subject: t"))),
		"an envelope edit outside traits": spec("a", stage.Traits{EditsBody: true, EditsHeader: true}, everyone(mail.Edits{ReversePath: &mail.Address{}})),
		"a fork's edit outside traits": spec("a", stage.Traits{}, func(context.Context, *mail.Message) (stage.Result, error) {
			return stage.Result{Forks: []stage.Fork{{To: []mail.RecipientID{"1"}, Branch: stage.Branch{Edits: replacing("body", "x")}}}}, nil
		}),
		"an empty line before the header": spec("a", stage.Traits{}, everyone(mail.Edits{Splices: []mail.Splice{{Insert: []byte("X: y\r\n\r\n")}}})),
		"half a field before the header":  spec("a", stage.Traits{}, everyone(mail.Edits{Splices: []mail.Splice{{Insert: []byte("X: y")}}})),
		"a header that swallows the body": spec("a", stage.Traits{EditsHeader: true}, everyone(replacing("s\r\n\r\n", "s\r\n"))),
		"edits out of range":              spec("a", allTraits, everyone(mail.Edits{Splices: []mail.Splice{{Offset: 1000, Length: 1}}})),
		"a rewrite of nobody":             spec("a", allTraits, everyone(mail.Edits{Rewrites: []mail.Rewrite{{Recipient: "9", To: mail.Address{Local: "x", Domain: "y.example"}}}})),
		"an unknown verdict":              spec("a", allTraits, says(stage.Verdict{Kind: 9})),
		"a reject without a reply":        spec("a", allTraits, says(stage.Verdict{Kind: stage.KindReject})),
		"a reject with a 4xx reply":       spec("a", allTraits, says(stage.Reject(mail.Reply{Code: 450}))),
		"a quarantine without a reason":   spec("a", allTraits, says(stage.Quarantine(""))),
		"a recipient in two forks": spec("a", allTraits, func(context.Context, *mail.Message) (stage.Result, error) {
			f := stage.Fork{To: []mail.RecipientID{"1"}}
			return stage.Result{Forks: []stage.Fork{f, f}}, nil
		}),
		"a stage that ignores its deadline": with(spec("a", allTraits, func(ctx context.Context, _ *mail.Message) (stage.Result, error) {
			<-t.Context().Done() // long after its deadline
			return stage.Result{}, ctx.Err()
		}), func(h *hopSpec) { h.Timeout = 20 * time.Millisecond }),
	}
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		for on, want := range map[OnError][]string{
			OnErrorDefer:      {"1 deferred hop a", "2 deferred hop a", "3 deferred hop a", "a failed continue 1,2,3"},
			"":                {"1 deferred hop a", "2 deferred hop a", "3 deferred hop a", "a failed continue 1,2,3"},
			OnErrorSkip:       {"1 delivered recipient ", "2 delivered recipient ", "3 delivered recipient ", "a skipped continue 1,2,3", "fine verdict continue 1,2,3"},
			OnErrorQuarantine: {"1 quarantined hop a", "2 quarantined hop a", "3 quarantined hop a", "a failed continue 1,2,3"},
		} {
			h := bad[name]
			h.OnError = on
			tt := tests[0]
			tt.name, tt.hops, tt.said, tt.delivered = "failed by "+name+", on_error "+string(on), []hopSpec{h, fine}, want, nil
			if on == OnErrorSkip {
				tt.delivered = map[mail.RecipientID]string{"1": raw, "2": raw, "3": raw}
			}
			if on == OnErrorQuarantine {
				tt.check = func(t *testing.T, s *heard, _ *outbox) {
					if f := s.fate(t, "1"); !f.ByError || f.Reason == "" {
						t.Errorf("fate: %+v", f)
					}
				}
			}
			tests = append(tests, tt)
		}
	}
	for _, where := range settings {
		for _, tt := range tests {
			t.Run(where.name+"/"+tt.name, func(t *testing.T) {
				var out outbox
				runner, slip := where.build(t, tt.hops, &out)
				content, s := watch(t, []byte(raw)), &heard{}
				runner.Run(t.Context(), parcel(content, slip), s)
				if !strings.Contains(tt.name, "ignores its deadline") {
					content.free()
				}
				for _, id := range []mail.RecipientID{"1", "2", "3"} {
					s.fate(t, id)
				}
				if got := s.said(); tt.said != nil && !slices.Equal(got, tt.said) {
					t.Errorf("said\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.said, "\n"))
				}
				for id, want := range tt.delivered {
					if got := out.one(t, id); got.content != want || got.id != "m1" {
						t.Errorf("%s got %q, want %q", id, got.content, want)
					}
				}
				if n := out.count(); n != len(tt.delivered) {
					t.Errorf("%d deliveries, want %d", n, len(tt.delivered))
				}
				if tt.check != nil {
					tt.check(t, s, &out)
				}
			})
		}
	}
}

// A report comes before what follows from it.
func TestReportFirst(t *testing.T) {
	for _, where := range settings {
		t.Run(where.name, func(t *testing.T) {
			runner, slip := where.build(t, []hopSpec{fine, spec("b", stage.Traits{}, says(stage.Continue()))}, &outbox{})
			s := &heard{}
			runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s)
			if want := []string{"fine verdict continue 1,2,3", "b verdict continue 1,2,3"}; !slices.Equal(s.lines[:2], want) {
				t.Errorf("heard %q", s.lines)
			}
		})
	}
}

// Forks go on at the same time: the second carrier waits for the first one, in either order.
func TestForksConcurrent(t *testing.T) {
	for _, where := range settings {
		t.Run(where.name, func(t *testing.T) {
			meet := make(chan struct{})
			out := &outbox{}
			out.carry = func(ctx context.Context, p *Parcel, s Sink) {
				if p.Pending[0] != "3" {
					select {
					case meet <- struct{}{}:
					case <-meet:
					case <-time.After(5 * time.Second):
						t.Error("the other branch is not under way")
					}
				}
				b, err := mail.ReadAll(p.Content)
				if err != nil || !bytes.Contains(b, []byte(p.Pending[0])) {
					t.Errorf("%s gets %q (%v)", p.Pending, b, err)
				}
				fates(s, p.Pending, Fate{Kind: Delivered})
			}
			runner, slip := where.build(t, []hopSpec{spec("a", allTraits, func(context.Context, *mail.Message) (stage.Result, error) {
				var res stage.Result
				for _, id := range []mail.RecipientID{"1", "2"} {
					res.Forks = append(res.Forks, stage.Fork{To: []mail.RecipientID{id}, Branch: stage.Branch{Edits: replacing("body", string(id))}})
				}
				res.Edits = replacing("body", "3")
				return res, nil
			})}, out)
			content, s := watch(t, []byte(raw)), &heard{}
			runner.Run(t.Context(), parcel(content, slip), s)
			for _, id := range []mail.RecipientID{"1", "2", "3"} {
				if f := s.fate(t, id); f.Kind != Delivered {
					t.Errorf("fate: %+v", f)
				}
			}
			content.free()
		})
	}
}

// Only the pending recipients are acted on; stages judge by the whole envelope.
func TestPending(t *testing.T) {
	for _, where := range settings {
		t.Run(where.name, func(t *testing.T) {
			var out outbox
			runner, slip := where.build(t, []hopSpec{spec("a", allTraits, func(_ context.Context, m *mail.Message) (stage.Result, error) {
				if len(m.Envelope.Recipients) != 3 {
					return stage.Result{}, errors.New("the envelope is not whole")
				}
				return stage.Result{Forks: []stage.Fork{{To: []mail.RecipientID{"1", "2"}, Branch: stage.Branch{Edits: replacing("body", "fork")}}}}, nil
			})}, &out)
			p, s := parcel(mail.FromBytes([]byte(raw)), slip), &heard{}
			p.Pending = []mail.RecipientID{"2"}
			runner.Run(t.Context(), p, s)
			if want := []string{"2 delivered recipient ", "a verdict continue 2"}; !slices.Equal(s.said(), want) {
				t.Errorf("said %q", s.said())
			}
			if d := out.one(t, "2"); !strings.Contains(d.content, "fork") || out.count() != 1 {
				t.Errorf("delivered %+v", d)
			}
		})
	}
}

// Edits above 64 KiB act, but do not travel back.
func TestEditsOmitted(t *testing.T) {
	for _, where := range settings {
		t.Run(where.name, func(t *testing.T) {
			var out outbox
			big := strings.Repeat("x", MaxReportedEdits)
			runner, slip := where.build(t, []hopSpec{spec("a", allTraits, everyone(replacing("body", big)))}, &out)
			s := &heard{}
			runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s)
			if r := s.reports[0]; !r.EditsOmitted || !r.Edits.Empty() {
				t.Errorf("report: omitted %v, %d splices", r.EditsOmitted, len(r.Edits.Splices))
			}
			if d := out.one(t, "1"); d.content != strings.Replace(raw, "body", big, 1) {
				t.Errorf("delivered %d bytes", len(d.content))
			}
		})
	}
}

// 5 MB of every byte arrive as they were, and again with an edit in front, from files on the way.
func TestLargeContent(t *testing.T) {
	large := []byte(raw)
	for i := 0; len(large) < 5<<20; i++ {
		large = append(large, byte(i), byte(i>>8), byte(i>>16))
	}
	for _, where := range settings {
		t.Run(where.name, func(t *testing.T) {
			var out outbox
			runner, slip := where.build(t, []hopSpec{spec("a", stage.Traits{}, everyone(field(t, "X-One", "1"))), fine}, &out)
			b := mail.NewBuilder(t.TempDir())
			if _, err := b.Write(large); err != nil {
				t.Fatal(err)
			}
			content, err := b.Content()
			if err != nil {
				t.Fatal(err)
			}
			defer content.Release()
			s := &heard{}
			runner.Run(t.Context(), parcel(content, slip), s)
			if d := out.one(t, "3"); d.content != "X-One: 1\r\n"+string(large) {
				t.Errorf("%d bytes arrived, and not those that were sent", len(d.content))
			}
		})
	}
}

// A carrier that forgets a recipient, or gives two fates, does not get through with it.
func TestFateForEach(t *testing.T) {
	for _, where := range settings {
		t.Run(where.name, func(t *testing.T) {
			out := &outbox{carry: func(_ context.Context, p *Parcel, s Sink) {
				s.Fate(Fate{Recipient: "1", Kind: Delivered, Reason: "gr\xfc\xdf", Host: "mx\xff", Reply: &mail.Reply{Code: 250, Text: "danke sch\xf6n"}})
				s.Fate(Fate{Recipient: "1", Kind: Rejected})
				s.Fate(Fate{Recipient: "nobody", Kind: Delivered})
				s.Fate(Fate{Recipient: "2", Kind: Deferred, Concern: AboutDestination, About: "mx.example", After: time.Minute, Host: "mx.example"})
			}}
			runner, slip := where.build(t, []hopSpec{fine}, out)
			s := &heard{}
			runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s)
			if f := s.fate(t, "1"); f.Kind != Delivered || f.Reply == nil || !strings.HasPrefix(f.Reply.Text, "danke sch") {
				t.Errorf("fate of 1: %+v", f)
			}
			if f := s.fate(t, "2"); f.Kind != Deferred || f.Concern != AboutDestination || f.About != "mx.example" || f.Host != "mx.example" || f.After != time.Minute {
				t.Errorf("fate of 2: %+v", f)
			}
			if f := s.fate(t, "3"); f.Kind != Unknown {
				t.Errorf("fate of 3: %+v", f)
			}
			if len(s.fates) != 3 {
				t.Errorf("fates: %+v", s.fates)
			}
		})
	}
}
