package chain

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/stagecoachmail/stagecoach/mail"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	"github.com/stagecoachmail/stagecoach/stage"
)

// Whatever way a stage is run in, the diffs of the reports, applied one after the other, give what was delivered.
func TestReportsTellWhatWasChanged(t *testing.T) {
	for _, where := range settings {
		t.Run(where.name, func(t *testing.T) {
			var out outbox
			fork := func(_ context.Context, m *mail.Message) (stage.Result, error) {
				b, err := mail.ReadAll(m.Content)
				if err != nil {
					return stage.Result{}, err
				}
				at := int64(bytes.Index(b, []byte("body")))
				first := mail.Edits{Splices: []mail.Splice{{Offset: at, Length: 2, Insert: []byte("bo")}, {Offset: at + 2, Length: 2}, {Offset: at + 4, Insert: []byte("gey")}}}
				return stage.Result{Branch: stage.Branch{Edits: mail.Edits{Splices: []mail.Splice{{Offset: at}, {Offset: at, Length: 4}}}},
					Forks: []stage.Fork{{To: []mail.RecipientID{"1"}, Branch: stage.Branch{Edits: first}}}}, nil
			}
			shadow := with(spec("shadow", allTraits, everyone(field(t, "X-Shadow", "1"))), func(h *hopSpec) { h.Shadow = true })
			runner, slip := where.build(t, []hopSpec{spec("a", allTraits, everyone(field(t, "X-One", "1"))), shadow, spec("b", allTraits, fork), spec("c", allTraits, everyone(field(t, "X-Two", "2")))}, &out)
			s := &heard{}
			runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s)
			for _, id := range []mail.RecipientID{"1", "2", "3"} {
				c, steps := mail.FromBytes([]byte(raw)), 0
				for _, r := range s.reports {
					if r.Shadow != (r.Instance == "shadow") || len(r.Diff.Hunks) != 1 || len(r.Diff.Hunks[0].Before)+len(r.Diff.Hunks[0].After) == 0 {
						t.Fatalf("%+v", r)
					}
					if r.Shadow || !slices.Contains(r.Recipients, id) {
						continue
					}
					next, err := r.Diff.Apply(c)
					if err != nil {
						t.Fatalf("%s: %v", r.Instance, err)
					}
					c, steps = next, steps+1
				}
				b, err := mail.ReadAll(c)
				if err != nil || string(b) != out.one(t, id).content || steps != 3 {
					t.Errorf("%d steps give %s %q (%v), delivered was %q", steps, id, b, err, out.one(t, id).content)
				}
			}
		})
	}
}

// A body that is replaced as a whole is not reported as a whole.
func TestReportsAreBounded(t *testing.T) {
	for _, where := range settings {
		t.Run(where.name, func(t *testing.T) {
			var out outbox
			runner, slip := where.build(t, []hopSpec{spec("a", allTraits, everyone(replacing("body", strings.Repeat("x", 1<<20))))}, &out)
			s := &heard{}
			runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s)
			if r := s.reports[0]; !r.Diff.Cut || len(r.Diff.Hunks) != 1 || string(r.Diff.Hunks[0].Removed) != "body" || proto.Size(ReportProto(r)) > mail.DiffLimit+1<<10 {
				t.Errorf("%d bytes, cut %t", proto.Size(ReportProto(r)), r.Diff.Cut)
			}
		})
	}
}

// The bytes that a stage inserted are sent once.
func TestInsertedBytesAreSentOnce(t *testing.T) {
	edits := mail.Edits{Splices: []mail.Splice{{Offset: 3, Insert: []byte("PRECIOUS")}}}
	r := sampleReport()
	r.Edits, r.Diff = edits, diffOf(mail.FromBytes([]byte(raw)), edits)
	b, err := proto.Marshal(ReportProto(r))
	if err != nil || bytes.Count(b, []byte("PRECIOUS")) != 1 {
		t.Errorf("%q, %v", b, err)
	}
	// Without the edits the diff has them.
	r.Edits, r.EditsOmitted = mail.Edits{}, true
	got, err := ReportFrom(ReportProto(r))
	if err != nil || !reflect.DeepEqual(got.Diff, r.Diff) {
		t.Errorf("%+v (%v), want %+v", got.Diff, err, r.Diff)
	}
}

// What a peer says of a diff is taken if it can be, and costs no mail if not.
func TestDiffOfAPeer(t *testing.T) {
	edits := mail.Edits{Splices: []mail.Splice{{Offset: 3, Length: 2, Insert: []byte("xy")}, {Offset: 9, Insert: []byte("z")}}}
	good := func() *relayv1.Diff {
		return &relayv1.Diff{Hunks: []*relayv1.Hunk{{Offset: 3, Length: 2, Removed: []byte("ab"), Before: []byte("c")}, {Offset: 9}}}
	}
	bare := mail.Diff{Cut: true, Hunks: []mail.Hunk{{Offset: 3, Length: 2, Inserted: []byte("xy")}, {Offset: 9, Inserted: []byte("z")}}}
	for name, change := range map[string]func(d *relayv1.Diff){
		"of other edits":     func(d *relayv1.Diff) { d.Hunks[1].Offset = 8 },
		"too few":            func(d *relayv1.Diff) { d.Hunks = d.Hunks[:1] },
		"too many":           func(d *relayv1.Diff) { d.Hunks = append(d.Hunks, &relayv1.Hunk{Offset: 20}) },
		"other bytes":        func(d *relayv1.Diff) { d.Hunks[0].Removed = []byte("abc") },
		"too much around it": func(d *relayv1.Diff) { d.Hunks[0].After = make([]byte, 201) },
		"too large":          func(d *relayv1.Diff) { d.Cut, d.Hunks[1].Inserted = true, make([]byte, mail.DiffLimit) },
		"no offset":          func(d *relayv1.Diff) { d.Hunks[0].Offset = 1 << 63 },
		"no length":          func(d *relayv1.Diff) { d.Hunks[0].Length = 1<<64 - 1 },
	} {
		d := good()
		change(d)
		if got := diffFrom(d, edits, false); fmt.Sprint(got) != fmt.Sprint(bare) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := diffFrom(good(), edits, false); got.Cut || string(got.Hunks[0].Removed) != "ab" || string(got.Hunks[0].Inserted) != "xy" || string(got.Hunks[1].Inserted) != "z" {
		t.Errorf("a good one: %+v", got)
	}
	if got := diffFrom(nil, edits, false); fmt.Sprint(got) != fmt.Sprint(bare) {
		t.Errorf("from a peer that knows no diffs: %+v", got)
	}
	if got := diffFrom(nil, mail.Edits{}, true); !got.Cut || len(got.Hunks) > 0 {
		t.Errorf("of edits that were left out: %+v", got)
	}
	if got := diffFrom(nil, mail.Edits{Splices: []mail.Splice{{Insert: make([]byte, 60<<10)}}}, false); !got.Cut || len(got.Hunks) > 0 {
		t.Errorf("of large edits: %d hunks", len(got.Hunks))
	}
}
