package chain

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// seen is a Viewer that writes down what it sees.
type seen struct {
	heard
	mu   sync.Mutex
	left map[mail.RecipientID]delivery
}

func (v *seen) Ends(f Fate) { v.Fate(f) }

func (v *seen) Leaves(_ context.Context, p *Parcel) {
	b, err := mail.ReadAll(p.Content)
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, id := range p.Pending {
		r, _ := p.Envelope.Recipient(id)
		if _, twice := v.left[id]; twice || err != nil || p.Slip.Route.Name != "out" {
			v.left[id] = delivery{content: fmt.Sprint("twice, or ", err)}
			continue
		}
		v.left[id] = delivery{from: p.Envelope.ReversePath.String(), to: r.Address.String(), content: string(b), id: p.ID}
	}
}

func effectsOf(hops []hopSpec) func(Hop) bool {
	return func(h Hop) bool {
		i := slices.IndexFunc(hops, func(s hopSpec) bool { return s.Instance == h.Instance })
		return i < 0 || hops[i].traits.Effects
	}
}

// A preview shows what a run delivers, byte for byte, and what else a run would say; nothing leaves, and stages with
// effects do not run.
func TestPreview(t *testing.T) {
	header := stage.Traits{EditsHeader: true}
	for _, s := range settings {
		t.Run(s.name, func(t *testing.T) {
			var journals atomic.Int64
			journal := func(name string) hopSpec {
				return spec(name, stage.Traits{ReadsBody: true, Effects: true}, func(context.Context, *mail.Message) (stage.Result, error) {
					journals.Add(1)
					return stage.Result{}, nil
				})
			}
			fails := spec("fails", header, func(context.Context, *mail.Message) (stage.Result, error) {
				return stage.Result{}, errors.New("broken")
			})
			fails.OnError = OnErrorSkip
			shadow := spec("shadow", header, func(context.Context, *mail.Message) (stage.Result, error) {
				return stage.Result{Branch: stage.Branch{Verdict: stage.Quarantine("would be held")}}, nil
			})
			shadow.Shadow = true
			hops := []hopSpec{
				journal("first"),
				spec("tag", header, func(context.Context, *mail.Message) (stage.Result, error) {
					return stage.Result{Branch: stage.Branch{Edits: replacing("Subject: s", "Subject: [tag] s")}}, nil
				}),
				spec("fork", stage.Traits{EditsEnvelope: true}, func(_ context.Context, m *mail.Message) (stage.Result, error) {
					own := field(t, "X-For", "two")
					own.Rewrites = []mail.Rewrite{{Recipient: "2", To: mail.Address{Local: "v", Domain: "two.example"}}}
					return stage.Result{Forks: []stage.Fork{
						{To: []mail.RecipientID{"2"}, Branch: stage.Branch{Edits: own}},
						{To: []mail.RecipientID{"3"}, Branch: stage.Branch{Verdict: stage.Reject(mail.Reply{Code: 550, Enhanced: "5.7.1", Text: "no"})}},
					}}, nil
				}),
				fails, shadow,
				journal("middle"),
				spec("seal", stage.Traits{ReadsBody: true, Seals: true}, func(_ context.Context, m *mail.Message) (stage.Result, error) {
					b, err := mail.ReadAll(m.Content)
					return stage.Result{Branch: stage.Branch{Edits: field(t, "X-Sum", fmt.Sprintf("%x", sha256.Sum256(b)))}}, err
				}),
				journal("last"),
			}
			out := &outbox{}
			runner, slip := s.build(t, hops, out)
			before := slices.Clone(slip.Hops)

			content := watch(t, []byte(raw))
			v := &seen{left: map[mail.RecipientID]delivery{}}
			runner.Preview(t.Context(), parcel(content, slip), effectsOf(hops), v)
			content.free()
			if out.count() != 0 || journals.Load() != 0 {
				t.Fatalf("%d deliveries, %d journal entries", out.count(), journals.Load())
			}
			if !slices.Equal(slip.Hops, before) {
				t.Error("the slip was changed")
			}
			var ran heard
			runner.Run(t.Context(), parcel(content, slip), &ran)
			if journals.Load() == 0 {
				t.Fatal("the journals did not run")
			}
			for _, id := range []mail.RecipientID{"1", "2"} {
				if got, want := v.left[id], out.one(t, id); got != want {
					t.Errorf("%s: the preview shows\n%+v\nand what left is\n%+v", id, got, want)
				}
			}
			if got, want := v.fate(t, "3"), ran.fate(t, "3"); got.Kind != Rejected || got.Kind != want.Kind || *got.Reply != *want.Reply || got.About != want.About {
				t.Errorf("%+v, want %+v", got, want)
			}
			// The reports are those of a run, but for the journals.
			want := ran.said()
			want = slices.DeleteFunc(want, func(l string) bool { return l[0] >= '0' && l[0] <= '9' })
			for i, l := range want {
				for _, j := range []string{"first", "middle", "last"} {
					if len(l) > len(j) && l[:len(j)] == j {
						want[i] = j + " skipped continue " + l[len(l)-len(who(l)):]
					}
				}
			}
			slices.Sort(want)
			got := slices.DeleteFunc(v.said(), func(l string) bool { return l[0] >= '0' && l[0] <= '9' })
			if !slices.Equal(got, want) {
				t.Errorf("reports:\n%q\nwant\n%q", got, want)
			}
			for _, r := range v.reports {
				if r.Outcome == Skipped && r.Instance != "fails" && r.Reason != WithoutEffect {
					t.Errorf("%+v", r)
				}
			}
		})
	}
}

// who is the end of a line of heard: the recipients.
func who(line string) string {
	for i := len(line) - 1; i >= 0; i-- {
		if line[i] == ' ' {
			return line[i+1:]
		}
	}
	return line
}

// Where a stage cannot judge, a preview says what on_error makes of it, within its timeout; every recipient comes to
// an end, and the content is released.
func TestPreviewFailures(t *testing.T) {
	slow := func(ctx context.Context, _ *mail.Message) (stage.Result, error) {
		<-ctx.Done()
		return stage.Result{}, ctx.Err()
	}
	for _, s := range settings {
		for onError, want := range map[OnError]FateKind{OnErrorDefer: Deferred, OnErrorQuarantine: Quarantined, OnErrorSkip: ""} {
			t.Run(s.name+" "+string(onError), func(t *testing.T) {
				h := spec("slow", stage.Traits{}, slow)
				h.OnError, h.Timeout = onError, 30*time.Millisecond
				out := &outbox{}
				runner, slip := s.build(t, []hopSpec{h}, out)
				content := watch(t, []byte(raw))
				v := &seen{left: map[mail.RecipientID]delivery{}}
				runner.Preview(t.Context(), parcel(content, slip), effectsOf([]hopSpec{h}), v)
				content.free()
				if want == "" {
					if len(v.left) != 3 || len(v.fates) != 0 {
						t.Errorf("%v, %v", v.left, v.fates)
					}
					return
				}
				for _, id := range []mail.RecipientID{"1", "2", "3"} {
					if f := v.fate(t, id); f.Kind != want || f.About != "slow" {
						t.Errorf("%+v", f)
					}
				}
				if len(v.left) != 0 || out.count() != 0 {
					t.Errorf("left: %v", v.left)
				}
			})
		}
	}
	t.Run("nobody is there", func(t *testing.T) {
		content := watch(t, []byte(raw))
		v := &seen{left: map[mail.RecipientID]delivery{}}
		r := &Runner{Logger: quiet, Now: time.Now}
		r.Preview(t.Context(), parcel(content, Slip{Hops: []Hop{{Instance: "gone", Hash: hash}}}), func(Hop) bool { return false }, v)
		content.free()
		if f := v.fate(t, "1"); f.Kind != Refused || f.About != "gone" {
			t.Errorf("%+v", f)
		}
	})
}
