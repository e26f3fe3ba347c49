package egress

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtptest"
)

func TestConnectionReuse(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{})
	r := build(t, setup{route: smart(s), limits: func(l *limits) { l.transactions = 3 }})
	for i := range 7 {
		r.carry(t, parcel("m"+strconv.Itoa(i), simple, "a@x.example")).want(t, chain.Delivered)
	}
	if s.Connections() != 3 || len(s.Messages()) != 7 {
		t.Errorf("%d connections", s.Connections())
	}
}

// After a refusal without a body the transaction is ended by RSET, and the session goes on.
func TestReuseAfterRefusal(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Script: answer("RCPT", "<gone@", "550 5.1.1 gone")})
	r := build(t, setup{route: smart(s)})
	r.carry(t, parcel("m1", simple, "gone@x.example")).want(t, chain.Rejected)
	r.carry(t, parcel("m2", simple, "a@x.example")).want(t, chain.Delivered)
	if s.Connections() != 1 || !strings.Contains(strings.Join(s.Commands(), "|"), "|RSET|MAIL") {
		t.Errorf("%d connections, %q", s.Connections(), s.Commands())
	}
}

// A kept connection that has died meanwhile, or says so with 421, counts for nothing.
func TestStaleConnection(t *testing.T) {
	for name, die := range map[string]func(*smtptest.Conn){
		"closed": (*smtptest.Conn).Hangup, "reset": (*smtptest.Conn).Reset,
		"421": func(c *smtptest.Conn) { c.Say("421 4.4.2 idle too long"); c.Hangup() },
	} {
		t.Run(name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
				if at == "MAIL" && c.N == 1 && len(c.Message.To) > 0 {
					die(c)
					return true
				}
				return false
			}})
			r := build(t, setup{route: smart(s)})
			r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Delivered)
			r.carry(t, parcel("m2", simple, "a@x.example")).want(t, chain.Delivered)
			if s.Connections() != 2 || len(s.Messages()) != 2 {
				t.Errorf("%d connections", s.Connections())
			}
		})
	}
}

// After MAIL was answered it counts: there is no silent second try.
func TestDeathAfterMailCounts(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Extensions: []string{}, Script: func(c *smtptest.Conn, at, line string) bool {
		if at == "RCPT" && strings.Contains(line, "<die@") {
			c.Hangup()
			return true
		}
		return false
	}})
	r := build(t, setup{route: smart(s)})
	r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Delivered)
	r.carry(t, parcel("m2", simple, "die@x.example")).want(t, chain.Deferred)
	if s.Connections() != 1 {
		t.Errorf("%d connections", s.Connections())
	}
}

// What comes unasked-for after an answer makes a session unfit for the next message.
func TestDesynchronizedSessionIsNotKept(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
		if at == "DOT" && c.N == 1 {
			c.Accept()
			c.Say("250 2.0.0 ok", "250 2.0.0 ok for the next one too")
			return true
		}
		if at == "DOT" {
			c.Say("554 5.7.1 spam")
			return true
		}
		return false
	}})
	r := build(t, setup{route: smart(s)})
	r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Delivered)
	r.carry(t, parcel("m2", simple, "a@x.example")).want(t, chain.Rejected)
}

func TestIdleConnectionsAreLetGo(t *testing.T) {
	quit := make(chan struct{})
	s := smtptest.Start(t, smtptest.Config{Script: func(_ *smtptest.Conn, at, _ string) bool {
		if at == "QUIT" {
			close(quit)
		}
		return false
	}})
	r := build(t, setup{route: smart(s), limits: func(l *limits) { l.idle = time.Millisecond }})
	r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Delivered)
	select {
	case <-quit:
	case <-time.After(5 * time.Second):
		t.Fatal("kept")
	}
}

func TestConnectionsToOneHostAreBounded(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	s := smtptest.Start(t, smtptest.Config{Script: func(_ *smtptest.Conn, at, _ string) bool {
		mu.Lock()
		defer mu.Unlock()
		switch at {
		case "DATA":
			now++
			most = max(most, now)
		case "DOT":
			now--
		}
		return false
	}})
	r := build(t, setup{route: smart(s), limits: func(l *limits) { l.connections, l.idleKept = 2, 2 }})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			got := &sink{}
			r.Carry(t.Context(), parcel("m"+strconv.Itoa(i), simple, "a@x.example"), got)
			got.want(t, chain.Delivered)
		})
	}
	wg.Wait()
	if s.Connections() > 2 || most > 2 || len(s.Messages()) != 20 {
		t.Errorf("%d connections, %d at once", s.Connections(), most)
	}
	if len(r.routes.all) != 1 || len(r.routes.all[routeKey{"out", "h1"}].way.(*smarthost).pool.hosts) > 1 {
		t.Error("hosts pile up")
	}
}

// A second attempt for the same message and recipient joins the first, and just after it gets its fate: one copy.
func TestSecondAttemptJoins(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	s := smtptest.Start(t, smtptest.Config{Script: func(_ *smtptest.Conn, at, _ string) bool {
		if at == "DOT" {
			close(arrived)
			<-release
		}
		return false
	}})
	clock := newClock()
	r := build(t, setup{route: smart(s), opts: func(o *Options) { o.Now = clock.Now }})
	first, second := &sink{}, &sink{}
	var wg sync.WaitGroup
	wg.Go(func() { r.Carry(context.Background(), parcel("m1", simple, "a@x.example"), first) })
	<-arrived
	wg.Go(func() { r.Carry(context.Background(), parcel("m1", simple, "a@x.example"), second) })
	// A third that cannot wait does not know the outcome.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	third := &sink{}
	r.Carry(ctx, parcel("m1", simple, "a@x.example"), third)
	third.want(t, chain.Unknown)
	close(release)
	wg.Wait()
	first.want(t, chain.Delivered)
	second.want(t, chain.Delivered)
	if f := r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Delivered)[0]; f.Reply == nil || f.Reply.Code != 250 || f.Host != s.Addr {
		t.Error(describe(f))
	}
	if len(s.Messages()) != 1 {
		t.Errorf("%d copies", len(s.Messages()))
	}
	clock.pass(16 * time.Minute)
	r.carry(t, parcel("other", simple)) // sweeps
	if len(r.keys.all) != 0 || len(r.keys.over) != 0 {
		t.Errorf("%d keys are kept for ever", len(r.keys.all))
	}
}

// What was not delivered is tried again when somebody asks.
func TestFailuresAreNotRemembered(t *testing.T) {
	for _, reply := range []string{"451 4.3.0 later", "554 5.6.0 no", "hello"} {
		s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
			if at == "DOT" && c.N == 1 {
				c.Say(reply)
				c.Hangup()
				return true
			}
			return false
		}})
		r := build(t, setup{route: smart(s)})
		if f := r.carry(t, parcel("m1", simple, "a@x.example")).of(t, "r0")["r0"]; f.Kind == chain.Delivered {
			t.Fatal(describe(f))
		}
		r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Delivered)
	}
}

func TestRememberedDeliveriesAreBounded(t *testing.T) {
	k := newKeys(limits{remember: time.Hour, remembered: 10}, time.Now)
	for i := range 100 {
		id := strconv.Itoa(i)
		own, joined := k.claim(id, []mail.RecipientID{"r"})
		if len(own) != 1 || len(joined) != 0 {
			t.Fatal("claim")
		}
		k.finish(id, chain.Fate{Recipient: "r", Kind: chain.Delivered})
	}
	if len(k.all) > 11 {
		t.Errorf("%d", len(k.all))
	}
}

// Messages under way go by the route they name, also after it was replaced; in the end it is forgotten.
func TestUpdate(t *testing.T) {
	one, two := smtptest.Start(t, smtptest.Config{}), smtptest.Start(t, smtptest.Config{})
	clock := newClock()
	r := build(t, setup{route: smart(one), opts: func(o *Options) { o.Now = clock.Now }})
	next := conf(r.dir, smart(two))
	next.Routes["out"].Hash = "h2"
	if err := r.Update(next); err != nil {
		t.Fatal(err)
	}
	p := parcel("m2", simple, "a@x.example")
	p.Slip.Route.Hash = "h2"
	r.carry(t, p).want(t, chain.Delivered)
	r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Delivered)
	if len(one.Messages()) != 1 || len(two.Messages()) != 1 {
		t.Errorf("%d, %d", len(one.Messages()), len(two.Messages()))
	}
	bad := conf(r.dir, config.Route{})
	if err := r.Update(bad); err == nil {
		t.Error("an impossible route was taken")
	}
	clock.pass(2 * time.Hour)
	p = parcel("m3", simple, "a@x.example")
	p.Slip.Route.Hash = "h2"
	r.carry(t, p).want(t, chain.Delivered)
	r.carry(t, parcel("m4", simple, "a@x.example")).want(t, chain.Refused)

	// The same hash under another hostname is another route.
	same := conf(r.dir, smart(two))
	same.Routes["out"].Hash, same.Hostname = "h2", "other.example"
	if err := r.Update(same); err != nil {
		t.Fatal(err)
	}
	p = parcel("m5", simple, "a@x.example")
	p.Slip.Route.Hash = "h2"
	r.carry(t, p).want(t, chain.Delivered)
	if got := two.Commands(); !strings.Contains(strings.Join(got, "|"), "EHLO other.example") {
		t.Errorf("%q", got)
	}
}

func TestClose(t *testing.T) {
	arrived := make(chan struct{})
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
		if at == "RCPT" {
			close(arrived)
			c.Stall()
		}
		return at == "RCPT"
	}})
	e, err := New(Options{Config: conf(t.TempDir(), smart(s))})
	if err != nil {
		t.Fatal(err)
	}
	got := &sink{}
	done := make(chan struct{})
	go func() { defer close(done); e.Carry(context.Background(), parcel("m1", simple, "a@x.example"), got) }()
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := e.Close(ctx); err == nil {
		t.Error("closed under a delivery")
	}
	<-done
	got.want(t, chain.Refused)
	late := &sink{}
	e.Carry(t.Context(), parcel("m2", simple, "a@x.example"), late)
	if f := late.want(t, chain.Refused)[0]; f.Concern != chain.AboutHop {
		t.Error(describe(f))
	}
	if err := e.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
