package doctor

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// answerDNS is a server's answer to the questions of the tests.
func answerDNS(t *testing.T, query []byte, udp bool) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		t.Errorf("%v", err)
		return nil
	}
	m.Response = true
	q := m.Questions[0]
	add := func(b dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}, Body: b})
	}
	switch name := q.Name.String(); {
	case name == "long.example." && udp:
		m.Truncated = true
	case (name == "relay.example." || name == "long.example.") && q.Type == dnsmessage.TypeA:
		add(&dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}})
	case name == "relay.example." && q.Type == dnsmessage.TypeAAAA:
		add(&dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8::1").As16()})
	case name == "1.2.0.192.in-addr.arpa." || strings.HasSuffix(name, ".8.b.d.0.1.0.0.2.ip6.arpa."):
		add(&dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("relay.example.")})
	case name == "alias.example." && q.Type == dnsmessage.TypeCNAME:
		add(&dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName("relay.example.")})
	case name == "broken.example.":
		m.RCode = dnsmessage.RCodeServerFailure
	case name == "gone.example." || name == "localhost.":
		m.RCode = dnsmessage.RCodeNameError
	}
	raw, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return raw
}

func testWorld(t *testing.T) *worldResolver {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			b := make([]byte, 512)
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			raw := answerDNS(t, b[:n], true)
			forged := append([]byte(nil), raw...)
			forged[0] ^= 0xff // another id, and "no such name": it must be passed over
			forged[3] |= byte(dnsmessage.RCodeNameError)
			_, _ = udp.WriteTo(forged, from)
			_, _ = udp.WriteTo(raw, from)
		}
	}()
	t.Cleanup(func() { _ = udp.Close(); <-over })
	tcp := serve(t, func(c net.Conn) {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		raw := answerDNS(t, b, false)
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(raw))), raw...))
	})
	var d net.Dialer
	return &worldResolver{servers: []string{"one"}, dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if network == "tcp" {
			return d.DialContext(ctx, network, tcp)
		}
		return d.DialContext(ctx, network, udp.LocalAddr().String())
	}}
}

// What the DNS says counts, and not what /etc/hosts does.
func TestWorld(t *testing.T) {
	e := &Env{Resolver: testWorld(t)}
	ctx := t.Context()
	for name, want := range map[string]string{"relay.example": "192.0.2.1, 2001:db8::1", "long.example": "192.0.2.1", "gone.example": "", "empty.example": "", "localhost": "", "192.0.2.7": "192.0.2.7",
		strings.Repeat("x", 300): ""} {
		if got, err := e.addresses(ctx, name); err != nil || join(got) != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := e.addresses(ctx, "broken.example"); err == nil {
		t.Errorf("a server failure gives %v", got)
	}
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		if got, err := e.ptr(ctx, netip.MustParseAddr(a)); err != nil || list(got) != "relay.example" {
			t.Errorf("%s: %v, %v", a, got, err)
		}
	}
	for name, want := range map[string]string{"alias.example": "relay.example", "relay.example": "", "gone.example": ""} {
		if got, err := e.alias(ctx, name); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestNameservers(t *testing.T) {
	file := t.TempDir() + "/resolv.conf"
	writeFile(t, file, "# hello\nsearch example.com\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\noptions edns0\nnameserver nonsense\n")
	if got := list(nameservers(file)); got != "192.0.2.53:53, [fe80::1%eth0]:53" {
		t.Error(got)
	}
	if got := list(nameservers(file + ".missing")); got != "127.0.0.1:53" {
		t.Error(got)
	}
}

func TestGeneric(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.10")
	for name, want := range map[string]bool{"relay.example.com": false, "mail10.example.com": false, "dynamic.example.com": true, "host-192-000-002-010.isp.example": true,
		"10.2.0.192.isp.example": true, "pool7.isp.example": true, "p4fe1.dip0.isp.example": true, "carpool.example.com": false, "clientele.example.com": false} {
		if got := generic(name, a); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
