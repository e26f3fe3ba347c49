package mx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/foxcpp/go-mockdns"

	"github.com/stagecoachmail/stagecoach/mail"
)

var errServfail = &net.DNSError{Err: "server misbehaving", IsTemporary: true}

func zones() map[string]mockdns.Zone {
	return map[string]mockdns.Zone{
		"two.example.":           {MX: []net.MX{{Host: "b.two.example.", Pref: 20}, {Host: "a.two.example.", Pref: 10}}},
		"a.two.example.":         {A: []string{"192.0.2.1"}, AAAA: []string{"2001:db8::1"}},
		"b.two.example.":         {A: []string{"192.0.2.2"}},
		"implicit.example.":      {A: []string{"192.0.2.3"}},
		"null.example.":          {MX: []net.MX{{Host: ".", Pref: 0}}, A: []string{"192.0.2.4"}},
		"empty.example.":         {TXT: []string{"nothing here"}},
		"servfail.example.":      {Err: errServfail},
		"hostfail.example.":      {MX: []net.MX{{Host: "servfail.example.", Pref: 10}}},
		"halffail.example.":      {MX: []net.MX{{Host: "servfail.example.", Pref: 10}, {Host: "b.two.example.", Pref: 20}}},
		"dangling.example.":      {MX: []net.MX{{Host: "gone.example.", Pref: 10}}},
		"backup.example.":        {MX: []net.MX{{Host: "a.two.example.", Pref: 10}, {Host: "GATE.example.", Pref: 20}, {Host: "c.example.", Pref: 20}, {Host: "b.two.example.", Pref: 30}}},
		"c.example.":             {A: []string{"192.0.2.5"}},
		"self.example.":          {MX: []net.MX{{Host: "gate.example.", Pref: 10}, {Host: "b.two.example.", Pref: 10}}},
		"gate.example.":          {A: []string{"192.0.2.9"}},
		"xn--bcher-kva.example.": {A: []string{"192.0.2.6"}},
		"mixednull.example.":     {MX: []net.MX{{Host: ".", Pref: 0}, {Host: "b.two.example.", Pref: 10}}},
	}
}

func text(hosts []Host) string {
	var out []string
	for _, h := range hosts {
		out = append(out, fmt.Sprint(h.Name, h.Addresses))
	}
	return strings.Join(out, " ")
}

func TestHosts(t *testing.T) {
	f := &Finder{Resolver: &mockdns.Resolver{Zones: zones()}, Self: "gate.example"}
	for domain, want := range map[string]string{
		"two.example":        "a.two.example[192.0.2.1 2001:db8::1] b.two.example[192.0.2.2]",
		"TWO.example":        "a.two.example[192.0.2.1 2001:db8::1] b.two.example[192.0.2.2]",
		"implicit.example":   "implicit.example[192.0.2.3]",
		"halffail.example":   "b.two.example[192.0.2.2]",
		"backup.example":     "a.two.example[192.0.2.1 2001:db8::1]",
		"bücher.example":     "xn--bcher-kva.example[192.0.2.6]",
		"mixednull.example":  "b.two.example[192.0.2.2]",
		"[192.0.2.7]":        "192.0.2.7[192.0.2.7]",
		"[IPv6:2001:db8::7]": "2001:db8::7[2001:db8::7]",
	} {
		got, err := f.Hosts(t.Context(), domain)
		if err != nil || text(got) != want {
			t.Errorf("%s: %s, %v; want %s", domain, text(got), err, want)
		}
	}
}

func TestNoHosts(t *testing.T) {
	f := &Finder{Resolver: &mockdns.Resolver{Zones: zones()}, Self: "gate.example."}
	for domain, want := range map[string]string{ // the enhanced code of a final reply, "loop", or "later"
		"null.example":     "5.1.10",
		"gone.example":     "5.1.2",
		"empty.example":    "5.1.2",
		"dangling.example": "5.4.4",
		"servfail.example": "later",
		"hostfail.example": "later",
		"self.example":     "loop",
		"gate.example":     "loop",
		"[0.0.0.0]":        "5.1.2",
		"[x]":              "5.1.2",
		"-ü-.example":      "5.1.2",
	} {
		hosts, err := f.Hosts(t.Context(), domain)
		got := "later"
		var loop *Loop
		if r, ok := mail.AsReply(err); ok {
			got = r.Enhanced
			if r.Code/100 != 5 {
				t.Errorf("%s: %v", domain, r)
			}
		} else if errors.As(err, &loop) {
			got = "loop"
		}
		if err == nil || len(hosts) > 0 || got != want {
			t.Errorf("%s: %v, %v; want %s", domain, text(hosts), err, want)
		}
	}
	if r, _ := mail.AsReply(func() error { _, err := f.Hosts(t.Context(), "null.example"); return err }()); r.Code != 556 {
		t.Errorf("null MX: %v", r)
	}
}

func TestEqualPreferenceIsShuffled(t *testing.T) {
	z := zones()
	z["eq.example."] = mockdns.Zone{MX: []net.MX{{Host: "a.two.example.", Pref: 10}, {Host: "b.two.example.", Pref: 10}, {Host: "c.example.", Pref: 5}}}
	f := &Finder{Resolver: &mockdns.Resolver{Zones: z}}
	seen := map[string]int{}
	for range 64 {
		hosts, err := f.Hosts(t.Context(), "eq.example")
		if err != nil || len(hosts) != 3 || hosts[0].Name != "c.example" {
			t.Fatalf("%s, %v", text(hosts), err)
		}
		seen[hosts[1].Name]++
	}
	if len(seen) != 2 {
		t.Errorf("always the same order: %v", seen)
	}
}

func TestBounds(t *testing.T) {
	z := map[string]mockdns.Zone{}
	var mxs []net.MX
	for i := range 50 {
		name := fmt.Sprintf("h%d.example.", i)
		mxs = append(mxs, net.MX{Host: name, Pref: uint16(i)})
		z[name] = mockdns.Zone{A: []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"}, AAAA: []string{"2001:db8::1"}}
	}
	z["many.example."] = mockdns.Zone{MX: mxs}
	hosts, err := (&Finder{Resolver: &mockdns.Resolver{Zones: z}}).Hosts(t.Context(), "many.example")
	if err != nil || len(hosts) != maxHosts {
		t.Fatalf("%d hosts, %v", len(hosts), err)
	}
	if a := hosts[0].Addresses; len(a) != maxAddresses || !a[maxAddresses-1].Is6() {
		t.Errorf("%v", a)
	}
}

// The same questions over the wire: what exists, what does not, and what is only out of order.
func TestServer(t *testing.T) {
	z := zones()
	srv, err := mockdns.NewServerWithLogger(z, quiet{}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	f := &Finder{Resolver: Server(srv.LocalAddr().String())}
	if hosts, err := f.Hosts(ctx, "two.example"); err != nil || len(hosts) != 2 || hosts[0].Name != "a.two.example" || len(hosts[0].Addresses) != 2 {
		t.Errorf("%s, %v", text(hosts), err)
	}
	for domain, want := range map[string]string{"gone.example": "5.1.2", "null.example": "5.1.10", "empty.example": "5.1.2"} {
		_, err := f.Hosts(ctx, domain)
		if r, ok := mail.AsReply(err); !ok || r.Enhanced != want {
			t.Errorf("%s: %v", domain, err)
		}
	}
	if _, err := f.Hosts(ctx, "servfail.example"); err == nil {
		t.Error("SERVFAIL gave hosts")
	} else if _, final := mail.AsReply(err); final {
		t.Errorf("SERVFAIL is final: %v", err)
	}
}

// A server that does not answer is no answer.
func TestSilentServer(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = (&Finder{Resolver: Server(c.LocalAddr().String())}).Hosts(ctx, "two.example")
	if _, final := mail.AsReply(err); err == nil || final {
		t.Errorf("got %v", err)
	}
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}
