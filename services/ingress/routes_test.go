package ingress

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc/codes"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

// withPauses gives an office the pauses that New gives an Ingress, before its shard is used.
func withPauses(t *testing.T, o *office) {
	t.Helper()
	var err error
	if o.pauses, err = openPauses(t.Context(), o.o.Conn, 1, o.o.Logger, o.routesChanged); err != nil {
		t.Fatal(err)
	}
	o.finish(o.own.Swap(nil))
	s, err := o.openShard(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o.own.Store(s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); o.pauses.follow(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// other is another ingress of the same installation.
func (o *office) other(t *testing.T) *Ingress {
	t.Helper()
	in := &Ingress{policy: o.policy, adopted: map[*shard]struct{}{}, o: o.o}
	in.o.Instance = "other"
	var err error
	if in.pauses, err = openPauses(t.Context(), o.o.Conn, 1, o.o.Logger, in.routesChanged); err != nil {
		t.Fatal(err)
	}
	return in
}

func TestPauseAndResumeRoute(t *testing.T) {
	o := newOffice(t, false)
	withPauses(t, o)
	r := o.Routes()

	_, err := r.PauseRoute(t.Context(), &adminv1.PauseRouteRequest{Name: "otu"})
	wantCode(t, err, codes.NotFound, "did you mean out?")
	_, err = r.ResumeRoute(t.Context(), &adminv1.ResumeRouteRequest{Name: "otu"})
	wantCode(t, err, codes.NotFound, "did you mean out?")
	_, err = r.PauseRoute(t.Context(), &adminv1.PauseRouteRequest{Name: "out", Reason: "a\x1b[2Jb"})
	wantCode(t, err, codes.InvalidArgument, "U+001B")
	if res, err := r.ResumeRoute(t.Context(), &adminv1.ResumeRouteRequest{Name: "out"}); err != nil || res.GetRoute().GetPause() != nil {
		t.Errorf("to resume what is not paused: %v, %v", res, err)
	}

	p, err := r.PauseRoute(by(t, "anna"), &adminv1.PauseRouteRequest{Name: "out", Reason: "invoice unpaid"})
	if err != nil {
		t.Fatal(err)
	}
	first := p.GetRoute().GetPause()
	if first.GetBy() != "anna" || first.GetReason() != "invoice unpaid" || time.Since(first.GetAt().AsTime()) > time.Minute {
		t.Errorf("%v", p)
	}
	id := o.post(t, o.shard(), chain.Fate{Kind: chain.Delivered}, "anna@example.com", "bob@example.net")
	if m, ok := o.shard().log.Waiting().Get(id); !ok || m.Groups[0].Room != depot.Park {
		t.Fatalf("%+v", m)
	}
	list, err := r.ListRoutes(t.Context(), &adminv1.ListRoutesRequest{})
	if err != nil || len(list.GetRoutes()) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if s := list.GetRoutes()[0]; s.GetName() != "out" || s.GetWaiting() != 1 || s.GetDown() != "" || !slices.Equal(s.GetChains(), []string{"all"}) {
		t.Errorf("%v", s)
	}
	p, err = r.PauseRoute(by(t, "bert"), &adminv1.PauseRouteRequest{Name: "out", Reason: "still"})
	if again := p.GetRoute().GetPause(); err != nil || again.GetBy() != "bert" || again.GetReason() != "still" || !again.GetAt().AsTime().Equal(first.GetAt().AsTime()) {
		t.Errorf("paused again: %v, %v", again, err)
	}

	// Another ingress knows it at its start, and ends it; we follow within a second.
	in := o.other(t)
	if !in.pauses.paused("out") {
		t.Error("the other ingress does not know of it")
	}
	began := time.Now()
	if _, err := in.Routes().ResumeRoute(by(t, "carl"), &adminv1.ResumeRouteRequest{Name: "out"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its mail is gone", func() bool { return o.shard().log.Waiting().Len() == 0 })
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("its mail went %v after the route was resumed elsewhere", took)
	}
}

// A pause whose route leaves the configuration is shown, and can be ended.
func TestPauseOfARouteThatIsGone(t *testing.T) {
	o := newOffice(t, false)
	withPauses(t, o)
	r := o.Routes()
	if _, err := r.PauseRoute(by(t, "anna"), &adminv1.PauseRouteRequest{Name: "out"}); err != nil {
		t.Fatal(err)
	}
	cfg := *o.o.Config
	chains := *cfg.Chains[0]
	chains.Deliver = "new"
	cfg.Chains, cfg.Routes = []*config.Chain{&chains}, map[string]*config.Route{"new": {Name: "new", Smarthost: &config.Smarthost{Address: "smtp.example.net:587"}}, "in": {Name: "in", MX: &config.MX{}},
		"box": {Name: "box", Maildir: &config.Maildir{Path: "/var/mail/out"}}}
	if err := o.policy.Update(&cfg); err != nil {
		t.Fatal(err)
	}
	list, err := r.ListRoutes(t.Context(), &adminv1.ListRoutesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list.GetRoutes() {
		got = append(got, fmt.Sprintf("%s|%s|%s|%t", s.GetName(), s.GetKind(), s.GetTo(), s.GetPause() != nil))
	}
	want := []string{"box|maildir|/var/mail/out|false", "in|mx|the mail exchangers of the recipients' domains|false", "new|smarthost|smtp.example.net:587|false", "out|||true"}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	o.post(t, o.shard(), chain.Fate{Kind: chain.Delivered}, "anna@example.com", "bob@example.net")
	if n := o.shard().log.Waiting().Len(); n != 0 {
		t.Errorf("%d messages wait for a route that is gone", n)
	}
	_, err = r.PauseRoute(t.Context(), &adminv1.PauseRouteRequest{Name: "out"})
	wantCode(t, err, codes.NotFound)
	if _, err := r.ResumeRoute(t.Context(), &adminv1.ResumeRouteRequest{Name: "out"}); err != nil {
		t.Error(err)
	}
	_, err = r.ResumeRoute(t.Context(), &adminv1.ResumeRouteRequest{Name: "out"})
	wantCode(t, err, codes.NotFound)
}

func TestPauseIsNotKept(t *testing.T) {
	t.Parallel() // it waits most of its time
	o := newOffice(t, false)
	withPauses(t, o)
	o.nats.Shutdown()
	o.nats.WaitForShutdown()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := o.Routes().PauseRoute(ctx, &adminv1.PauseRouteRequest{Name: "out"})
	wantCode(t, err, codes.Unavailable, "nothing was changed")
	if o.pauses.paused("out") {
		t.Error("paused all the same")
	}
	if _, err := o.Routes().ListRoutes(t.Context(), &adminv1.ListRoutesRequest{}); err != nil {
		t.Error(err)
	}
}

// Many change the pauses at once: no change is lost. Their number has a bound, and an older value changes nothing.
func TestPausesTogether(t *testing.T) {
	o := newOffice(t, false)
	withPauses(t, o)
	in := o.other(t)
	done := make(chan error, 8)
	for i := range 8 {
		p := o.pauses
		if i%2 == 0 {
			p = in.pauses
		}
		go func() {
			done <- p.change(t.Context(), func(all map[string]routePause) (bool, error) {
				all[fmt.Sprint("r", i)] = routePause{By: "anna", At: time.Now()}
				return true, nil
			})
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	eventually(t, "all are known", func() bool { return len(o.pauses.all()) == 8 })
	o.pauses.take(&table[routePause]{revision: 1})
	if len(o.pauses.all()) != 8 {
		t.Error("an older value is in force")
	}
	err := o.pauses.change(t.Context(), func(all map[string]routePause) (bool, error) {
		for i := range mostPauses - len(all) {
			all[fmt.Sprint(strings.Repeat("x", 60), i)] = routePause{By: strings.Repeat("y", 100), Reason: strings.Repeat("z", reasonLimit), At: time.Now()}
		}
		return true, nil
	})
	if err != nil {
		t.Fatalf("the bound cannot be reached: %v", err)
	}
	_, err = o.Routes().PauseRoute(t.Context(), &adminv1.PauseRouteRequest{Name: "out"})
	wantCode(t, err, codes.ResourceExhausted, "resume")
}

// What a later release wrote is not guessed at: nothing starts on it.
func TestPausesOfALaterRelease(t *testing.T) {
	o := newOffice(t, false)
	js, err := jetstream.New(o.o.Conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openPauses(t.Context(), o.o.Conn, 1, o.o.Logger, nil); err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), pauseBucket)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{`{"version":2,"routes":{}}`, `no json`} {
		if _, err := kv.Put(t.Context(), "paused", []byte(value)); err != nil {
			t.Fatal(err)
		}
		if _, err := openPauses(t.Context(), o.o.Conn, 1, o.o.Logger, nil); err == nil {
			t.Errorf("%s is read", value)
		}
	}
}
