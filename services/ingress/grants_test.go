package ingress

import (
	"context"
	"fmt"
	"net/netip"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// granting opens an Ingress with rules that take grants.
func granting(t *testing.T) (*office, *Ingress) {
	t.Helper()
	o := newOffice(t, false)
	in := o.open(t, func(opts *Options) {
		cfg := *opts.Config
		cfg.Relay = []config.RelayRule{{Name: "branch", Grants: true}, {Name: "homes", Grants: true, Senders: []string{"*@example.com"}}, {Name: "fixed", Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}
		cfg.Revision = "abc"
		opts.Config = &cfg
	})
	in.gateways = func() config.Gateways { return config.Gateways{Known: []netip.Addr{netip.MustParseAddr("172.17.0.1")}} }
	return o, in
}

// relays says what a client of this machine hears at RCPT for somebody elsewhere, in a session that goes on.
func relays(t *testing.T, c *textproto.Conn) string {
	t.Helper()
	for _, line := range []string{"RSET", "MAIL FROM:<alice@example.com>"} {
		if err := c.PrintfLine("%s", line); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.ReadResponse(250); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PrintfLine("RCPT TO:<bob@example.net>"); err != nil {
		t.Fatal(err)
	}
	code, _, err := c.ReadResponse(0)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(code)
}

func dialSMTP(t *testing.T, in *Ingress) *textproto.Conn {
	t.Helper()
	c, err := textproto.Dial("tcp", in.Addr("local").String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, _, err := c.ReadResponse(220); err != nil {
		t.Fatal(err)
	}
	if err := c.PrintfLine("EHLO here"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.ReadResponse(250); err != nil {
		t.Fatal(err)
	}
	return c
}

// A grant lets a client relay until it is revoked, or its time is over: in a session that is open too.
func TestGrantLetsRelay(t *testing.T) {
	_, in := granting(t)
	c := dialSMTP(t, in)
	if got := relays(t, c); got != "550" {
		t.Fatalf("without a grant: %s", got)
	}
	g, err := in.Grants().CreateGrant(by(t, "anna"), &adminv1.CreateGrantRequest{Rule: "branch", Network: "127.0.0.1", Reason: "new line"})
	if err != nil {
		t.Fatal(err)
	}
	if g := g.GetGrant(); g.GetId() != "branch/127.0.0.1/32" || g.GetBy() != "anna" || g.GetExpires().AsTime().Sub(g.GetCreated().AsTime()) != 24*time.Hour || g.GetReason() != "new line" {
		t.Errorf("%v", g)
	}
	if got := relays(t, c); got != "250" {
		t.Errorf("with a grant: %s", got)
	}
	if !in.policy.View().Known("local", netip.MustParseAddr("::ffff:127.0.0.1")) || in.policy.View().Known("local", netip.MustParseAddr("127.0.0.2")) {
		t.Error("who has a grant is not known as a relay client, or all are")
	}
	if _, err := in.Grants().RevokeGrant(by(t, "anna"), &adminv1.RevokeGrantRequest{Id: "branch/127.0.0.1/32"}); err != nil {
		t.Fatal(err)
	}
	if got := relays(t, c); got != "550" {
		t.Errorf("after it was revoked: %s", got)
	}
	soon := relayGrant{Rule: "branch", Network: netip.MustParsePrefix("127.0.0.0/24"), Expires: time.Now().Add(300 * time.Millisecond)}
	if err := in.grants.change(t.Context(), func(all map[string]relayGrant) (bool, error) { all[soon.id()] = soon; return true, nil }); err != nil {
		t.Fatal(err)
	}
	if got := relays(t, c); got != "250" && time.Now().Before(soon.Expires) {
		t.Errorf("with a short grant: %s", got)
	}
	eventually(t, "it expires", func() bool { return time.Now().After(soon.Expires) })
	if got := relays(t, c); got != "550" {
		t.Errorf("after its time: %s", got)
	}
	if list, err := in.Grants().ListGrants(t.Context(), nil); err != nil || len(list.GetGrants()) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	_, err = in.Grants().RevokeGrant(by(t, "anna"), &adminv1.RevokeGrantRequest{Id: soon.id()})
	wantCode(t, err, codes.NotFound)
}

func TestGrantsKept(t *testing.T) {
	o, in := granting(t)
	create := func(rule, network string, life time.Duration) (*adminv1.Grant, error) {
		r := &adminv1.CreateGrantRequest{Rule: rule, Network: network}
		if life != 0 {
			r.Lifetime = durationpb.New(life)
		}
		g, err := in.Grants().CreateGrant(by(t, "anna"), r)
		return g.GetGrant(), err
	}
	for _, c := range []struct {
		rule, network string
		life          time.Duration
		code          codes.Code
	}{
		{"branch", "", 0, codes.InvalidArgument}, {"branch", "0.0.0.0/0", 0, codes.InvalidArgument}, {"branch", "192.0.0.0/16", 0, codes.InvalidArgument}, {"branch", "172.17.0.1", 0, codes.InvalidArgument},
		{"branch", "192.0.2.1", 59 * time.Second, codes.InvalidArgument}, {"branch", "192.0.2.1", 31 * 24 * time.Hour, codes.InvalidArgument}, {"branch", "192.0.2.1", -time.Hour, codes.InvalidArgument},
		{"fixed", "192.0.2.1", 0, codes.NotFound}, {"brunch", "192.0.2.1", 0, codes.NotFound}, {"", "192.0.2.1", 0, codes.NotFound},
	} {
		_, err := create(c.rule, c.network, c.life)
		wantCode(t, err, c.code)
	}
	_, err := in.Grants().CreateGrant(t.Context(), &adminv1.CreateGrantRequest{Rule: "branch", Network: "192.0.2.1", Reason: "a\nb"})
	wantCode(t, err, codes.InvalidArgument, "reason")

	long, err := create("branch", "192.0.2.1", 30*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := create("branch", "192.0.2.1", time.Hour); err != nil || !again.GetExpires().AsTime().Equal(long.GetExpires().AsTime()) || !again.GetCreated().AsTime().Equal(long.GetCreated().AsTime()) {
		t.Errorf("a grant became shorter: %v, %v", again, err)
	}
	short, err := create("homes", "2001:db8::1", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := create("homes", "2001:db8::1", time.Hour); err != nil || !again.GetExpires().AsTime().After(short.GetExpires().AsTime()) {
		t.Errorf("a grant did not become longer: %v, %v", again, err)
	}
	// Each is of its rule.
	for _, c := range []struct {
		rule, client string
		want         bool
	}{{"branch", "192.0.2.1", true}, {"homes", "192.0.2.1", false}, {"branch", "192.0.2.2", false}, {"homes", "2001:db8::1", true}, {"homes", "2001:db8::2", false}} {
		if got := in.granted(c.rule, netip.MustParseAddr(c.client)); got != c.want {
			t.Errorf("%s at %s: %v", c.client, c.rule, got)
		}
	}
	// Another ingress follows, and they outlive a restart.
	other := &Ingress{o: o.o, policy: in.policy}
	if err := other.openGrants(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := other.Grants().ListGrants(t.Context(), nil); err != nil || len(list.GetGrants()) != 2 || list.GetGrants()[0].GetRule() != "homes" {
		t.Errorf("%v, %v", list, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { defer close(over); other.grants.follow(ctx) }()
	if _, err := in.Grants().RevokeGrant(t.Context(), &adminv1.RevokeGrantRequest{Id: "branch/192.0.2.1/32"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another ingress follows", func() bool { return !other.granted("branch", netip.MustParseAddr("192.0.2.1")) })
	cancel()
	<-over

	// There are only so many, and what is over makes room.
	err = in.grants.change(t.Context(), func(all map[string]relayGrant) (bool, error) {
		for i := range mostGrants - len(all) {
			g := relayGrant{Rule: strings.Repeat("x", 60), Network: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(i / 256), byte(i)}), 32), Reason: strings.Repeat("z", reasonLimit),
				By: strings.Repeat("y", 100), Expires: time.Now().Add(time.Hour)}
			all[g.id()] = g
		}
		return true, nil
	})
	if err != nil {
		t.Fatalf("the bound cannot be reached: %v", err)
	}
	_, err = create("branch", "192.0.2.1", 0)
	wantCode(t, err, codes.ResourceExhausted, "revoke")
	err = in.grants.change(t.Context(), func(all map[string]relayGrant) (bool, error) {
		for id, g := range all {
			g.Expires = time.Now()
			all[id] = g
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := create("branch", "192.0.2.1", 0); err != nil {
		t.Error(err)
	}
	if n := len(in.grants.all()); n != 1 {
		t.Errorf("%d are kept", n)
	}

	// What a later release wrote is not guessed at.
	if _, err := in.grants.kv.Put(t.Context(), "grants", []byte(`{"version":2}`)); err != nil {
		t.Fatal(err)
	}
	if err := other.openGrants(t.Context()); err == nil {
		t.Error("grants of a later release are read")
	}
	_, err = create("branch", "192.0.2.9", 0)
	wantCode(t, err, codes.Unavailable)
	away := &shared[relayGrant]{what: "grants", conn: o.gone(t)}
	err = away.change(t.Context(), nil)
	wantCode(t, notShared(err), codes.Unavailable, "nothing was changed")
}
