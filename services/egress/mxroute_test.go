package egress

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/foxcpp/go-mockdns"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtptest"
)

// world is a DNS and some hosts that all listen on one port.
type world struct {
	*rig
	zones map[string]mockdns.Zone
	port  int
}

func newWorld(t *testing.T, mod func(*setup)) *world {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{port: ln.Addr().(*net.TCPAddr).Port, zones: map[string]mockdns.Zone{}}
	_ = ln.Close()
	s := setup{route: config.Route{MX: &config.MX{Port: w.port}}, opts: func(o *Options) { o.Resolver = &mockdns.Resolver{Zones: w.zones} }}
	if mod != nil {
		mod(&s)
	}
	w.rig = build(t, s)
	return w
}

// host puts a server at an address of the loopback network.
func (w *world) host(t *testing.T, name, ip string, c smtptest.Config) *smtptest.Server {
	t.Helper()
	w.zones[name+"."] = mockdns.Zone{A: []string{ip}}
	c.Address = net.JoinHostPort(ip, strconv.Itoa(w.port))
	return smtptest.Start(t, c)
}

func (w *world) domain(name string, hosts ...string) {
	z := mockdns.Zone{}
	for i, h := range hosts {
		z.MX = append(z.MX, net.MX{Host: h + ".", Pref: uint16(10 * (i + 1))})
	}
	w.zones[name+"."] = z
}

func TestMXGroupsByDomain(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.host(t, "mx.a.example", "127.0.0.1", smtptest.Config{}), w.host(t, "mx.b.example", "127.0.0.2", smtptest.Config{})
	w.domain("a.example", "mx.a.example")
	w.domain("b.example", "mx.b.example")
	w.zones["null.example."] = mockdns.Zone{MX: []net.MX{{Host: "."}}}
	w.zones["servfail.example."] = mockdns.Zone{Err: &net.DNSError{Err: "server misbehaving", IsTemporary: true}}
	w.domain("self.example", "gate.example", "mx.a.example")
	got := w.carry(t, parcel("m1", simple, "1@a.example", "2@b.example", "3@A.example", "4@null.example", "5@gone.example", "6@servfail.example", "7@self.example"))
	f := got.want(t, chain.Delivered, chain.Delivered, chain.Delivered, chain.Rejected, chain.Rejected, chain.Deferred, chain.Deferred)
	if f[3].Reply.Code != 556 || f[3].Reply.Enhanced != "5.1.10" || f[4].Reply.Enhanced != "5.1.2" {
		t.Error(describe(f[3]), describe(f[4]))
	}
	for i, about := range map[int]string{5: "servfail.example", 6: "self.example"} {
		if f[i].Concern != chain.AboutDestination || f[i].About != about {
			t.Error(describe(f[i]))
		}
	}
	if f[0].Host != "mx.a.example[127.0.0.1]" {
		t.Error(f[0].Host)
	}
	if m := a.Messages(); len(m) != 1 || len(m[0].To) != 2 {
		t.Errorf("%+v", m)
	}
	if m := b.Messages(); len(m) != 1 || len(m[0].To) != 1 {
		t.Errorf("%+v", m)
	}
	if !strings.Contains(w.log.String(), "loops back") {
		t.Error("the loop is not in the log")
	}
}

// What makes the next exchanger be tried, and what is an answer.
func TestMXNextHost(t *testing.T) {
	type want struct {
		kind   chain.FateKind
		second int // messages at the second host
	}
	for name, c := range map[string]struct {
		script smtptest.Script
		want   want
	}{
		"works":        {nil, want{chain.Delivered, 0}},
		"greeting 421": {answer("CONNECT", "", "421 4.3.2 busy"), want{chain.Delivered, 1}},
		"greeting 554": {answer("CONNECT", "", "554 5.7.1 no"), want{chain.Delivered, 1}},
		"EHLO 554":     {answer("EHLO", "", "554 5.7.1 no"), want{chain.Delivered, 1}},
		"MAIL 421":     {answer("MAIL", "", "421 4.3.2 bye"), want{chain.Delivered, 1}},
		"relay denied": {answer("RCPT", "", "554 5.7.1 Relay access denied"), want{chain.Delivered, 1}},
		"RCPT closes": {func(c *smtptest.Conn, at, _ string) bool {
			if at == "RCPT" {
				c.Hangup()
			}
			return at == "RCPT"
		}, want{chain.Delivered, 1}},
		"RCPT 550": {answer("RCPT", "", "550 5.1.1 unknown"), want{chain.Rejected, 0}},
		"RCPT 450": {answer("RCPT", "", "450 4.2.0 greylisted"), want{chain.Deferred, 0}},
		"dot 554":  {answer("DOT", "", "554 5.7.1 spam"), want{chain.Rejected, 0}},
		"dot 250 lost": {func(c *smtptest.Conn, at, _ string) bool {
			if at == "DOT" {
				c.Accept()
				c.Hangup()
			}
			return at == "DOT"
		}, want{chain.Unknown, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.host(t, "mx1.a.example", "127.0.0.1", smtptest.Config{Script: c.script})
			second := w.host(t, "mx2.a.example", "127.0.0.2", smtptest.Config{})
			w.domain("a.example", "mx1.a.example", "mx2.a.example")
			w.carry(t, parcel("m1", simple, "1@a.example")).want(t, c.want.kind)
			if n := len(second.Messages()); n != c.want.second {
				t.Errorf("%d messages at the second host", n)
			}
		})
	}
}

func TestMXAllDown(t *testing.T) {
	w := newWorld(t, nil)
	w.host(t, "mx1.a.example", "127.0.0.1", smtptest.Config{Script: answer("CONNECT", "", "554 5.3.2 closed")})
	w.zones["mx2.a.example."] = mockdns.Zone{A: []string{"127.0.0.2"}} // nobody listens
	w.domain("a.example", "mx1.a.example", "mx2.a.example")
	f := w.carry(t, parcel("m1", simple, "1@a.example")).want(t, chain.Deferred)[0]
	if f.Concern != chain.AboutDestination || f.About != "a.example" {
		t.Error(describe(f))
	}
}

// A refused leave is no failure of the host: no other is tried.
func TestMXNoLeaveNoNextHost(t *testing.T) {
	w := newWorld(t, nil)
	w.host(t, "mx1.a.example", "127.0.0.1", smtptest.Config{})
	second := w.host(t, "mx2.a.example", "127.0.0.2", smtptest.Config{})
	w.domain("a.example", "mx1.a.example", "mx2.a.example")
	got := &sink{ready: func(context.Context, []mail.RecipientID) error { return errRefusal }}
	w.Carry(t.Context(), parcel("m1", simple, "1@a.example"), got)
	got.want(t, chain.Refused)
	if second.Connections() != 0 {
		t.Error("the next host was tried")
	}
}

func TestMXImplicitAndLiteral(t *testing.T) {
	w := newWorld(t, nil)
	s := w.host(t, "implicit.example", "127.0.0.1", smtptest.Config{})
	w.carry(t, parcel("m1", simple, "1@implicit.example", "2@[127.0.0.1]")).want(t, chain.Delivered, chain.Delivered)
	if len(s.Messages()) != 2 {
		t.Errorf("%d messages", len(s.Messages()))
	}
}

func TestMXTakesTLS(t *testing.T) {
	w := newWorld(t, nil)
	s := w.host(t, "implicit.example", "127.0.0.1", smtptest.Config{TLS: smtptest.NewCertificate(t, "whatever.example").Server})
	w.carry(t, parcel("m1", simple, "1@implicit.example")).want(t, chain.Delivered)
	if !s.Messages()[0].TLS || !strings.Contains(w.log.String(), `"tls":"TLS 1.3"`) {
		t.Error("plaintext")
	}
}

func TestMXSourceOfTheOtherFamily(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.route.MX.Source = netip.MustParseAddr("::1") })
	w.host(t, "implicit.example", "127.0.0.1", smtptest.Config{})
	f := w.carry(t, parcel("m1", simple, "1@implicit.example")).want(t, chain.Deferred)[0]
	if f.Concern != chain.AboutDestination || f.Reason == "" {
		t.Error(describe(f))
	}
}

func TestMXCancelledLookup(t *testing.T) {
	w := newWorld(t, func(s *setup) {
		s.opts = func(o *Options) { o.Resolver = silent{} }
	})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	got := &sink{}
	w.Carry(ctx, parcel("m1", simple, "1@a.example", "2@b.example"), got)
	got.want(t, chain.Refused, chain.Refused)
}

type silent struct{}

func (silent) LookupMX(ctx context.Context, _ string) ([]*net.MX, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (silent) LookupIPAddr(ctx context.Context, _ string) ([]net.IPAddr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
