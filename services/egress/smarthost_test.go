package egress

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtptest"
)

func TestOneTransactionForAll(t *testing.T) {
	for _, ext := range [][]string{nil, {}} { // with PIPELINING and all, and with nothing
		s := smtptest.Start(t, smtptest.Config{Extensions: ext})
		r := build(t, setup{route: smart(s)})
		got := r.carry(t, parcel("m1", simple, "a@x.example", "b@y.example", "c@x.example"))
		for _, f := range got.want(t, chain.Delivered, chain.Delivered, chain.Delivered) {
			if f.Host != s.Addr || f.Reply == nil || f.Reply.Code != 250 || f.Concern != chain.AboutRecipient {
				t.Error(describe(f))
			}
		}
		m := s.Messages()
		if len(m) != 1 || len(m[0].To) != 3 || string(m[0].Data) != simple || m[0].Bare || !strings.HasPrefix(m[0].From, "<sender@from.example>") {
			t.Errorf("%+v", m)
		}
		if got.leaves() != 1 || len(got.asked[0]) != 3 {
			t.Errorf("asked for leave: %v", got.asked)
		}
	}
}

func TestPendingOnly(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{})
	r := build(t, setup{route: smart(s)})
	p := parcel("m1", simple, "a@x.example", "b@x.example")
	p.Pending = []mail.RecipientID{"r1", "r1"}
	got := r.carry(t, p)
	if f := got.of(t, "r1")["r1"]; f.Kind != chain.Delivered {
		t.Error(describe(f))
	}
	if m := s.Messages(); len(m[0].To) != 1 || !strings.HasPrefix(m[0].To[0], "<b@") {
		t.Errorf("%v", m[0].To)
	}
}

// What each answer at each step means for three recipients, of whom the script singles out b.
func TestAnswers(t *testing.T) {
	type want struct {
		kinds   []chain.FateKind
		concern chain.Concern // of the recipient b
		code    int
	}
	d, def, rej, unk := chain.Delivered, chain.Deferred, chain.Rejected, chain.Unknown
	for name, c := range map[string]struct {
		step, what, reply string
		want              want
	}{
		"greeting 554":        {"CONNECT", "", "554 5.7.1 no", want{[]chain.FateKind{def, def, def}, chain.AboutRoute, 554}},
		"greeting 421":        {"CONNECT", "", "421 4.3.2 busy", want{[]chain.FateKind{def, def, def}, chain.AboutRoute, 421}},
		"EHLO 554":            {"EHLO", "", "554 5.7.1 no", want{[]chain.FateKind{def, def, def}, chain.AboutRoute, 554}},
		"MAIL 550":            {"MAIL", "", "550 5.1.8 bad sender", want{[]chain.FateKind{rej, rej, rej}, chain.AboutRecipient, 550}},
		"MAIL 451":            {"MAIL", "", "451 4.7.1 greylisted", want{[]chain.FateKind{def, def, def}, chain.AboutRecipient, 451}},
		"MAIL 452":            {"MAIL", "", "452 4.3.1 disk full", want{[]chain.FateKind{def, def, def}, chain.AboutRoute, 452}},
		"MAIL 421":            {"MAIL", "", "421 4.3.2 bye", want{[]chain.FateKind{def, def, def}, chain.AboutRoute, 421}},
		"MAIL 530":            {"MAIL", "", "530 5.7.0 authentication required", want{[]chain.FateKind{def, def, def}, chain.AboutRoute, 530}},
		"MAIL relay denied":   {"MAIL", "", "550 5.7.1 Unable to relay", want{[]chain.FateKind{def, def, def}, chain.AboutRoute, 550}},
		"MAIL 503":            {"MAIL", "", "503 5.5.1 sequence", want{[]chain.FateKind{def, def, def}, chain.AboutRoute, 503}},
		"MAIL 552":            {"MAIL", "", "552 5.3.4 too big", want{[]chain.FateKind{rej, rej, rej}, chain.AboutRecipient, 552}},
		"RCPT 550":            {"RCPT", "<b@", "550 5.1.1 unknown", want{[]chain.FateKind{d, rej, d}, chain.AboutRecipient, 550}},
		"RCPT 550 policy":     {"RCPT", "<b@", "550 5.7.1 not for you", want{[]chain.FateKind{d, rej, d}, chain.AboutRecipient, 550}},
		"RCPT 450":            {"RCPT", "<b@", "450 4.2.0 greylisted", want{[]chain.FateKind{d, def, d}, chain.AboutRecipient, 450}},
		"RCPT relay denied":   {"RCPT", "<b@", "554 5.7.1 <b@x.example>: Relay access denied", want{[]chain.FateKind{d, def, d}, chain.AboutRoute, 554}},
		"RCPT blocked client": {"RCPT", "<b@", "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked", want{[]chain.FateKind{d, def, d}, chain.AboutRoute, 554}},
		"RCPT mailbox full":   {"RCPT", "<b@", "552 5.2.2 full", want{[]chain.FateKind{d, rej, d}, chain.AboutRecipient, 552}},
		"DATA 451":            {"DATA", "", "451 4.3.0 later", want{[]chain.FateKind{def, def, def}, chain.AboutRecipient, 451}},
		"DATA 554":            {"DATA", "", "554 5.6.0 no", want{[]chain.FateKind{rej, rej, rej}, chain.AboutRecipient, 554}},
		"DATA 250":            {"DATA", "", "250 2.0.0 eh", want{[]chain.FateKind{def, def, def}, chain.AboutRoute, 0}},
		"dot 451":             {"DOT", "", "451 4.3.0 later", want{[]chain.FateKind{def, def, def}, chain.AboutRecipient, 451}},
		"dot 554":             {"DOT", "", "554-5.7.1 spam\n554 5.7.1 go away", want{[]chain.FateKind{rej, rej, rej}, chain.AboutRecipient, 554}},
		"dot 421":             {"DOT", "", "421 4.3.2 bye", want{[]chain.FateKind{def, def, def}, chain.AboutRoute, 421}},
		"dot 530":             {"DOT", "", "530 5.7.0 login", want{[]chain.FateKind{def, def, def}, chain.AboutRoute, 530}},
		"dot no SMTP":         {"DOT", "", "hello", want{[]chain.FateKind{unk, unk, unk}, chain.AboutRecipient, 0}},
		"dot 354":             {"DOT", "", "354 more", want{[]chain.FateKind{unk, unk, unk}, chain.AboutRecipient, 0}},
	} {
		for _, ext := range [][]string{nil, {"SIZE 100000"}} {
			t.Run(fmt.Sprintf("%s/pipelining=%v", name, ext == nil), func(t *testing.T) {
				s := smtptest.Start(t, smtptest.Config{Extensions: ext, Script: answer(c.step, c.what, c.reply)})
				r := build(t, setup{route: smart(s)})
				fates := r.carry(t, parcel("m1", simple, "a@x.example", "b@x.example", "c@x.example")).want(t, c.want.kinds...)
				f := fates[1]
				if f.Concern != c.want.concern || f.Concern == chain.AboutRoute && f.About != "out" {
					t.Error(describe(f))
				}
				if c.want.code == 0 != (f.Reply == nil) || f.Reply != nil && f.Reply.Code != c.want.code {
					t.Error(describe(f))
				}
				if strings.Contains(c.reply, "\n") && f.Reply.Text != "spam\ngo away" {
					t.Errorf("text %q", f.Reply.Text)
				}
				if n := strings.Count(r.log.String(), `"msg":"delivery"`); n != 3 {
					t.Errorf("%d lines in the mail log", n)
				}
			})
		}
	}
}

// The connection breaks at each step: nothing is lost, and only after the dot is the outcome unknown.
func TestBreaks(t *testing.T) {
	for _, step := range []string{"CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT"} {
		for how, do := range map[string]func(*smtptest.Conn){"close": (*smtptest.Conn).Hangup, "reset": (*smtptest.Conn).Reset, "half-close": func(c *smtptest.Conn) { c.HalfClose(); c.Stall() }} {
			t.Run(step+"/"+how, func(t *testing.T) {
				s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
					if at == step {
						do(c)
					}
					return at == step
				}})
				r := build(t, setup{route: smart(s)})
				got := r.carry(t, parcel("m1", simple, "a@x.example"))
				kind := chain.Deferred
				if step == "DOT" {
					kind = chain.Unknown
				}
				f := got.want(t, kind)[0]
				if kind == chain.Deferred && (f.Concern != chain.AboutRoute || f.Reason == "") {
					t.Error(describe(f))
				}
				if (got.leaves() > 0) != (step == "DOT") {
					t.Errorf("%d times asked for leave", got.leaves())
				}
			})
		}
	}
}

func TestConnectionRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	_ = ln.Close()
	r := build(t, setup{route: config.Route{Smarthost: &config.Smarthost{Address: address, TLS: config.TLSNone}}})
	f := r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Deferred)[0]
	if f.Concern != chain.AboutRoute || f.About != "out" || f.Reply != nil {
		t.Error(describe(f))
	}
}

// A host that answers in the middle of the body and hangs up has said its verdict.
func TestAnswerBeforeTheEnd(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
		if at == "DATA" {
			c.Say("354 go on")
			c.Say("552 5.3.4 too much")
			buf := make([]byte, 1<<20)
			_, _ = io.ReadFull(c.Conn, buf)
			c.Hangup()
		}
		return at == "DATA"
	}})
	r := build(t, setup{route: smart(s)})
	got := r.carry(t, parcel("m1", strings.Repeat(strings.Repeat("x", 70)+"\r\n", 200_000), "a@x.example"))
	if f := got.want(t, chain.Rejected)[0]; f.Reply.Code != 552 {
		t.Error(describe(f))
	}
}

// An acceptance that is there before the dot is no acceptance: nothing is handed over to a host that lies so.
func TestAcceptanceBeforeTheDot(t *testing.T) {
	read := make(chan error, 1)
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
		if at == "DATA" {
			c.Say("354 go on", "250 2.0.0 queued")
			read <- c.ReadMessage()
			c.Hangup()
		}
		return at == "DATA"
	}})
	r := build(t, setup{route: smart(s)})
	got := r.carry(t, parcel("m1", simple, "a@x.example"))
	if f := got.want(t, chain.Deferred)[0]; f.Concern != chain.AboutRoute {
		t.Error(describe(f))
	}
	if err := <-read; err == nil {
		t.Error("the final dot was given")
	}
}

func TestTooManyRecipientsSplits(t *testing.T) {
	for _, reply := range []string{"452 4.5.3 too many recipients", "552 too many recipients"} {
		n := 0
		s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, line string) bool {
			switch {
			case at == "RCPT" && len(c.Message.To) == 2:
				c.Say(reply)
				return true
			case at == "RCPT" && strings.Contains(line, "<gone@"):
				c.Say("550 5.1.1 gone")
				return true
			case at == "DOT":
				n++
			}
			return false
		}})
		r := build(t, setup{route: smart(s)})
		got := r.carry(t, parcel("m1", simple, "a@x.example", "b@x.example", "c@x.example", "gone@x.example", "e@x.example"))
		got.want(t, chain.Delivered, chain.Delivered, chain.Delivered, chain.Rejected, chain.Delivered)
		if n != 2 || s.Connections() != 1 || got.leaves() != 2 {
			t.Errorf("%d transactions, %d connections, %d leaves", n, s.Connections(), got.leaves())
		}
	}
}

// 452 to everybody is no reason to go on for ever, and 552 to the first is about that one.
func TestTooManyFromTheFirst(t *testing.T) {
	for reply, kind := range map[string]chain.FateKind{"452 4.5.3 too many": chain.Deferred, "552 no": chain.Rejected} {
		s := smtptest.Start(t, smtptest.Config{Script: answer("RCPT", "", reply)})
		build(t, setup{route: smart(s)}).carry(t, parcel("m1", simple, "a@x.example", "b@x.example")).want(t, kind, kind)
	}
}

func TestRecipientsLimit(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{})
	r := build(t, setup{route: smart(s), limits: func(l *limits) { l.recipients = 2 }})
	r.carry(t, parcel("m1", simple, "a@x.example", "b@x.example", "c@x.example")).want(t, chain.Delivered, chain.Delivered, chain.Delivered)
	if m := s.Messages(); len(m) != 2 || len(m[0].To) != 2 || len(m[1].To) != 1 {
		t.Errorf("%+v", m)
	}
}

// Exchange accepts every RCPT, and after the dot speaks of one recipient to all of them.
func TestBlamedTogetherTriedAlone(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
		if at == "DOT" && strings.Contains(strings.Join(c.Message.To, " "), "<gone@") {
			c.Say("550 5.1.10 RESOLVER.ADR.RecipientNotFound")
			return true
		}
		return false
	}})
	r := build(t, setup{route: smart(s)})
	got := r.carry(t, parcel("m1", simple, "a@x.example", "gone@x.example", "c@x.example"))
	if f := got.want(t, chain.Delivered, chain.Rejected, chain.Delivered)[1]; f.Reply.Enhanced != "5.1.10" {
		t.Error(describe(f))
	}
	if m := s.Messages(); len(m) != 2 || got.leaves() != 4 {
		t.Errorf("%d messages, %d leaves", len(m), got.leaves())
	}
}

func TestRefusedBeforeSending(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Extensions: []string{"SIZE 1000"}})
	r := build(t, setup{route: smart(s)})
	for _, content := range []string{"a: b\r\n\r\nbare\nLF\r\n", "a: b\r\n\r\nbare\rCR\r\n", "a: b\r\n\r\nNUL\x00\r\n", "\r\n.\n", "a: b\r\n\r\nx\r"} {
		f := r.carry(t, parcel(content, content, "a@x.example", "b@x.example")).want(t, chain.Rejected, chain.Rejected)[0]
		if f.Reply.Enhanced != "5.6.0" || f.Reply.Code != 554 {
			t.Error(describe(f))
		}
	}
	if s.Connections() != 0 {
		t.Error("the host was called")
	}
	f := r.carry(t, parcel("big", strings.Repeat("x\r\n", 400), "a@x.example")).want(t, chain.Rejected)[0]
	if f.Reply.Code != 552 || f.Reply.Enhanced != "5.3.4" {
		t.Error(describe(f))
	}
	p := parcel("utf8", simple, "ü@x.example", "b@x.example")
	if f := r.carry(t, p).want(t, chain.Rejected, chain.Delivered)[0]; f.Reply.Enhanced != "5.6.7" {
		t.Error(describe(f))
	}
	p = parcel("inject", simple, "a@x.example", "b@x.example")
	p.Envelope.Recipients[0].Address.Local = "a\r\nDATA"
	if f := r.carry(t, p).want(t, chain.Rejected, chain.Delivered)[0]; f.Reply.Enhanced != "5.1.3" {
		t.Error(describe(f))
	}
	p = parcel("inject2", simple, "a@x.example")
	p.Envelope.ReversePath.Domain = "x.example> SIZE=1"
	if f := r.carry(t, p).want(t, chain.Rejected)[0]; f.Reply.Enhanced != "5.1.7" {
		t.Error(describe(f))
	}
}

// Quoted local parts and DSN parameters arrive as they were meant.
func TestQuotingAndParameters(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{})
	r := build(t, setup{route: smart(s)})
	p := parcel("m1", "a: \xc3\xbc\r\n\r\n", "x> NOTIFY=NEVER <y@x.example")
	p.Envelope.Ret, p.Envelope.EnvID = "HDRS", "id 1"
	p.Envelope.Recipients[0].Notify = "FAILURE"
	p.Envelope.Recipients[0].ORcpt = "rfc822;o@x.example"
	r.carry(t, p).want(t, chain.Delivered)
	m := s.Messages()[0]
	if m.From != "<sender@from.example> SIZE=9 BODY=8BITMIME RET=HDRS ENVID=id+201" {
		t.Errorf("%q", m.From)
	}
	if m.To[0] != `<"x> NOTIFY=NEVER <y"@x.example> NOTIFY=FAILURE ORCPT=rfc822;o@x.example` {
		t.Errorf("%q", m.To[0])
	}
}

// Without 8BITMIME the bytes go all the same, unchanged.
func TestEightBitWithoutExtension(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Extensions: []string{}})
	content := "Subject: \xfc\r\n\r\n\xff\xfe\r\n"
	build(t, setup{route: smart(s)}).carry(t, parcel("m1", content, "a@x.example")).want(t, chain.Delivered)
	if m := s.Messages()[0]; string(m.Data) != content || strings.Contains(m.From, "BODY") {
		t.Errorf("%q %q", m.From, m.Data)
	}
}

func TestHeloAndSource(t *testing.T) {
	var from string
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
		if at == "CONNECT" {
			from, _, _ = net.SplitHostPort(c.RemoteAddr().String())
		}
		return false
	}})
	route := smart(s)
	route.Smarthost.Helo = "helo.example"
	route.Smarthost.Source = netip.MustParseAddr("127.0.0.2")
	build(t, setup{route: route}).carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Delivered)
	if s.Commands()[0] != "EHLO helo.example" || from != "127.0.0.2" {
		t.Errorf("%q from %s", s.Commands()[0], from)
	}
}

// An ordinary server of another make, with TLS and AUTH.
func TestOrdinaryServer(t *testing.T) {
	cert := smtptest.NewCertificate(t)
	be := &backend{}
	srv := gosmtp.NewServer(be)
	srv.Domain = "ordinary.example"
	srv.TLSConfig = cert.Server
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })

	r := build(t, setup{route: smart(smtptest.Start(t, smtptest.Config{}))})
	c := conf(r.dir, config.Route{Smarthost: &config.Smarthost{Address: ln.Addr().String(), TLS: config.TLSRequired, CAFile: r.file(t, "ca.pem", cert.PEM),
		Auth: &config.Auth{Username: "joe", PasswordFile: r.file(t, "password", []byte("pw\n"))}}})
	if err := r.Update(c); err != nil {
		t.Fatal(err)
	}
	got := r.carry(t, parcel("m1", simple, "a@x.example", "gone@x.example"))
	got.want(t, chain.Delivered, chain.Rejected)
	if len(be.got) != 1 || be.got[0] != simple {
		t.Errorf("%q", be.got)
	}
}

type backend struct{ got []string }

func (b *backend) NewSession(*gosmtp.Conn) (gosmtp.Session, error) { return &ordinary{b: b}, nil }

type ordinary struct {
	b  *backend
	in bool
}

func (s *ordinary) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *ordinary) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, pass string) error {
		if user != "joe" || pass != "pw" {
			return gosmtp.ErrAuthFailed
		}
		s.in = true
		return nil
	}), nil
}

func (s *ordinary) Mail(string, *gosmtp.MailOptions) error {
	if !s.in {
		return gosmtp.ErrAuthRequired
	}
	return nil
}

func (s *ordinary) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	if strings.HasPrefix(to, "gone@") {
		return &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 1, 1}, Message: "gone"}
	}
	return nil
}

func (s *ordinary) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	s.b.got = append(s.b.got, string(b))
	return err
}

func (s *ordinary) Reset()        {}
func (s *ordinary) Logout() error { return nil }

func TestUnknownRoute(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{})
	r := build(t, setup{route: smart(s)})
	for _, route := range []chain.Route{{Name: "out", Hash: "h2"}, {Name: "other", Hash: "h1"}} {
		p := parcel("m1", simple, "a@x.example")
		p.Slip.Route = route
		if f := r.carry(t, p).want(t, chain.Refused)[0]; f.Concern != chain.AboutRoute || f.About != route.Name {
			t.Error(describe(f))
		}
	}
}
