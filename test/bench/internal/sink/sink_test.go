package sink

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/smtp"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const tokenSize = 15

// collector is what arrived.
type collector struct {
	mu  sync.Mutex
	got []Arrival
}

func (c *collector) add(a Arrival) {
	c.mu.Lock()
	c.got = append(c.got, a)
	c.mu.Unlock()
}

func start(t *testing.T, o Options) (addr string, got *collector) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got = &collector{}
	o.TokenSize, o.Arrived = tokenSize, got.add
	s := Serve(l, o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), got
}

func message(n int, before string, size int) string {
	return fmt.Sprintf("%sMessage-ID: <bench-b00001x%08d@bench.example.com>\r\n\r\n%s\r\n", before, n, strings.Repeat("0123456789\r\n", size/12))
}

// Every message is counted once, under its token, whatever its size and however its bytes come in.
func TestCounts(t *testing.T) {
	addr, got := start(t, Options{})
	var wg sync.WaitGroup
	for client := range 4 {
		wg.Go(func() {
			c, err := smtp.Dial(addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			for i := range 25 {
				if err := send(c, message(client*25+i, "", i*i*400)); err != nil {
					t.Error(err)
				}
			}
			if err := c.Quit(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[string]int64{}
	for _, a := range got.got {
		if a.Signed || a.Raw != nil || a.At.IsZero() {
			t.Errorf("%s: signed %v, kept %d bytes, at %v", a.Token, a.Signed, len(a.Raw), a.At)
		}
		seen[a.Token] = a.Size
	}
	if len(got.got) != 100 || len(seen) != 100 {
		t.Errorf("%d arrivals of %d messages, want 100", len(got.got), len(seen))
	}
	for n := range 100 {
		if want := int64(len(message(n, "", (n%25)*(n%25)*400))); seen[fmt.Sprintf("b00001x%08d", n)] != want {
			t.Errorf("message %d: %d bytes, want %d", n, seen[fmt.Sprintf("b00001x%08d", n)], want)
		}
	}
}

func send(c *smtp.Client, raw string) error {
	if err := c.Mail("alice@example.com"); err != nil {
		return err
	}
	if err := c.Rcpt("bob@example.net"); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte(raw)); err != nil {
		return err
	}
	return w.Close()
}

func TestTokenAndSignature(t *testing.T) {
	addr, got := start(t, Options{Keep: 1})
	c, err := smtp.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, raw := range []string{
		message(1, "", 10),
		message(2, "DKIM-Signature: v=1\r\nReceived: from here\r\n", 10),
		message(3, strings.Repeat("Received: from here, by there\r\n", 200), 10),
		"Subject: none\r\n\r\nNo token.\r\n",
		"Subject: cut\r\nMessage-ID: <bench-b00\r\n",
	} {
		if err := send(c, raw); err != nil {
			t.Fatal(err)
		}
	}
	want := []struct {
		token  string
		signed bool
	}{{"b00001x00000001", false}, {"b00001x00000002", true}, {"b00001x00000003", false}, {"", false}, {"", false}}
	for i, w := range want {
		if a := got.got[i]; a.Token != w.token || a.Signed != w.signed {
			t.Errorf("message %d: %q, signed %v; want %v", i, a.Token, a.Signed, w)
		}
	}
	if string(got.got[0].Raw) != message(1, "", 10) || got.got[1].Raw != nil {
		t.Errorf("kept: %q, %q", got.got[0].Raw, got.got[1].Raw)
	}
}

// scripted is a connection whose client has said everything already; what is read comes through r.
type scripted struct {
	net.Conn
	r io.Reader
}

func (c scripted) Read(b []byte) (int, error) { return c.r.Read(b) }

// The final dot is found wherever it is cut, and nothing else is taken for it.
func TestFinalDot(t *testing.T) {
	for _, c := range []struct{ data, rest string }{
		{".\r\n", "QUIT\r\n"},
		{"a\r\n.\r\n", "QUIT\r\n"},
		{"a\r\n..\r\nb\n.\nc\r\n.d\r\n\r\n.\r\n", "QUIT\r\n"},
		{strings.Repeat("x", 64<<10) + "\r\n.\r\n", "MAIL FROM:<a@example.com>\r\n"},
		{strings.Repeat("x", 64<<10-3) + "\r\n.\r\n", "MAIL FROM:<a@example.com>\r\n"},
	} {
		client, server := net.Pipe() // for its deadlines
		defer client.Close()
		defer server.Close()
		for name, cut := range map[string]func(io.Reader) io.Reader{"at once": func(r io.Reader) io.Reader { return r }, "in halves": iotest.HalfReader, "byte by byte": iotest.OneByteReader} {
			x := newSession(&Sink{}, scripted{server, cut(strings.NewReader(c.data + c.rest))})
			var got []byte
			if err := x.toDot(func(b []byte) { got = append(got, b...) }); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if want := strings.TrimSuffix(c.data, ".\r\n"); string(got) != want {
				t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
			}
			if line, err := x.r.ReadString('\n'); err != nil || line != c.rest {
				t.Errorf("%s: then %q, %v", name, line, err)
			}
		}
	}
}

// With TLS and a login demanded, nothing goes without.
func TestTLSAndAuth(t *testing.T) {
	web := httptest.NewUnstartedServer(nil) // for its certificate, which is for example.com
	web.StartTLS()
	defer web.Close()
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	addr, got := start(t, Options{TLS: &tls.Config{Certificates: web.TLS.Certificates}, User: "u", Password: "p"})
	c, err := smtp.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	expect := func(what string, err error, want string) {
		t.Helper()
		if fmt.Sprint(err) != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
	expect("in the clear", c.Mail("alice@example.com"), `530 "5.7.0 STARTTLS first"`)
	expect("STARTTLS", c.StartTLS(&tls.Config{RootCAs: pool, ServerName: "example.com"}), "<nil>")
	expect("without a login", c.Mail("alice@example.com"), `530 "5.7.0 authentication required"`)
	expect("wrong password", c.Auth(smtp.PlainAuth("", "u", "q", "127.0.0.1")), `535 "5.7.8 authentication failed"`)
	c2, err := smtp.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	expect("STARTTLS", c2.StartTLS(&tls.Config{RootCAs: pool, ServerName: "example.com"}), "<nil>")
	expect("login", c2.Auth(smtp.PlainAuth("", "u", "p", "127.0.0.1")), "<nil>")
	expect("message", send(c2, message(1, "", 100)), "<nil>")
	if len(got.got) != 1 {
		t.Errorf("%d messages, want one", len(got.got))
	}
}
