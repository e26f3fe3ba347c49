package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/stagecoachmail/stagecoach/test/bench/internal/corpus"
	"github.com/stagecoachmail/stagecoach/test/bench/internal/ledger"
	"github.com/stagecoachmail/stagecoach/test/rig"
)

// badRelay takes the place of the bare relay and does one thing wrong, to its fifth message.
func badRelay(args []string, how string) error {
	f := flag.NewFlagSet("bad", flag.ExitOnError)
	listen, smarthost := f.String("listen", "", ""), f.String("smarthost", "", "")
	for _, name := range []string{"dir", "domain", "selector", "key", "server-name", "ca", "user", "password-file"} {
		f.String(name, "", "")
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	b := &bad{how: how, smarthost: *smarthost}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &badSession{b}, nil }))
	s.Addr, s.Domain = *listen, "bad.example.com"
	return s.ListenAndServe()
}

type bad struct {
	how, smarthost string
	n              atomic.Int64
}

type badSession struct{ *bad }

func (badSession) Mail(string, *smtp.MailOptions) error { return nil }
func (badSession) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (badSession) Reset()                               {}
func (badSession) Logout() error                        { return nil }

func (b badSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	raw = append([]byte("DKIM-Signature: v=1; not a good one\r\n"), raw...)
	if b.n.Add(1) != 5 {
		return b.deliver(raw)
	}
	switch b.how {
	case "loses":
		return nil
	case "doubles":
		return errors.Join(b.deliver(raw), b.deliver(raw))
	case "refuses":
		return &smtp.SMTPError{Code: 554, Message: "not this one"}
	case "refuses and delivers":
		if err := b.deliver(raw); err != nil {
			return err
		}
		return &smtp.SMTPError{Code: 451, Message: "later"} // so it comes again
	case "does not sign":
		_, raw, _ = bytes.Cut(raw, []byte("\r\n"))
	case "cuts":
		raw = raw[:len(raw)/2]
	case "ends":
		os.Exit(1)
	}
	return b.deliver(raw)
}

func (b badSession) deliver(raw []byte) error {
	c, err := smtp.DialStartTLS(b.smarthost, &tls.Config{InsecureSkipVerify: true}) // a test's own sink
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Auth(sasl.NewPlainClient("", rig.SinkUser, rig.SinkPassword)); err != nil {
		return err
	}
	return c.SendMail("alice@example.com", []string{"bob@example.net"}, bytes.NewReader(raw))
}

// badBench is a bench whose bare relay does something wrong.
func badBench(t *testing.T, how string, c *corpus.Corpus) *bench {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), how) // tells the relay what to do
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Symlink(self, filepath.Join(dir, bareRelay))); err != nil {
		t.Fatal(err)
	}
	return &bench{programs: dir, corpora: map[string]*corpus.Corpus{"10k": c}, draining: 200 * time.Millisecond, log: t.Output()}
}

// A relay that loses, doubles, refuses, cuts or does not sign fails the bench.
func TestBadRelay(t *testing.T) {
	c, err := corpus.New("10k", seed, ledger.TokenSize)
	if err != nil {
		t.Fatal(err)
	}
	for how, want := range map[string]string{
		"loses":                "lost: accepted, and did not arrive",
		"doubles":              "arrived 2 times",
		"refuses":              "refused for good: 554 5.0.0 not this one",
		"refuses and delivers": "b00001x00000004: arrived",
		"does not sign":        "arrived unsigned",
		"cuts":                 "arrived with fewer bytes than were sent",
		"ends":                 "load: message ",
		"signs badly":          "message 1 at the sink: dkim: ",
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			b := badBench(t, how, c)
			_, err := b.run(t.Context(), scenario{Relay: bareRelay, Corpus: "10k", Sessions: 2, For: 300 * time.Millisecond})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q in it", err, want)
			}
		})
	}
}

// A scenario that failed fails the whole, and the others run nevertheless.
func TestFailureIsShown(t *testing.T) {
	c, err := corpus.New("10k", seed, ledger.TokenSize)
	if err != nil {
		t.Fatal(err)
	}
	bad := scenario{Relay: bareRelay, Corpus: "10k", Sessions: 2, For: 300 * time.Millisecond}
	good := bad
	good.Relay = sinkAlone
	results, err := badBench(t, "loses", c).all(t.Context(), []scenario{bad, good})
	if err == nil || !strings.Contains(err.Error(), "lost: ") {
		t.Errorf("error %v", err)
	}
	if len(results) != 2 || !strings.Contains(results[0].Error, "lost: ") || results[1].Error != "" || results[1].Messages == 0 {
		t.Fatalf("results %+v", results)
	}
	var out bytes.Buffer
	report{Results: results}.print(&out)
	if !strings.Contains(out.String(), "FAILED: bare 10k closed: ") || regexp.MustCompile(`10k +bare +\d`).MatchString(out.String()) {
		t.Errorf("printed\n%s", out.String())
	}
}
