package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/test/bench/internal/corpus"
	"github.com/stagecoachmail/stagecoach/test/bench/internal/ledger"
	"github.com/stagecoachmail/stagecoach/test/bench/internal/load"
)

const (
	// warming is the share of the time of measurement for which is loaded before it, without being measured.
	warming = 5
	// draining is how long what was accepted may take to arrive after the load has ended; then it counts as lost.
	draining = 60 * time.Second
	// most is how many bytes are sent in a measurement at most. A relay takes mail faster than it delivers it; of large
	// messages it would take so many that the measurement had no end.
	most = 400_000_000
	// settling is how long a relay has after the last message for what it does when nobody waits.
	settling = 300 * time.Millisecond
	// shown is how many violations are shown.
	shown = 10
)

// scenario is one measurement.
type scenario struct {
	Relay  string `json:"relay"`
	Corpus string `json:"corpus"`
	// Rate is in messages per second; 0: a closed loop.
	Rate     float64 `json:"rate"`
	Sessions int     `json:"sessions"`
	// For is how long mail is sent while it is measured.
	For time.Duration `json:"-"`
}

func (s scenario) loop() string {
	if s.Rate > 0 {
		return fmt.Sprintf("%g/s", s.Rate)
	}
	return "closed"
}

func (s scenario) String() string { return s.Relay + " " + s.Corpus + " " + s.loop() }

// bench is what all scenarios share.
type bench struct {
	// programs is the folder of bare and clamd.
	programs string
	corpora  map[string]*corpus.Corpus
	// draining is how long is waited for what has not arrived.
	draining time.Duration
	runs     int
	// log is for people who wait.
	log io.Writer
}

// run runs one scenario, from an empty folder to the last process ended.
func (b *bench) run(ctx context.Context, s scenario) (result, error) {
	b.runs++
	var res result
	err := try(ctx, s.String(), b.log, func(t testing.TB) { res = b.measure(t, s) })
	if err != nil {
		return result{scenario: s}, fmt.Errorf("%s: %w", s, err)
	}
	return res, nil
}

func (b *bench) measure(t testing.TB, s scenario) result {
	led := ledger.New(b.runs)
	sub := start(t, s.Relay, b.programs, led)
	l := &load.Load{Target: sub.target, Corpus: b.corpora[s.Corpus], Ledger: led, Sessions: s.Sessions, Rate: s.Rate, Most: most / warming}
	b.loaded(t, l, s.For/warming)
	first := led.Len()
	before := sub.sample()
	l.Most = most
	b.loaded(t, l, s.For)
	after := sub.sample()
	sub.stop()

	figures := led.Figures(first)
	wrong := led.Violations(s.Relay != sinkAlone)
	if all := led.Figures(0).Messages; len(wrong) == 0 {
		wrong = append(wrong, sub.check(all)...)
	}
	if figures.Messages == 0 {
		wrong = append(wrong, "no message came through")
	}
	if len(wrong) > 0 {
		t.Errorf("%d violations:\n  %s", len(wrong), strings.Join(wrong[:min(len(wrong), shown)], "\n  "))
	}
	return sum(s, sub, figures, led.Deferrals(), before, after)
}

// loaded sends for that long, and waits until all of it has arrived and settled.
func (b *bench) loaded(t testing.TB, l *load.Load, d time.Duration) {
	ctx := t.Context()
	if err := l.Run(ctx, d); err != nil {
		t.Fatalf("load: %v", err)
	}
	for end := time.Now().Add(b.draining); !l.Ledger.Drained() && time.Now().Before(end); {
		if !rest(ctx, 5*time.Millisecond) {
			break
		}
	}
	rest(ctx, settling)
	if ctx.Err() != nil {
		t.Fatal("interrupted")
	}
}

// rest waits; false: ctx has ended.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
