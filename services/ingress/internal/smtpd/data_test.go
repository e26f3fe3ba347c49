package smtpd

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
)

func writePair(t *testing.T, p config.KeyPair, name string) {
	t.Helper()
	c, err := selfSigned(name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, ok := c.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("key is a %T", c.PrivateKey)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		p.File:    {Type: "CERTIFICATE", Bytes: c.Certificate[0]},
		p.KeyFile: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const toData = `
	C: MAIL FROM:<a@b.example>
	S: 250
	C: RCPT TO:<user@example.com>
	S: 250
	C: DATA`

func TestIntakeSaysNo(t *testing.T) {
	full := &mail.Reply{Code: 452, Enhanced: "4.3.1", Text: "no room", Private: "disk at 81%"}
	for name, one := range map[string]struct {
		set    func(*fakeIntake)
		script string
		log    string
	}{
		"at MAIL": {func(f *fakeIntake) {
			f.admit = func(mail.Origin) error {
				return fmt.Errorf("wrapped: %w", &mail.Reply{Code: 451, Enhanced: "4.3.2", Text: "the log is down"})
			}
		}, "C: MAIL FROM:<a@b.example>\nS: 451 4.3.2 the log is down\nC: RCPT TO:<user@example.com>\nS: 503", "the log is down"},
		"before 354":    {func(f *fakeIntake) { f.begin = full }, toData + "\nS: 452 4.3.1 no room\nC: RCPT TO:<user@example.com>\nS: 503\nC: DATA\nS: 503", "disk at 81%"},
		"while writing": {func(f *fakeIntake) { f.write = full }, toData + "\nS: 354\nC: x: y\nC: .\nS: 452 4.3.1\nC: DATA\nS: 503", "disk at 81%"},
		"at commit":     {func(f *fakeIntake) { f.commit = errors.New("fence lost") }, toData + "\nS: 354\nC: .\nS: 451 4.3.0 try again later\nC: DATA\nS: 503", "fence lost"},
		"for good":      {func(f *fakeIntake) { f.commit = &mail.Reply{Code: 550, Enhanced: "5.7.1", Text: "line one\nline two"} }, toData + "\nS: 354\nC: .\nS: /^550-5.7.1 line one\\n550 5.7.1 line two$/", "line one"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			one.set(r.intake)
			c := r.hello("mx")
			c.script(one.script, "C: NOOP", "S: 250 2.0.0")
			if !strings.Contains(r.log.String(), one.log) {
				t.Errorf("log: %s", r.log)
			}
			if len(r.intake.all()) != 0 {
				t.Error("accepted")
			}
		})
	}
}

func TestPrivateCauseStaysPrivate(t *testing.T) {
	r := newRig(t, nil)
	r.intake.commit = errors.New("password=secret")
	c := r.hello("mx")
	c.script(toData, "S: 354", "C: .")
	if got := c.reply(); strings.Contains(got, "secret") {
		t.Errorf("the client is told %q", got)
	}
}

func TestReservedSize(t *testing.T) {
	r := newRig(t, nil)
	c := r.hello("mx")
	c.script("C: MAIL FROM:<a@b.example> SIZE=800", "S: 250", "C: RCPT TO:<user@example.com>", "S: 250", "C: DATA", "S: 354", "C: .", "S: 250")
	c.script(toData, "S: 354", "C: .", "S: 250")
	want := []int64{800 + 100 + sizeTolerance + receivedRoom, 1e6 + receivedRoom}
	if !slices.Equal(r.intake.sizes, want) {
		t.Errorf("reserved %v, want %v", r.intake.sizes, want)
	}
}

func TestDirections(t *testing.T) {
	r := newRig(t, nil)
	c := r.hello("inside")
	send := func(to ...string) mail.Envelope {
		t.Helper()
		c.script("C: MAIL FROM:<a@b.example>", "S: 250")
		for _, one := range to {
			c.script("C: RCPT TO:<"+one+">", "S: 250")
		}
		c.script("C: DATA", "S: 354", "C: .", "S: 250")
		all := r.intake.all()
		return all[len(all)-1].env
	}
	if d := send("x@elsewhere.example").Origin; d.Direction != mail.Outbound || d.Relay != "mailserver" {
		t.Errorf("origin %+v", d)
	}
	// The inbound chain takes internal mail, because no internal chain does.
	if d := send("user@example.com").Origin; d.Direction != mail.Internal {
		t.Errorf("origin %+v", d)
	}
	if m := r.intake.all()[1]; len(m.starts["inbound"]) != 1 {
		t.Errorf("starts %v", m.starts)
	}
}

func TestPostmasterIsRedirected(t *testing.T) {
	r := newRig(t, nil)
	c := r.hello("mx")
	c.script("C: MAIL FROM:<>", "S: 250", "C: RCPT TO:<abuse@any.example>", "S: 250", "C: RCPT TO:<Postmaster>", "S: 250", "C: DATA", "S: 354", "C: .", "S: 250")
	e := r.intake.all()[0].env
	if len(e.Recipients) != 1 || e.Recipients[0].Address.String() != "it@example.com" || e.Recipients[0].ORcpt != "rfc822;abuse@any.example" {
		t.Errorf("recipients %+v", e.Recipients)
	}
}

func TestLoops(t *testing.T) {
	for name, one := range map[string]struct {
		header func(r *rig) string
		loop   bool
	}{
		"99 hops":         {func(*rig) string { return strings.Repeat("Received: from x by y; z\r\n", 99) }, false},
		"100 hops":        {func(*rig) string { return strings.Repeat("Received: from x by y; z\r\n", 100) }, true},
		"second pass":     {func(r *rig) string { return ours(r, "one") }, false},
		"third pass":      {func(r *rig) string { return ours(r, "one") + "x: y\r\n" + ours(r, "two") }, true},
		"the same copied": {func(r *rig) string { return strings.Repeat(ours(r, "one"), 3) }, false},
		"forged":          {func(r *rig) string { return strings.Replace(ours(r, "one")+ours(r, "two"), "id two", "id tow", 1) }, false},
		"in the body":     {func(r *rig) string { return "x: y\r\n\r\n" + ours(r, "one") + ours(r, "two") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			c := r.hello("mx")
			c.script(toData, "S: 354")
			c.send(one.header(r) + "\r\nbody\r\n.\r\n")
			if !one.loop {
				c.expect("250")
				return
			}
			c.expect("554 5.4.6")
			c.script("C: NOOP", "S: 250 2.0.0")
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.loops) != 1 || r.loops[0].From.String() != "a@b.example" || r.loops[0].To[0].String() != "user@example.com" {
				t.Errorf("loops %+v", r.loops)
			}
		})
	}
}

func ours(r *rig, id string) string {
	return "Received: from x ([1.2.3.4])\r\n\tby relay.example.com (Stagecoach) with ESMTP\r\n\tid " + id +
		" (stagecoach " + r.policy.Token(id) + ")\r\n\tfor <user@example.com>; date\r\n"
}

// TestOwnReceivedIsKnownAgain ties the field that is written to the scan that knows it.
func TestOwnReceivedIsKnownAgain(t *testing.T) {
	r := newRig(t, nil)
	c := r.hello("mx")
	data := "x: y\r\n\r\n"
	for i := range 3 {
		c.script(toData, "S: 354")
		c.send(data + ".\r\n")
		if i == 2 {
			c.expect("554 5.4.6")
			return
		}
		c.expect("250")
		all := r.intake.all()
		data = all[len(all)-1].data
	}
}

func TestNullReversePath(t *testing.T) {
	for name, one := range map[string]struct {
		to, header, want, relay, chain string
	}{
		"first rule":           {"x@y.example", "From: A <a@one.example>\r\n\r\n", "250", "first", "outbound"},
		"second rule":          {"x@y.example", "From: a@two.example\r\n\r\n", "250", "second", "second"},
		"no rule":              {"x@y.example", "From: a@three.example\r\n\r\n", "550 5.7.1", "", ""},
		"no From":              {"x@y.example", "To: a@one.example\r\n\r\n", "550 5.7.1", "", ""},
		"two From":             {"x@y.example", "From: a@one.example\r\nFrom: b@three.example\r\n\r\n", "550 5.7.1", "", ""},
		"one author of two":    {"x@y.example", "From: a@one.example, b@three.example\r\n\r\n", "550 5.7.1", "", ""},
		"comment trick":        {"x@y.example", "From: \"a@one.example\" <b@three.example>\r\n\r\n", "550 5.7.1", "", ""},
		"From in the body":     {"x@y.example", "x: y\r\n\r\nFrom: a@one.example\r\n", "550 5.7.1", "", ""},
		"beyond what is kept":  {"x@y.example", "From: a@one.example," + strings.Repeat(" ", maxField) + "b@three.example\r\n\r\n", "550 5.7.1", "", ""},
		"folded beyond it":     {"x@y.example", "From: a@one.example" + strings.Repeat("\r\n ("+strings.Repeat("x", 900)+")", 20) + ",\r\n b@three.example\r\n\r\n", "550 5.7.1", "", ""},
		"From behind no field": {"x@y.example", "From: a@one.example\r\nno field\r\nFrom: b@three.example\r\n\r\n", "550 5.7.1", "", ""},
		"as a stranger to us":  {"user@example.com", "From: a@three.example\r\n\r\n", "250", "", "inbound"},
		"folded":               {"x@y.example", "From: A\r\n <a@one.example>\r\n\r\n", "250", "first", "outbound"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			c := r.hello("narrow")
			c.script("C: MAIL FROM:<>", "S: 250", "C: RCPT TO:<"+one.to+">", "S: 250", "C: DATA", "S: 354")
			c.send(one.header + "body\r\n.\r\n")
			c.expect(one.want)
			if one.want != "250" {
				return
			}
			m := r.intake.all()[0]
			if m.env.Origin.Relay != one.relay || len(m.starts[one.chain]) != 1 || len(m.starts) != 1 {
				t.Errorf("relay %q, starts %v", m.env.Origin.Relay, m.starts)
			}
			if m.body() != one.header+"body\r\n" {
				t.Errorf("body %q", m.body())
			}
		})
	}
	t.Run("a wrong sender is a stranger", func(t *testing.T) {
		r := newRig(t, nil)
		c := r.hello("narrow")
		c.script("C: MAIL FROM:<a@three.example>", "S: 250", "C: RCPT TO:<x@y.example>", "S: 550 5.7.1", "C: RCPT TO:<user@example.com>", "S: 250")
	})
}

// TestHead: what the intake is told of the header is what stood there.
func TestHead(t *testing.T) {
	for name, one := range map[string]struct{ from, header, id, subject string }{
		"plain":         {"a@one.example", "Message-ID: <1@one.example>\r\nSubject: hello\r\n\r\n", "<1@one.example>", "hello"},
		"folded":        {"a@one.example", "SUBJECT:\r\n =?utf-8?q?gr=C3=BC?=\r\n\tx \r\nmessage-id : <1@\xff>\r\n\r\n", "<1@\xff>", "=?utf-8?q?gr=C3=BC?=\tx"},
		"the first one": {"a@one.example", "Subject: one\r\nSubject: two\r\n\r\n", "", "one"},
		"in the body":   {"a@one.example", "X: y\r\n\r\nSubject: one\r\nMessage-ID: <1@one.example>\r\n", "", ""},
		"a long one":    {"a@one.example", "Subject: " + strings.Repeat("x", 900) + strings.Repeat("\r\n "+strings.Repeat("y", 900), 30) + "\r\n\r\n", "", "x"},
		"null sender":   {"", "From: a@one.example\r\nSubject: hello\r\n\r\n", "", "hello"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			c := r.hello("narrow")
			c.script("C: MAIL FROM:<"+one.from+">", "S: 250", "C: RCPT TO:<x@y.example>", "S: 250", "C: DATA", "S: 354")
			c.send(one.header + "body\r\n.\r\n")
			c.expect("250")
			m := r.intake.all()[0]
			if m.head.Received == "" || m.head.Received+m.body() != m.data {
				t.Errorf("above the message: %q; the message: %q", m.head.Received, m.data)
			}
			if len(m.head.Subject) > maxField || m.head.MessageID != one.id || m.head.Subject != one.subject && !(len(one.subject) == 1 && strings.HasPrefix(m.head.Subject, "xx")) {
				t.Errorf("%q", m.head)
			}
		})
	}
}

func TestShutdown(t *testing.T) {
	r := newRig(t, nil)
	r.intake.slow = make(chan struct{})
	idle, busy := r.hello("mx"), r.hello("mx")
	waiting := r.hello("mx")
	waiting.script("C: MAIL FROM:<a@b.example>", "S: 250")
	busy.script(toData, "S: 354", "C: x: y")
	done := make(chan error, 1)
	go func() { done <- r.server.Shutdown(context.Background()) }()
	idle.script("S: 421 4.3.2", "S: EOF")
	waiting.script("S: 421 4.3.2", "S: EOF")
	if nc, err := net.Dial("tcp", r.addrs["mx"]); err == nil {
		_ = nc.Close()
		t.Error("connections are still accepted")
	}
	close(r.intake.slow)
	busy.script("C: .", "S: 250 2.0.0", "S: 421 4.3.2", "S: EOF")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestShutdownCutsAtItsEnd(t *testing.T) {
	r := newRig(t, nil)
	r.intake.slow = make(chan struct{})
	receiving, committing := r.hello("mx"), r.hello("mx")
	receiving.script(toData, "S: 354")
	committing.script(toData, "S: 354", "C: .")
	half := r.dial("submissions") // in the handshake
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := r.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if l := half.line(); l != "EOF" {
		t.Errorf("line %q", l)
	}
	if len(r.intake.all()) != 0 {
		t.Error("accepted")
	}
}

func TestUpdateConfig(t *testing.T) {
	r := newRig(t, nil)
	c := r.hello("mx")
	next := *r.cfg
	next.Hostname = "new.example.com"
	next.Domains = []config.Domain{{Name: "new.example", Any: true}}
	next.Ingress.Limits.MessageSize = 5000
	if err := r.server.UpdateConfig(&next); err != nil {
		t.Fatal(err)
	}
	c.script("C: MAIL FROM:<a@b.example>", "S: 250", "C: RCPT TO:<user@example.com>", "S: 550 5.7.1", "C: RCPT TO:<user@new.example>", "S: 250")
	c = r.dial("mx")
	c.script("S: 220 new.example.com", "C: EHLO x", "S: /SIZE 5000/")
	bad := next
	bad.Relay = []config.RelayRule{{Name: "open"}}
	if err := r.server.UpdateConfig(&bad); err == nil {
		t.Error("an open relay was taken")
	}
	c.script("C: MAIL FROM:<a@b.example>", "S: 250", "C: RCPT TO:<user@new.example>", "S: 250")
}
