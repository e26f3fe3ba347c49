package config

import (
	"net/netip"
	"testing"
)

func TestGrantNetwork(t *testing.T) {
	inside := Gateways{Known: []netip.Addr{netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("fd00::1")}}
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "192.0.2.0/24": "192.0.2.0/24", "192.0.2.0/23": "", "192.0.2.1/24": "", "0.0.0.0/0": "", "::/0": "", "2001:db8::/64": "2001:db8::/64",
		"2001:db8::/63": "", "2001:db8::1": "2001:db8::1/128", "::ffff:192.0.2.7": "192.0.2.7/32", "::ffff:192.0.2.0/120": "192.0.2.0/24", "::ffff:0:0/96": "", "::ffff:192.0.0.0/112": "",
		"64:ff9b::/96": "", "64:ff9b::c000:200/120": "64:ff9b::c000:200/120", "64:ff9b::/104": "", "2002:c000:200::/40": "", "2002:c000:200::/64": "2002:c000:200::/64", "2001::/64": "2001::/64",
		"172.17.0.1": "", "172.17.0.0/24": "", "172.17.1.0/24": "172.17.1.0/24", "fd00::/64": "", "::ffff:172.17.0.1": "", "64:ff9b::ac11:1": "",
		"10.0.0.0/8": "", "0.0.0.0": "", "::": "", "224.0.0.1": "", "": "", "fe80::1%eth0": "", "a": "", "192.0.2.7/33": "", "300.0.0.1": "",
	} {
		p, err := GrantNetwork(in, inside)
		got := ""
		if err == nil {
			got = p.String()
		}
		if got != want {
			t.Errorf("%q: %q, want %q (%v)", in, got, want, err)
		}
	}
	if _, err := GrantNetwork("172.18.0.0/24", Gateways{Guess: prefixes("172.16.0.0/12")}); err == nil {
		t.Error("what may be the gateway is granted")
	}
	if _, err := GrantNetwork("172.17.0.1", Gateways{}); err != nil {
		t.Errorf("outside of a container: %v", err)
	}
}
