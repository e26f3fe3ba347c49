package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEverybody(t *testing.T) {
	for p, refused := range map[string]bool{
		"0.0.0.0/0": true, "128.0.0.0/1": true, "8.0.0.0/8": true, "198.18.0.0/15": true, "198.51.0.0/16": false, "203.0.113.7/32": false,
		"10.0.0.0/8": false, "10.0.0.0/7": true, "172.16.0.0/12": false, "172.16.0.0/11": true, "192.168.0.0/16": false, "127.0.0.0/8": false,
		"::/0": true, "8000::/1": true, "2000::/3": true, "2001:db8::/31": true, "2001:db8::/32": false, "fc00::/7": false, "fe80::/10": false, "::1/128": false,
		"64:ff9b::/96": true, "64:ff9b::/100": true, "64:ff9b::c633:6400/120": false, "64:ff9b::/95": true, "2002::/16": true, "2002:8000::/17": true,
		"2002:c633:6400::/40": false, "2002:a00::/24": false, "2001::/32": true, "::ffff:0:0/95": true, "::/96": false,
	} {
		if why := everybody(prefixes(p)[0]); (why != "") != refused {
			t.Errorf("%s: %q", p, why)
		}
	}
}

func TestMerge(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"[0.0.0.0/1 128.0.0.0/1]", "[0.0.0.0/0]"},
		{"[128.0.0.0/1 0.0.0.0/2 64.0.0.0/2]", "[0.0.0.0/0]"},
		{"[10.1.0.0/16 10.0.0.0/8 10.0.0.0/24]", "[10.0.0.0/8]"},
		{"[10.1.0.0/16 10.2.0.0/16]", "[10.1.0.0/16 10.2.0.0/16]"},
		{"[::/1 8000::/1 0.0.0.0/1 128.0.0.0/1]", "[0.0.0.0/0 ::/0]"},
		{"[]", "[]"},
	} {
		if got := fmt.Sprint(merge(prefixes(strings.Fields(strings.Trim(c.in, "[]"))...))); got != c.want {
			t.Errorf("%s: %s", c.in, got)
		}
	}
}

// TestContainerGateways has route tables of proc(5) in folders of their own.
func TestContainerGateways(t *testing.T) {
	if g := gatewaysIn(t.TempDir()); len(g.Known)+len(g.Guess) != 0 {
		t.Errorf("not in a container: %v", g)
	}
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(".dockerenv", "")
	if g := gatewaysIn(root); g.String() != "addresses of 172.16.0.0/12" {
		t.Errorf("no table: %v", g)
	}
	head := "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	write("proc/net/route", head+"eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n")
	zero := "00000000000000000000000000000000"
	write("proc/net/ipv6_route", zero+" 00 "+zero+" 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"+
		zero+" 00 "+zero+" 00 "+zero+" ffffffff 00000001 00000000 00200200 lo\nshort\n")
	g := gatewaysIn(root)
	if g.String() != "172.17.0.1, fd00::1" {
		t.Errorf("got %v", g)
	}
	if p := prefixes("172.16.0.0/12", "10.0.0.0/8", "fd00::/8"); !g.in(p[0]) || g.in(p[1]) || !g.in(p[2]) {
		t.Error("wrong networks hold the gateway")
	}
}
