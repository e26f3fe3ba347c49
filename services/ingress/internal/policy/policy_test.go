package policy

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
)

func options() Options {
	return Options{Logger: slog.New(slog.DiscardHandler), Now: time.Now, Secret: []byte("0123456789abcdef")}
}

func networks(in ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range in {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func address(t *testing.T, s string) mail.Address {
	t.Helper()
	if s == "" {
		return mail.Address{}
	}
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mustPolicy(t *testing.T, cfg *config.Config) *Policy {
	t.Helper()
	p, err := New(cfg, options())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGrant(t *testing.T) {
	v := mustPolicy(t, &config.Config{Relay: []config.RelayRule{
		{Name: "net", Networks: networks("10.0.0.10/32", "2001:db8::/64"), Senders: []string{"*@example.com"}},
		{Name: "mapped", Networks: networks("::ffff:192.0.2.0/120")},
		{Name: "both", Networks: networks("10.1.0.0/16"), Auth: true},
		{Name: "staff", Listeners: []string{"submission"}, Auth: true},
	}}).View()
	for _, one := range []struct {
		listener, addr, user, from, want string
		pending                          bool
	}{
		{"mx", "10.0.0.10", "", "a@example.com", "net", false},
		{"mx", "::ffff:10.0.0.10", "", "a@EXAMPLE.com", "net", false},
		{"mx", "2001:db8::5", "", "a@example.com", "net", false},
		{"mx", "10.0.0.11", "", "a@example.com", "", false},
		{"mx", "10.0.0.10", "", "a@other.example", "", false},
		{"mx", "10.0.0.10", "", "a@sub.example.com", "", false},
		{"mx", "10.0.0.10", "", "", "net", true},
		{"mx", "192.0.2.9", "", "x@y.example", "mapped", false},
		{"mx", "192.0.3.9", "", "x@y.example", "", false},
		{"mx", "10.1.2.3", "", "x@y.example", "", false},
		{"mx", "10.1.2.3", "u", "x@y.example", "both", false},
		{"mx", "203.0.113.1", "u", "x@y.example", "", false},
		{"submission", "203.0.113.1", "u", "x@y.example", "staff", false},
		{"submission", "203.0.113.1", "", "x@y.example", "", false},
	} {
		g := v.Grant(Client{one.listener, netip.MustParseAddr(one.addr), one.user}, address(t, one.from))
		if g.Relay != one.want || (len(g.Pending) > 0) != one.pending {
			t.Errorf("%+v: %+v", one, g)
		}
	}
	if g := v.Grant(Client{Listener: "mx"}, address(t, "a@example.com")); g.Trusted() {
		t.Errorf("a client without an address: %+v", g)
	}
}

// A grant stands beside the networks of its rule, and everything else of the rule must hold too.
func TestGranted(t *testing.T) {
	asked := ""
	o := options()
	o.Granted = func(rule string, a netip.Addr) bool {
		asked = rule
		return a == netip.MustParseAddr("203.0.113.1")
	}
	cfg := &config.Config{Relay: []config.RelayRule{
		{Name: "net", Networks: networks("10.0.0.0/8")},
		{Name: "login", Grants: true, Auth: true},
		{Name: "branch", Grants: true, Networks: networks("192.0.2.0/24"), Listeners: []string{"mx"}, Senders: []string{"*@example.com"}},
	}}
	p, err := New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct{ listener, addr, user, from, want string }{
		{"mx", "203.0.113.1", "", "a@example.com", "branch"},
		{"mx", "192.0.2.1", "", "a@example.com", "branch"},
		{"mx", "203.0.113.2", "", "a@example.com", ""},
		{"mx", "203.0.113.1", "", "a@other.example", ""},
		{"other", "203.0.113.1", "", "a@example.com", ""},
		{"other", "203.0.113.1", "u", "a@example.com", "login"},
		{"other", "203.0.113.2", "u", "a@example.com", ""},
	} {
		if g := p.View().Grant(Client{one.listener, netip.MustParseAddr(one.addr), one.user}, address(t, one.from)); g.Relay != one.want {
			t.Errorf("%+v: %+v", one, g)
		}
	}
	if asked == "net" {
		t.Error("a rule without grants is asked for some")
	}
	if v := p.View(); !v.Known("mx", netip.MustParseAddr("203.0.113.1")) || v.Known("mx", netip.MustParseAddr("203.0.113.2")) {
		t.Error("who has a grant is not known, or who has none is")
	}
	if g := mustPolicy(t, cfg).View().Grant(Client{"mx", netip.MustParseAddr("203.0.113.1"), ""}, address(t, "a@example.com")); g.Trusted() {
		t.Error("let in where nobody grants anything")
	}
}

func TestOpenRelaysAreRefused(t *testing.T) {
	for name, r := range map[string]config.RelayRule{
		"sender alone":     {Name: "r", Senders: []string{"*@example.com"}},
		"listener alone":   {Name: "r", Listeners: []string{"mx"}},
		"nothing":          {Name: "r"},
		"everybody":        {Name: "r", Networks: networks("0.0.0.0/0")},
		"everybody, IPv6":  {Name: "r", Networks: networks("::/0")},
		"half of it":       {Name: "r", Networks: networks("0.0.0.0/1", "128.0.0.0/1")},
		"IPv4 within IPv6": {Name: "r", Networks: networks("::ffff:0:0/96")},
		"our own name":     {Name: Self, Auth: true},
		"no name":          {Auth: true},
		"bad pattern":      {Name: "r", Auth: true, Senders: []string{"@@"}},
	} {
		if _, err := New(&config.Config{Relay: []config.RelayRule{r}}, options()); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := New(&config.Config{Relay: []config.RelayRule{{Name: "r", Auth: true, Networks: networks("0.0.0.0/0")}}}, options()); err != nil {
		t.Errorf("everybody with auth: %v", err)
	}
	if _, err := New(&config.Config{}, Options{Secret: []byte("short")}); err == nil {
		t.Error("a short secret was taken")
	}
}

func TestRecipientsFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "list")
	put := func(text string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	var log strings.Builder
	opts := options()
	opts.Now = func() time.Time { return now }
	opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	put("\xef\xbb\xbf# list\r\nuser # comment\r\n  Other@Example.COM\r\nelse@elsewhere.example\r\n\"a b\"\r\n", now)
	p, err := New(&config.Config{Domains: []config.Domain{{Name: "example.com", File: name}}}, opts)
	if err != nil {
		t.Fatal(err)
	}
	check := func(want map[string]bool) {
		t.Helper()
		for s, ok := range want {
			_, bad := p.View().Recipient(Grant{}, Target{Mailbox: address(t, s)})
			if (bad == nil) != ok {
				t.Errorf("%s: %v", s, bad)
			}
		}
	}
	check(map[string]bool{
		"user@example.com": true, "USER@Example.Com": true, "other@example.com": true, `"a b"@example.com`: true, `"user"@example.com`: true,
		"else@example.com": false, "else@elsewhere.example": false, "user@sub.example.com": false, "nobody@example.com": false,
		"postmaster@example.com": true, "abuse@example.com": false,
	})
	put("new\n", now.Add(time.Minute))
	now = now.Add(2 * time.Second)
	check(map[string]bool{"new@example.com": true, "user@example.com": false})
	put("new\nbro ken\n", now.Add(2*time.Minute))
	now = now.Add(2 * time.Second)
	check(map[string]bool{"new@example.com": true})
	if !strings.Contains(log.String(), "recipients file not taken") || !strings.Contains(log.String(), ":2:") {
		t.Errorf("log: %s", log.String())
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Second)
	check(map[string]bool{"new@example.com": true})
	if err := p.Update(p.View().Config()); err == nil {
		t.Error("a configuration without its recipients file was taken")
	}
	check(map[string]bool{"new@example.com": true})
}

func chainConfig() *config.Config {
	in, out, internal := mail.Inbound, mail.Outbound, mail.Internal
	dir := func(d ...mail.Direction) []mail.Direction { return d }
	return &config.Config{
		Domains: []config.Domain{{Name: "a.example", Any: true}, {Name: "b.example", Any: true}, {Name: "c.example", Any: true}},
		Chains: []*config.Chain{
			{Name: "vip", Match: config.Match{Direction: dir(in, internal), Recipients: []string{"boss@a.example"}}},
			{Name: "in-a", Match: config.Match{Direction: dir(in), Listener: []string{"mx"}, Recipients: []string{"*@a.example"}}},
			{Name: "in-b", Match: config.Match{Direction: dir(in), Recipients: []string{"@b.example"}, Senders: []string{"*@partner.example"}}},
			{Name: "internal-c", Match: config.Match{Direction: dir(internal), Recipients: []string{"@c.example"}}},
			{Name: "reports", Match: config.Match{Relay: []string{Self}, Direction: dir(out)}},
			{Name: "out", Match: config.Match{Direction: dir(out)}},
		},
	}
}

func TestMatch(t *testing.T) {
	cfg := chainConfig()
	cfg.Postmaster = mail.Address{Local: "ops", Domain: "elsewhere.example"}
	p := mustPolicy(t, cfg)
	for _, one := range []struct{ relay, listener, from, to, want string }{
		{"", "mx", "x@y.example", "u@a.example", "in-a"},
		{"", "other", "x@y.example", "u@a.example", ""},
		{"", "mx", "x@y.example", "Boss@A.example", "vip"},
		{"", "mx", "x@partner.example", "u@b.example", "in-b"},
		{"", "mx", "x@y.example", "u@b.example", ""},
		{"", "mx", "x@y.example", "u@c.example", ""},
		{"r", "x", "x@y.example", "u@y.example", "out"},
		{"r", "x", "x@y.example", "u@c.example", "internal-c"},
		// No internal chain takes it: the domain's inbound chain does, wherever and from whomever it came.
		{"r", "x", "x@y.example", "u@a.example", "in-a"},
		{"r", "x", "x@y.example", "boss@a.example", "vip"},
		{"r", "x", "x@y.example", "u@b.example", "in-b"},
		{Self, "", "", "u@a.example", "in-a"},
		{Self, "", "", "u@elsewhere.example", "reports"},
		// A stranger's mail to a postmaster elsewhere is ours to forward.
		{"", "mx", "x@y.example", "ops@elsewhere.example", "reports"},
	} {
		env := &mail.Envelope{ReversePath: address(t, one.from), Origin: mail.Origin{Relay: one.relay, Listener: one.listener}}
		c, ok := p.Match(env, mail.Recipient{Address: address(t, one.to)})
		got := ""
		if ok {
			got = c.Name
		}
		if got != one.want {
			t.Errorf("%+v: %q", one, got)
		}
	}
}

func TestInlinePrefix(t *testing.T) {
	scan, other := &config.Stage{Name: "scan", Hash: "1"}, &config.Stage{Name: "other", Hash: "2"}
	one := &config.Chain{Stages: []config.Use{{Stage: scan, Inline: true, OnError: "defer"}, {Stage: other}}}
	same := &config.Chain{Stages: []config.Use{{Stage: scan, Inline: true, OnError: "defer"}}}
	skip := &config.Chain{Stages: []config.Use{{Stage: scan, Inline: true, OnError: "skip"}}}
	none := &config.Chain{Stages: []config.Use{{Stage: scan}}}
	if InlinePrefix(one) != InlinePrefix(same) || InlinePrefix(one) == InlinePrefix(skip) || InlinePrefix(one) == InlinePrefix(none) || InlinePrefix(none) != "" {
		t.Error("prefixes are told apart wrongly")
	}
}

func TestToken(t *testing.T) {
	p := mustPolicy(t, &config.Config{})
	q, err := New(&config.Config{}, Options{Logger: slog.New(slog.DiscardHandler), Now: time.Now, Secret: []byte("another secret of theirs")})
	if err != nil {
		t.Fatal(err)
	}
	field := func(id, token string) []byte {
		return []byte(" from x ([1.2.3.4])\n\tby y with ESMTP\n\tid " + id + " (stagecoach " + token + ");\n\tdate")
	}
	if id, ok := p.Pass(field("abc", p.Token("abc"))); !ok || id != "abc" {
		t.Error("our own token is not known")
	}
	for name, v := range map[string][]byte{
		"another id":           field("abd", p.Token("abc")),
		"another installation": field("abc", q.Token("abc")),
		"nothing":              []byte("from x by y; date"),
	} {
		if _, ok := p.Pass(v); ok {
			t.Errorf("%s: taken for ours", name)
		}
	}
}

func FuzzList(f *testing.F) {
	f.Add([]byte("user\n# x\na@example.com\n\"a b\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		locals, err := parseList("example.com", data)
		if err != nil {
			return
		}
		for l := range locals {
			if strings.ContainsAny(l, "\r\n\x00") {
				t.Fatalf("%q: local part %q", data, l)
			}
		}
	})
}
