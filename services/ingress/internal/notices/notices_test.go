package notices

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.office("one"), w.office("two")
	since := w.now
	provider := Stop{Kind: Route, Name: "provider", Since: since, Reason: "connect: refused\r\nBcc: x@y", Waiting: 12}
	one.stops = []Stop{provider}
	w.pass(time.Minute, one, two)
	provider.Since = w.now // another ingress notices it later
	two.stops = []Stop{provider, {Kind: Hop, Name: "signer", Since: since, Reason: "gone"}}
	w.pass(14*time.Minute-20*time.Second, one, two)
	w.wants("shorter than 15 minutes")
	w.pass(80*time.Second+20*time.Second, one, two)
	got := w.wants("both are told, each once",
		[]string{"[stagecoach] route provider is down", "since 2026-03-02 13:00:00 +0100 (15 min)", "because: connect: refused  Bcc: x@y", "wait for it: 12"},
		[]string{"[stagecoach] hop signer is down", "because: gone"})
	if got[0].by == got[1].by {
		t.Error("they are of different ingresses")
	}
	w.pass(time.Hour, one, two)
	w.wants("and no more")

	one.stops = nil
	two.stops = two.stops[:1]
	w.pass(10*time.Minute, one, two)
	w.wants("provider is still down for the other", []string{"over: hop signer is down", "It is over"})
	w.now = w.now.Add(time.Second)
	two.stops = nil
	w.pass(4*time.Minute, one, two)
	w.wants("over, once", []string{"over: route provider is down", "from 2026-03-02 13:00:00 +0100 to about"})
	w.pass(time.Hour, one, two)
	w.wants("over is over")

	// Its host answers, and refuses the login: that is the same stop.
	one.stops = []Stop{{Kind: Route, Name: "provider", Reason: "timeout"}}
	w.pass(20*time.Minute, one, two)
	one.stops[0].Kind = Login
	w.pass(20*time.Minute, one, two)
	one.stops = nil
	w.pass(4*time.Minute, one, two)
	w.wants("one stop", []string{"route provider is down"}, []string{"over: route provider is down"})

	// The next time it is news again. Two at once are one mail; the login is told as such.
	one.stops = []Stop{{Kind: Login, Name: "provider", Reason: "535 no"}, {Kind: Intake, Name: "NATS", Reason: "away"}}
	w.pass(20*time.Minute, one, two)
	w.wants("several at once", []string{"2 notices: the login at the smarthost of route provider is refused, and more", "No mail is accepted (NATS)", "because: away"})
}

func TestShortStopIsNotTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.office("one")
	for range 5 {
		one.stops = []Stop{{Kind: Hop, Name: "signer"}}
		w.pass(14*time.Minute, one)
		one.stops = nil
		w.pass(time.Minute, one)
	}
	w.wants("none lasted 15 minutes")
}

// While the notice cannot be kept, the stop ends: one mail tells both.
func TestStopThatIsOverBeforeItIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.office("one")
	one.stops, one.fails = []Stop{{Kind: Intake, Name: "NATS", Reason: "away"}}, errNo
	w.pass(30*time.Minute, one)
	one.stops = nil
	w.pass(5*time.Minute, one)
	one.fails = nil
	w.pass(5*time.Minute, one)
	w.wants("both in one", []string{"over: no mail is accepted (NATS)", "(30 min)"})
	w.pass(time.Hour, one)
	w.wants("and no more")
}

// Who claimed it died before it was sent: another tells it when the claim has run out; and nobody if the record is of
// one who told it.
func TestCrashAfterTheClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.office("one"), w.office("two")
	down := []Stop{{Kind: Hop, Name: "signer", Since: w.now.Add(-time.Hour)}}
	one.stops, one.fails = down, errNo
	w.pass(2*time.Minute, one) // it has the claim, and is gone
	two.stops = down
	w.pass(100*time.Second, two)
	w.wants("the claim holds")
	w.pass(3*time.Minute, two)
	w.wants("it is told", []string{"hop signer is down"})

	// The same with the end, and after a restart.
	two.stops, two.fails = nil, errNo
	w.pass(5*time.Minute, two)
	again := w.office("one")
	w.pass(5*time.Minute, again)
	w.wants("the end is told", []string{"over: hop signer is down"})

	// A claim of a stop that nobody sees any more.
	again.stops, again.fails = down, errNo
	w.pass(2*time.Minute, again)
	w.pass(10*time.Minute, w.office("three"))
	w.wants("it is not forgotten", []string{"over: hop signer is down"})
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.office("one"), w.office("two")
	c := Certificate{Name: "the certificate of the listeners", Remedy: "Renew it.", Ends: w.now.Add(15*day + time.Hour)}
	one.certs, two.certs = []Certificate{c}, []Certificate{c}
	w.pass(time.Hour, one, two)
	w.wants("15 days")
	for _, step := range []struct {
		after time.Duration
		want  string
	}{{day, "ends in 13 days"}, {7 * day, "ends in 6 days"}, {6 * day, "ends in 23 h"}, {day, "has ended on 2026-03-17"}} {
		w.now = w.now.Add(step.after - time.Hour)
		w.pass(2*time.Hour, one, two)
		w.wants(step.want, []string{"the certificate of the listeners " + step.want, "Renew it."})
		w.now = w.now.Add(-time.Hour)
	}
	w.pass(time.Hour, w.office("one"))
	c.Ends = w.now.Add(3 * day)
	one.certs = []Certificate{c}
	w.pass(10*time.Minute, one)
	w.wants("another one", []string{"ends in 2 days"})
}

func TestFills(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.office("one")
	disk := func(used uint64) {
		one.fills = []Fill{{Name: "the disk", Used: used * 1e9, Limit: 1000e9, Effect: "Make room."}}
	}
	disk(799)
	w.pass(10*time.Minute, one)
	w.wants("not yet")
	disk(800)
	w.pass(10*time.Minute, one)
	w.wants("80%", []string{"the disk is filled to 80%", "it holds 800.0 GB of 1000.0 GB", "Make room."})
	w.pass(time.Hour, one)
	w.wants("once a day")
	w.now = w.now.Add(day)
	w.pass(10*time.Minute, one)
	w.wants("the next day", []string{"the disk is filled to 80%"})
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		daily, start int // GB
		want         string
	}{
		"fast":      {40, 300, "will be full in about 13 days"},
		"slow":      {10, 300, ""},
		"none":      {0, 700, ""},
		"shrinking": {-40, 700, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			one := w.office("one")
			for h := 0; h <= 5*24; h += 3 {
				one.fills = []Fill{{Name: "the disk", Used: uint64(c.start*24+h*c.daily) * 1e9 / 24, Limit: 1000e9}}
				if h == 102 { // what was measured outlives a restart
					w.letters = nil
					one = &office{Teller: w.office("one").Teller, w: w, name: "one", fills: one.fills}
				}
				w.now = w.now.Add(3*time.Hour - 40*time.Second)
				w.pass(40*time.Second, one)
			}
			w.pass(2*time.Minute, one)
			if c.want == "" {
				w.wants("nothing")
				return
			}
			w.wants("once a day", []string{c.want, "grows as it did"})
		})
	}
}

func TestMorning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.office("one")
	one.held = []Held{{ID: "1k0", Room: "quarantine", Sender: "a@b\r\n", Recipients: []string{"c@d", "e@f"}, Subject: "Grüße\n\u202e\"x\"", Why: "infected: x", Since: w.now}}
	w.pass(time.Minute, one)
	w.now = w.now.Add(16*time.Hour + 50*time.Minute)
	w.pass(8*time.Minute, one)
	w.wants("before six")
	w.pass(3*time.Minute, one)
	w.wants("in the morning", []string{"1 message is held for a person", "`stagecoach queue release ID`",
		"\r\n  1k0  quarantine  since 2026-03-02 13:00  from <a@b> to c@d and 1 more  \"Grüße \uFFFD'x'\"  infected: x\r\n"})
	w.now = w.now.Add(20 * time.Hour)
	w.pass(5*time.Minute, one)
	w.wants("once")
	one = w.office("one")
	one.held = nil
	w.now = w.now.Add(5 * time.Hour)
	w.pass(5*time.Minute, one)
	w.wants("if there is any")

	// The process was down at six.
	w.now = w.now.Add(day)
	one = w.office("one")
	for i := range 250 {
		one.held = append(one.held, Held{ID: fmt.Sprintf("id%03d", i), Subject: strings.Repeat("ü", 5000), Why: strings.Repeat("ß", 5000), Sender: strings.Repeat("ä", 5000)})
	}
	w.pass(3*time.Minute, one)
	got := w.wants("late", []string{"250 messages are held", "id199", "and 50 more"})
	if strings.Contains(got[0].text, "id200") || len(got[0].text) > sizeLimit {
		t.Errorf("%d bytes", len(got[0].text))
	}
	again := w.office("one")
	again.held = one.held
	w.pass(3*time.Minute, again)
	w.wants("and not after a restart")
	if again.asked != 0 {
		t.Error("it was looked through again")
	}
}

func TestLoops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.office("one")
	l := Loop{From: "a@b", To: []string{"c@d"}, Client: "192.0.2.1", Listener: "mx", Received: 101}
	one.Loop(l)
	one.Loop(l)
	w.pass(90*time.Second, one)
	w.wants("a loop", []string{"mail from <a@b> goes in a circle", "refused: 2 just now, from client 192.0.2.1 at listener mx, for c@d, with 101"})
	one.Loop(l)
	w.pass(time.Hour, one)
	w.wants("once a day")
	l.From = "e@f"
	one.Loop(l)
	w.pass(40*time.Second, one)
	l.From = "g@h"
	one.Loop(l)
	w.pass(time.Minute, one)
	w.wants("collected for a minute", []string{"2 notices: mail from <e@f>", "from <g@h>"})
	for i := range 1000 {
		l.From = fmt.Sprint(i)
		one.Loop(l)
		if i%10 == 0 {
			w.pass(20*time.Second, one)
		}
	}
	if n := len(one.known); n > mostLoops {
		t.Errorf("%d loops are told of in a day", n)
	}
}

func TestMostPerHour(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.office("one")
	for i := range 30 {
		one.Loop(Loop{From: fmt.Sprint("sender", i), Client: "192.0.2.1"})
		w.pass(100*time.Second, one)
	}
	if n := len(w.letters); n != mostPerHour {
		t.Fatalf("%d letters in an hour", n)
	}
	w.letters = nil
	w.pass(12*time.Minute, one)
	w.wants("what was held back", []string{"10 notices were held back", "mail from <sender20> goes in a circle", "mail from <sender29>"})
	w.pass(2*time.Hour, one)
	w.wants("and no more")
}

func TestNobodyIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.office("one")
	one.Loop(Loop{From: "a@b"})
	s := one.source()
	postmaster := s.Postmaster
	to, host := postmaster()
	to.Local, to.Domain = "", ""
	s.Postmaster = nullPostmaster(to, host)
	w.now = w.now.Add(time.Minute)
	one.Look(t.Context(), s)
	w.now = w.now.Add(time.Hour)
	one.Look(t.Context(), s)
	w.wants("nobody")
}

// What a later release wrote counts as told, and a telling of several stays within what the log takes.
func TestLaterRelease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.office("one")
	down := Stop{Kind: Hop, Name: "signer", Since: w.now.Add(-time.Hour)}
	if _, err := one.claims.kv.Put(t.Context(), down.id(), []byte(`{"version":2,"state":"claimed"}`)); err != nil {
		t.Fatal(err)
	}
	one.stops = []Stop{down}
	w.pass(10*time.Minute, one)
	w.wants("left to it")
}

func TestMessage(t *testing.T) {
	t.Parallel()
	e := envelope{hostname: "relay.example.com"}
	e.to.Local, e.to.Domain = "it", "example.com"
	var items []*item
	for range mostTogether {
		items = append(items, &item{title: "x\r\n.\r\nRCPT TO:<y>" + strings.Repeat("ü", 400), lines: []string{strings.Repeat("語", 2000)}})
	}
	raw := e.message("id", time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC), subjectOf(items), items)
	if len(raw) > sizeLimit {
		t.Errorf("%d bytes", len(raw))
	}
	l := read(t, "", raw)
	if !strings.HasPrefix(l.subject, "[stagecoach] 100 notices: x  .  RCPT TO:<y>ü") || strings.Contains(l.text, "\r\n.") {
		t.Errorf("%q", l.subject)
	}
	for _, field := range []string{"From: Stagecoach <MAILER-DAEMON@relay.example.com>\r\n", "To: <it@example.com>\r\n", "Date: Mon, 02 Mar 2026 12:00:00 +0000\r\n",
		"Message-ID: <id@relay.example.com>\r\n", "Auto-Submitted: auto-generated\r\n", "Content-Type: text/plain; charset=utf-8\r\n"} {
		if !strings.Contains(string(raw), field) {
			t.Errorf("no %q", field)
		}
	}
}
