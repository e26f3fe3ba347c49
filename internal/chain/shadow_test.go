package chain

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// A stage in shadow that hangs keeps nobody from going on, in any arrangement: the fates are there while it judges. What
// it says comes behind them, and it keeps the content for so long.
func TestShadowKeepsNobody(t *testing.T) {
	for _, where := range settings {
		t.Run(where.name, func(t *testing.T) {
			hold := make(chan struct{})
			hangs := with(spec("hangs", allTraits, func(_ context.Context, m *mail.Message) (stage.Result, error) {
				<-hold
				b, err := mail.ReadAll(m.Content)
				if err != nil || !strings.Contains(string(b), "Subject: t") {
					t.Errorf("it sees %q, %v", b, err)
				}
				return stage.Result{Branch: stage.Branch{Verdict: stage.Quarantine("x")}}, nil
			}), func(h *hopSpec) { h.Shadow = true })
			var out outbox
			runner, slip := where.build(t, []hopSpec{spec("a", allTraits, everyone(replacing("Subject: s", "Subject: t"))), hangs,
				spec("b", allTraits, everyone(replacing("body", "changed")))}, &out)
			s := &heard{}
			content := watch(t, []byte(raw))
			over := make(chan struct{})
			go func() { defer close(over); runner.Run(t.Context(), parcel(content, slip), s) }()
			eventually(t, "all have their fate", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.fates) == 3 })
			if got := out.one(t, "1").content; !strings.Contains(got, "changed") || !strings.Contains(got, "Subject: t") {
				t.Errorf("delivered: %q", got)
			}
			select {
			case <-over:
				t.Error("it is not waited for")
			default:
			}
			close(hold)
			<-over
			want := append(slices.Clone(deliveredAll), "a verdict continue 1,2,3", "b verdict continue 1,2,3", "hangs verdict quarantine 1,2,3")
			slices.Sort(want)
			if got := s.said(); !slices.Equal(got, want) {
				t.Errorf("said %q", got)
			}
			content.free()
		})
	}
}

// Its own timeout ends it, and the end of the run, which is no failure of it.
func TestShadowEnds(t *testing.T) {
	for _, where := range settings {
		t.Run(where.name, func(t *testing.T) {
			slow := with(spec("slow", allTraits, func(ctx context.Context, _ *mail.Message) (stage.Result, error) {
				<-ctx.Done()
				return stage.Result{}, ctx.Err()
			}), func(h *hopSpec) { h.Shadow, h.Timeout = true, 50*time.Millisecond })
			var out outbox
			runner, slip := where.build(t, []hopSpec{slow}, &out)
			s := &heard{}
			runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s)
			if got := s.said(); !slices.Equal(got, append(slices.Clone(deliveredAll), "slow failed continue 1,2,3")) {
				t.Errorf("said %q", got)
			}
			slip.Hops[0].Timeout = time.Hour
			ctx, cancel := context.WithCancel(t.Context())
			s = &heard{}
			go func() {
				defer cancel()
				eventually(t, "all have their fate", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.fates) == 3 })
			}()
			runner.Run(ctx, parcel(mail.FromBytes([]byte(raw)), slip), s)
			if n := runner.shadows.Load(); n != 0 {
				t.Errorf("%d still count", n)
			}
			for _, r := range s.reports {
				if r.Outcome == Failed {
					t.Errorf("%+v", r)
				}
			}
		})
	}
}

// Only so many judge at once; the others are passed over, and told of.
func TestMostShadows(t *testing.T) {
	hold := make(chan struct{})
	var judging atomic.Int64
	st := with(spec("dry", allTraits, func(context.Context, *mail.Message) (stage.Result, error) {
		judging.Add(1)
		<-hold
		return stage.Result{}, nil
	}), func(h *hopSpec) { h.Shadow = true })
	var out outbox
	runner, slip := settings[0].build(t, []hopSpec{st}, &out)
	done := make(chan struct{}, mostShadows)
	for range mostShadows {
		go func() {
			runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), &heard{})
			done <- struct{}{}
		}()
	}
	eventually(t, "all judge", func() bool { return judging.Load() == mostShadows })
	s := &heard{}
	runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s)
	if got := s.said(); !slices.Equal(got, append(slices.Clone(deliveredAll), "dry skipped continue 1,2,3")) || s.reports[0].Reason != TooManyShadows || !s.reports[0].Shadow {
		t.Errorf("said %q", got)
	}
	close(hold)
	for range mostShadows {
		<-done
	}
	s = &heard{}
	runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s)
	if got := s.said(); !slices.Equal(got, append(slices.Clone(deliveredAll), "dry verdict continue 1,2,3")) {
		t.Errorf("then: %q", got)
	}
}

// A release before this one hands a message over to the stage in shadow: it goes on from there, without effect.
func TestShadowThatIsRelayedTo(t *testing.T) {
	var out outbox
	st := with(spec("dry", allTraits, says(stage.Discard("x"))), func(h *hopSpec) { h.Shadow = true })
	runner := &Runner{Stages: stagesOf(t, st), Egress: &out, Logger: quiet, Now: time.Now}
	slip := Slip{Hops: []Hop{st.Hop}}
	slip.Hops[0].Address = closedPort(t)
	s := &heard{}
	if err := runner.RunHere(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s); err != nil {
		t.Fatal(err)
	}
	if got := s.said(); !slices.Equal(got, append(slices.Clone(deliveredAll), "dry verdict discard 1,2,3")) || slip.Hops[0].Address == "" {
		t.Errorf("said %q", got)
	}
}

// A stage elsewhere is followed by one in shadow elsewhere, and then by one of this process: that the message comes back
// to.
func TestComesBackBehindAShadow(t *testing.T) {
	for name, here := range map[string]int{"the next one is here": 2, "the shadow is here": 1} {
		t.Run(name, func(t *testing.T) {
			dry := with(spec("s", allTraits, says(stage.Discard("x"))), func(h *hopSpec) { h.Shadow = true })
			hops := []hopSpec{spec("a", allTraits, says(stage.Continue())), dry, spec("c", allTraits, says(stage.Continue()))}
			var out outbox
			runner, slip := remote(t, hops, &out, false)
			slip.Hops[here].Address = ""
			h := hops[here]
			if err := runner.Stages.Replace([]Instance{{Name: h.Instance, Hash: h.Hash, Type: h.Type, Traits: h.traits, New: func() (stage.Stage, error) { return h.st, nil }}}); err != nil {
				t.Fatal(err)
			}
			s := &heard{}
			runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s)
			want := append(slices.Clone(deliveredAll), "a verdict continue 1,2,3", "c verdict continue 1,2,3", "s verdict discard 1,2,3")
			if got := s.said(); !slices.Equal(got, want) {
				t.Errorf("said %q", got)
			}
		})
	}
}
