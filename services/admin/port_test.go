package admin

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// The port moves, closes and opens with the configuration; what cannot be opened changes nothing.
func TestPortMoves(t *testing.T) {
	t.Parallel()
	d := open(t)
	first := d.server.Addr().String()
	ask := func() error {
		_, err := adminv1.NewAccessServiceClient(d.dial(t, aliceToken)).GetAccess(t.Context(), &adminv1.GetAccessRequest{})
		return err
	}
	closed := func(address string) bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for what, f := range map[string]func(*config.Config){
		"a port that is taken":          func(c *config.Config) { c.Admin.Address = taken.Addr().String() },
		"a certificate that is missing": func(c *config.Config) { c.Admin.Certificate = config.KeyPair{File: "none.pem", KeyFile: "none.pem"} },
		"a pki that is missing":         func(c *config.Config) { c.PKI = &config.PKI{Directory: filepath.Join(d.dir, "none")} },
	} {
		c := *d.config.Load()
		f(&c)
		if err := d.server.Update(&c); err == nil {
			t.Errorf("%s was taken", what)
		}
		if err := ask(); err != nil || d.server.Addr().String() != first {
			t.Errorf("after %s: %v, at %v", what, err, d.server.Addr())
		}
	}
	// A call under way at the former address goes on.
	conn := d.dial(t, "t-victor")
	tail, err := adminv1.NewEventServiceClient(conn).TailEvents(t.Context(), &adminv1.TailEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	d.owner.tail <- &adminv1.TailEventsResponse{Id: "one"}
	if _, err := tail.Recv(); err != nil {
		t.Fatal(err)
	}
	d.change(t, func(c *config.Config) { c.Admin.Address = "localhost:0" })
	second := d.server.Addr().String()
	if second == first {
		t.Fatal("it did not move")
	}
	if err := ask(); err != nil {
		t.Errorf("at the new address: %v", err)
	}
	wait(t, "the former address is closed", func() bool { return closed(first) })
	d.owner.tail <- &adminv1.TailEventsResponse{Id: "two"}
	if r, err := tail.Recv(); err != nil || r.GetId() != "two" {
		t.Errorf("the call that was under way: %v, %v", r, err)
	}
	d.change(t, func(c *config.Config) { c.Admin.Address = "" })
	wait(t, "the port is closed", func() bool { return closed(second) })
	if a := d.server.Addr(); a != nil {
		t.Errorf("it is at %v", a)
	}
	d.change(t, func(c *config.Config) { c.Admin.Address = "127.0.0.1:0" })
	if err := ask(); err != nil {
		t.Errorf("opened again: %v", err)
	}
}

// A renewed certificate is shown, a bad pair keeps the former one, and one of its own goes before that of the pki.
func TestPortCertificate(t *testing.T) {
	t.Parallel()
	d := open(t)
	shown := func() string {
		t.Helper()
		conf := d.tls()
		conf.InsecureSkipVerify = true
		c, err := tls.Dial("tcp", d.server.Addr().String(), conf)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := shown()
	d.ca.write(t, d.dir, "admin")
	var second string
	wait(t, "the renewed one is shown", func() bool { second = shown(); return second != first })
	if err := os.WriteFile(filepath.Join(d.dir, "admin.pem"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	wait(t, "the bad one is told of", func() bool {
		if s := shown(); s != second {
			t.Fatalf("another one is shown: %s", s)
		}
		return strings.Contains(d.log.String(), "certificate not taken")
	})
	own := t.TempDir()
	d.ca.write(t, own, "relay.example.com")
	d.change(t, func(c *config.Config) {
		c.Admin.Certificate = config.KeyPair{File: filepath.Join(own, "relay.example.com.pem"), KeyFile: filepath.Join(own, "relay.example.com-key.pem")}
	})
	if s := shown(); s == second {
		t.Error("that of the pki is shown")
	}
	if _, err := adminv1.NewAccessServiceClient(d.dial(t, "", d.ca.person(t, "alice"))).GetAccess(t.Context(), &adminv1.GetAccessRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("under the name of another: %v", err)
	}
	// Without a pki there are tokens alone.
	d.change(t, func(c *config.Config) { c.PKI = nil })
	c := d.browser(d.ca.person(t, "alice"))
	c.Transport.(*http.Transport).TLSClientConfig.ServerName = "relay.example.com"
	if resp, body := d.ask(t, c, http.MethodPost, queuePath+"ListMessages", "", map[string]string{"Authorization": ""}); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a certificate without a pki: %s %s", resp.Status, body)
	}
	if resp, body := d.ask(t, c, http.MethodPost, queuePath+"ListMessages", "", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("a token: %s %s", resp.Status, body)
	}
}

// TLS 1.3 or nothing.
func TestPortIsTLS(t *testing.T) {
	t.Parallel()
	d := open(t)
	conf := d.tls()
	conf.MaxVersion = tls.VersionTLS12
	if c, err := tls.Dial("tcp", d.server.Addr().String(), conf); err == nil {
		_ = c.Close()
		t.Error("TLS 1.2 was taken")
	}
	resp, err := http.Get("http://" + d.server.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("plaintext: %s", resp.Status)
	}
}

// Slow clients of one address do not keep others out, and cannot hold more than their part.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	l := limit(inner)
	accepted := make(chan net.Conn, 2*maxFromOne)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	var open []net.Conn
	for range maxFromOne {
		dial()
		open = append(open, <-accepted)
	}
	refused := dial()
	_ = refused.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := refused.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("one too many: %v", err)
	}
	stranger := netip.MustParsePrefix("192.0.2.1/32")
	if !l.take(stranger) {
		t.Error("another address finds no place")
	}
	_ = open[0].Close()
	_ = open[0].Close() // twice gives one back
	dial()
	<-accepted
	l.mu.Lock()
	n := l.open
	l.mu.Unlock()
	if n != maxFromOne+1 {
		t.Errorf("%d are open", n)
	}
	_ = inner.Close()
	for range accepted {
	}
}

// A process stops although somebody tails, at the port and at the socket.
func TestStopEndsTails(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"socket", "port"} {
		d := open(t)
		dir, err := os.MkdirTemp("", "sc")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		socket := filepath.Join(dir, SocketName)
		s, err := Listen(Options{Socket: socket, Services: d.owner.services(), Config: d.config.Load, Conn: d.nc, Logger: quietLog})
		if err != nil {
			t.Fatal(err)
		}
		d.server = s // dial goes there
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, time.Minute) }()
		conn := d.dial(t, "t-victor")
		if where == "socket" {
			conn = local(t, socket)
		}
		tail, err := adminv1.NewEventServiceClient(conn).TailEvents(t.Context(), &adminv1.TailEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		d.owner.tail <- &adminv1.TailEventsResponse{Id: "one"}
		if _, err := tail.Recv(); err != nil {
			t.Fatal(err)
		}
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", where, err)
			}
		case <-time.After(15 * time.Second):
			t.Errorf("%s: it still runs", where)
		}
	}
}
