package chain

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// closing is a stage that notes when it is closed.
type closing struct {
	stage.Func
	closed func()
}

func (c closing) Close() error { c.closed(); return nil }

type shelf struct {
	mu     sync.Mutex
	made   []string
	closed []string
}

func (s *shelf) instance(name, hash string, f stage.Func) Instance {
	return Instance{Name: name, Hash: hash, Type: "t", New: func() (stage.Stage, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.made = append(s.made, name+hash)
		return closing{Func: f, closed: func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.closed = append(s.closed, name+hash)
		}}, nil
	}}
}

func (s *shelf) want(t *testing.T, made, closed []string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.made, made) || !slices.Equal(s.closed, closed) {
		t.Fatalf("made %v, closed %v; want %v, %v", s.made, s.closed, made, closed)
	}
}

// A replaced configuration stays for Retain after it was replaced or last used, and is closed once.
func TestReplace(t *testing.T) {
	now := time.Unix(1700000000, 0)
	s := NewStages(time.Hour, quiet, func() time.Time { return now })
	var sh shelf
	f := says(stage.Continue())
	replace := func(in ...Instance) {
		t.Helper()
		if err := s.Replace(in); err != nil {
			t.Fatal(err)
		}
	}
	replace(sh.instance("a", "1", f), sh.instance("b", "1", f), sh.instance("a", "1", f))
	now = now.Add(3 * time.Hour) // no mail for three hours
	replace(sh.instance("a", "2", f), sh.instance("b", "1", f))
	sh.want(t, []string{"a1", "b1", "a2"}, nil)
	if _, ok := s.acquire("a", "3"); ok {
		t.Error("a configuration that never was is found")
	}
	now = now.Add(59 * time.Minute)
	e, ok := s.acquire("a", "1")
	if !ok {
		t.Fatal("the replaced configuration is gone while slips may name it")
	}
	now = now.Add(2 * time.Hour)
	s.Sweep()
	sh.want(t, []string{"a1", "b1", "a2"}, nil) // in use
	e.release()
	s.Sweep()
	sh.want(t, []string{"a1", "b1", "a2"}, nil) // just used
	now = now.Add(time.Hour)
	s.Sweep()
	sh.want(t, []string{"a1", "b1", "a2"}, []string{"a1"})
	if err := s.Replace([]Instance{sh.instance("a", "4", f), {Name: "bad", New: func() (stage.Stage, error) { return nil, errors.New("no") }}}); err == nil {
		t.Fatal("a configuration that cannot be run was taken")
	}
	sh.want(t, []string{"a1", "b1", "a2", "a4"}, []string{"a1", "a4"})
	if e, ok := s.acquire("a", "2"); !ok {
		t.Error("a bad revision took the running one away")
	} else {
		e.release()
	}
	s.Close()
	if len(sh.closed) != 4 || len(s.List()) != 0 {
		t.Errorf("closed at the end: %v, left %v", sh.closed, s.List())
	}
}

// A stage that is still at work after its deadline is not closed before it returns.
func TestNotClosedAtWork(t *testing.T) {
	var sh shelf
	finish, returned := make(chan struct{}), make(chan struct{})
	s := NewStages(0, quiet, time.Now)
	if err := s.Replace([]Instance{sh.instance("a", hash, func(context.Context, *mail.Message) (stage.Result, error) {
		<-finish
		sh.want(t, []string{"a" + hash}, nil)
		close(returned)
		return stage.Result{}, nil
	})}); err != nil {
		t.Fatal(err)
	}
	r := &Runner{Stages: s, Egress: &outbox{}, Logger: quiet, Now: time.Now}
	heard := &heard{}
	content := watch(t, []byte(raw))
	r.Run(t.Context(), parcel(content, Slip{Hops: []Hop{{Instance: "a", Hash: hash, Timeout: time.Millisecond}}}), heard)
	if f := heard.fate(t, "1"); f.Kind != Deferred {
		t.Fatalf("fate: %+v", f)
	}
	s.Close()
	close(finish)
	<-returned
	eventually(t, "the stage is closed at last", func() bool {
		s.Close()
		sh.mu.Lock()
		defer sh.mu.Unlock()
		return len(sh.closed) == 1
	})
	content.free()
}

// A goroutine that is ended from within is no Continue.
func TestGoexit(t *testing.T) {
	m := parcel(mail.FromBytes([]byte(raw)), Slip{}).Message
	_, err := Judge(t.Context(), stage.Func(func(context.Context, *mail.Message) (stage.Result, error) {
		runtime.Goexit()
		return stage.Result{}, nil
	}), allTraits, Hop{}, &m)
	if !errors.Is(err, ErrContract) {
		t.Errorf("judged: %v", err)
	}
}

// The stage cannot reach the envelope of its caller.
func TestJudgeEnvelope(t *testing.T) {
	m := parcel(mail.FromBytes([]byte(raw)), Slip{}).Message
	_, err := Judge(t.Context(), stage.Func(func(_ context.Context, m *mail.Message) (stage.Result, error) {
		m.Envelope.Recipients[0].Address = mail.Address{}
		m.Pending[0] = "3"
		m.ID = "x"
		return stage.Result{}, nil
	}), allTraits, Hop{}, &m)
	if err != nil || m.ID != "m1" || m.Pending[0] != "1" || m.Envelope.Recipients[0].Address.IsNull() {
		t.Errorf("after the stage: %+v (%v)", m, err)
	}
}

// Inline gives the branches and carries nothing on.
func TestInline(t *testing.T) {
	for _, where := range settings {
		t.Run(where.name, func(t *testing.T) {
			var out outbox
			runner, slip := where.build(t, []hopSpec{spec("a", allTraits, func(context.Context, *mail.Message) (stage.Result, error) {
				return stage.Result{Branch: stage.Branch{Edits: replacing("body", "x")}, Forks: []stage.Fork{{To: []mail.RecipientID{"2"}, Branch: stage.Branch{Verdict: stage.Quarantine("q")}}}}, nil
			})}, &out)
			content := watch(t, []byte(raw))
			p := parcel(content, slip)
			judged, err := runner.Inline(t.Context(), slip.Hops[0], &p.Message)
			if err != nil || len(judged) != 2 || out.count() > 0 {
				t.Fatalf("judged %+v (%v)", judged, err)
			}
			for _, j := range judged {
				want := "1,3"
				if j.Verdict.Kind == stage.KindQuarantine {
					want = "2"
				}
				if joined(j.Report.Recipients) != want || joined(j.Message.Pending) != want || j.Report.Hash != hash {
					t.Errorf("judged %+v", j.Report)
				}
				j.Message.Content.Release()
			}
			content.free()
		})
	}
}
