package stagetest

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// recorder is a testing.TB that notes failures instead of failing.
type recorder struct {
	testing.TB
	mu     sync.Mutex
	failed []string
}

func (r *recorder) Helper()             {}
func (r *recorder) Logf(string, ...any) {}
func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...); runtime.Goexit() }
func (r *recorder) Fatal(args ...any)                 { r.Fatalf("%s", fmt.Sprint(args...)) }

// observe runs the suite and gives what it found.
func observe(t *testing.T, f stage.Factory, s Suite) []string {
	t.Helper()
	r := &recorder{TB: t}
	aside := func(body func()) { // a Fatal ends what it is in
		done := make(chan struct{})
		go func() { defer close(done); body() }()
		<-done
	}
	c := conformance{t: r, factory: f, soon: 200 * time.Millisecond, sub: func(_ string, body func(testing.TB)) { aside(func() { body(r) }) }}
	aside(func() { c.run(s) })
	return r.failed
}

type none struct{}

func factory(traits stage.Traits, st stage.Stage) stage.Factory {
	return stage.NewFactory("sample", traits, func() none { return none{} }, func(stage.Settings, none) (stage.Stage, error) { return st, nil })
}

// good does what a stage does, within the rules.
func good(ctx context.Context, m *mail.Message) (stage.Result, error) {
	if _, err := m.Content.ReadAt(make([]byte, 1), 0); ctx.Err() != nil {
		return stage.Result{}, fmt.Errorf("reading (%w): %w", err, ctx.Err())
	}
	s, err := mail.PrependField("X-Size", fmt.Sprint(m.Content.Size()))
	if err != nil {
		return stage.Result{}, err
	}
	return stage.Result{Branch: stage.Branch{Edits: mail.Edits{Splices: []mail.Splice{s}}},
		Forks: []stage.Fork{{To: []mail.RecipientID{"2"}, Branch: stage.Branch{Verdict: stage.Defer(mail.Reply{Code: 450, Text: "later"}, time.Minute)}}}}, nil
}

func TestGood(t *testing.T) {
	if failed := observe(t, factory(stage.Traits{}, stage.Func(good)), Suite{Samples: [][]byte{[]byte("Subject: x\r\n\r\n")}}); len(failed) > 0 {
		t.Errorf("a good stage fails:\n%s", strings.Join(failed, "\n"))
	}
	Run(t, factory(stage.Traits{}, stage.Func(good)), Suite{})
}

// leaking leaves a goroutine behind when it is closed.
type leaking struct{ until chan struct{} }

func (l leaking) Process(ctx context.Context, m *mail.Message) (stage.Result, error) {
	return good(ctx, m)
}

func (l leaking) Close() error {
	go func() { <-l.until }()
	return nil
}

type unclosable struct{ stage.Func }

func (unclosable) Close() error { return fmt.Errorf("no") }

// Each of these stages breaks one rule, and the suite says so.
func TestBad(t *testing.T) {
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	var n atomic.Int64
	answers := func(r stage.Result) stage.Func {
		return func(context.Context, *mail.Message) (stage.Result, error) { return r, nil }
	}
	tests := []struct {
		name, want string
		traits     stage.Traits
		st         stage.Stage
	}{
		{"changes the content", "changed the content", stage.Traits{}, stage.Func(func(_ context.Context, m *mail.Message) (stage.Result, error) {
			if b, err := mail.ReadAll(m.Content); err == nil && len(b) > 0 && len(b) < 1000 {
				b[0] ^= 0x20
			}
			return stage.Result{}, nil
		})},
		{"changes the envelope", "changed the message", stage.Traits{}, stage.Func(func(_ context.Context, m *mail.Message) (stage.Result, error) {
			m.Envelope.Recipients[0].Address.Local = "x"
			return stage.Result{}, nil
		})},
		{"changes who is pending", "changed the message", stage.Traits{}, stage.Func(func(_ context.Context, m *mail.Message) (stage.Result, error) {
			m.Pending[0] = "2"
			return stage.Result{}, nil
		})},
		{"edits otherwise each time", "run again", stage.Traits{}, stage.Func(func(context.Context, *mail.Message) (stage.Result, error) {
			s, err := mail.PrependField("X-Count", fmt.Sprint(n.Add(1)))
			return stage.Result{Branch: stage.Branch{Edits: mail.Edits{Splices: []mail.Splice{s}}}}, err
		})},
		{"fails now and then", "run again", stage.Traits{}, stage.Func(func(context.Context, *mail.Message) (stage.Result, error) {
			if n.Add(1)%2 == 0 {
				return stage.Result{}, fmt.Errorf("not now")
			}
			return stage.Result{}, nil
		})},
		{"edits outside its traits", "may not do", stage.Traits{ReadsBody: true}, stage.Func(func(_ context.Context, m *mail.Message) (stage.Result, error) {
			return stage.Result{Branch: stage.Branch{Edits: mail.Edits{Splices: []mail.Splice{{Offset: m.Content.Size(), Insert: []byte("x")}}}}}, nil
		})},
		{"quarantines without a reason", "may not do", stage.Traits{}, answers(stage.Result{Branch: stage.Branch{Verdict: stage.Quarantine("")}})},
		{"panics", "may not do", stage.Traits{}, stage.Func(func(context.Context, *mail.Message) (stage.Result, error) { panic("oh") })},
		{"cannot be sent", "over gRPC", stage.Traits{}, answers(stage.Result{Branch: stage.Branch{Verdict: stage.Discard("r\xe9gle")}})},
		{"never judges", "proves nothing", stage.Traits{}, stage.Func(func(context.Context, *mail.Message) (stage.Result, error) {
			return stage.Result{}, fmt.Errorf("no")
		})},
		{"ignores its deadline", "after its deadline", stage.Traits{}, stage.Func(func(ctx context.Context, m *mail.Message) (stage.Result, error) {
			if _, err := good(ctx, m); err != nil {
				<-over
			}
			return stage.Result{}, nil
		})},
		{"ignores that it was cancelled", "after it was cancelled", stage.Traits{}, stage.Func(func(ctx context.Context, m *mail.Message) (stage.Result, error) {
			if _, err := good(ctx, m); err != nil {
				<-over
			}
			return stage.Result{}, nil
		})},
		{"leaves something running", "runs after its end", stage.Traits{}, leaking{until: over}},
		{"cannot be closed", "Close: no", stage.Traits{}, unclosable{good}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			failed := strings.Join(observe(t, factory(tt.traits, tt.st), Suite{}), "\n")
			if !strings.Contains(failed, tt.want) {
				t.Errorf("the suite does not say %q, but:\n%s", tt.want, failed)
			}
		})
	}
	t.Run("has a bad config", func(t *testing.T) {
		if failed := observe(t, factory(stage.Traits{}, stage.Func(good)), Suite{Config: "unknown: 1\n"}); len(failed) != 1 || !strings.Contains(failed[0], "config") {
			t.Errorf("the suite says %q", failed)
		}
	})
}
