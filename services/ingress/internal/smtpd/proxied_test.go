package smtpd

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

// behindProxy is a server whose listener "inside", with its relay rule for 127.0.0.1, is behind a proxy at that address.
func behindProxy(t *testing.T) *rig {
	return newRig(t, func(c *config.Config, _ *Options) {
		for i := range c.Ingress.Listeners {
			if l := &c.Ingress.Listeners[i]; l.Name == "inside" {
				l.Proxy = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
			}
		}
	})
}

// What a client may is decided by the address that the proxy names, in both versions of the protocol.
func TestProxyNamesTheClient(t *testing.T) {
	r := behindProxy(t)
	const relayed = "C: RCPT TO:<bob@elsewhere.example>"
	for _, c := range []struct{ source, reply string }{{"192.0.2.7", "S: 550 5.7.1"}, {"127.0.0.1", "S: 250"}} {
		for _, version := range []byte{1, 2} {
			h := proxyproto.HeaderProxyFromAddrs(version, &net.TCPAddr{IP: net.ParseIP(c.source), Port: 4711}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25})
			raw, err := h.Format()
			if err != nil {
				t.Fatal(err)
			}
			one := r.dial("inside")
			one.send(string(raw) + "EHLO client.example\r\n")
			one.script("S: 220", "S: 250 ", "C: MAIL FROM:<a@b.example>", "S: 250", relayed, c.reply)
		}
	}
	if !strings.Contains(r.log.String(), "192.0.2.7") {
		t.Error("the log does not name the client")
	}
}

// A proxy that names nobody is not let in; who is no proxy cannot name anybody.
func TestProxyHeaderIsRequired(t *testing.T) {
	r := behindProxy(t)
	for _, start := range []string{"EHLO client.example\r\n", "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", "PROXY TCP4 nonsense\r\n"} {
		one := r.dial("inside")
		one.send(start)
		if l := one.line(); l != "EOF" {
			t.Errorf("%q: %s", start, l)
		}
	}
	one := r.dial("narrow")
	one.script("S: 220", "C: PROXY TCP4 192.0.2.7 192.0.2.1 4711 25", "S: 500", "C: EHLO x", "S: 250 ")
}

// A silent proxy does not hold up a stop.
func TestProxyIsSilentAtShutdown(t *testing.T) {
	r := behindProxy(t)
	one := r.dial("inside")
	for end := time.Now().Add(5 * time.Second); len(r.server.proxied) == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	if err := r.server.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > proxyHeader/2 {
		t.Errorf("the stop took %v", took)
	}
	if l := one.line(); l != "EOF" {
		t.Error(l)
	}
}
