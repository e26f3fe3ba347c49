package guard

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// wire is a network connection that gives its input in pieces and then ends.
type wire struct {
	in    []byte
	piece int
	out   bytes.Buffer
	sent  int // writes
}

func (w *wire) Read(p []byte) (int, error) {
	if len(w.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, w.in[:min(w.piece, len(w.in))])
	w.in = w.in[n:]
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	w.sent++
	return w.out.Write(p)
}
func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (w *wire) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// passing lets everything through.
type passing struct{ closed int }

func (*passing) Command(c Command) Action {
	if c.Arg == "" {
		return Pass(c.Verb)
	}
	return Pass(c.Verb + " " + c.Arg)
}
func (*passing) Extensions() []string { return []string{"PIPELINING"} }
func (*passing) Secured()             {}
func (p *passing) Closed()            { p.closed++ }

// library is the least that stands for go-smtp: it answers, and checks what it is given.
func library(c *Conn) (lines []string, bodies []string, err error) {
	say := func(s string) { _, _ = io.WriteString(c, s+"\r\n") }
	say("220 library ready")
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err == io.EOF && line == "" {
			return lines, bodies, c.Close()
		}
		if err != nil || !strings.HasSuffix(line, "\r\n") {
			return lines, bodies, fmt.Errorf("half a line %q: %w", line, err)
		}
		line = strings.TrimSuffix(line, "\r\n")
		for _, b := range []byte(line) {
			if b < ' ' || b > '~' {
				return lines, bodies, fmt.Errorf("line %q", line)
			}
		}
		if r.Buffered() > 0 {
			return lines, bodies, fmt.Errorf("more than a line at once after %q", line)
		}
		lines = append(lines, line)
		switch verb, _, _ := strings.Cut(line, " "); verb {
		case "QUIT":
			say("221 bye")
			return lines, bodies, c.Close()
		case "AUTH":
			say("334 ")
			if _, err := r.ReadString('\n'); err == nil {
				say("535 5.7.8 no")
			}
		case "DATA":
			say("354 go")
			body, err := io.ReadAll(c.Body())
			if err == nil {
				bodies = append(bodies, string(body))
			} else if _, ok := mail.AsReply(err); !ok && c.err == nil {
				return lines, bodies, fmt.Errorf("body: %w", err)
			}
			if end, err := r.ReadString('\n'); err == nil && end != ".\r\n" {
				return lines, bodies, fmt.Errorf("the library reads %q for its end of data", end)
			}
			say("250 2.0.0 done")
		default:
			say("250 2.0.0 ok")
		}
	}
}

// checkConn plays input and checks what holds whatever a client sends.
func checkConn(t *testing.T, input []byte, piece int) (lines, bodies []string, out string) {
	t.Helper()
	w := &wire{in: input, piece: piece}
	h := &passing{}
	c := New(w, Options{Hostname: "relay.example", Limits: Limits{DataLine: 500}})
	c.Handle(h)
	lines, bodies, err := library(c)
	if err != nil {
		t.Fatalf("%q: %v", input, err)
	}
	if h.closed != 1 {
		t.Fatalf("Closed was called %d times", h.closed)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("a read after the end: %v", err)
	}
	for _, b := range bodies {
		plain := strings.ReplaceAll(b, "\r\n", "")
		if strings.ContainsAny(plain, "\r\n\x00") || (b != "" && !strings.HasSuffix(b, "\r\n")) {
			t.Fatalf("%q: body %q", input, b)
		}
	}
	out = w.out.String()
	for l := range strings.SplitSeq(strings.TrimSuffix(out, "\r\n"), "\r\n") {
		if len(l) < 4 || l[0] < '2' || l[0] > '5' || (l[3] != ' ' && l[3] != '-') || strings.ContainsAny(l, "\r\n") {
			t.Fatalf("%q: reply %q", input, l)
		}
	}
	return lines, bodies, out
}

func FuzzConn(f *testing.F) {
	for _, s := range []string{
		"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n",
		"EHLO x\r\nDATA\r\nx\n.\nRSET\r\n.\r\nNOOP\r\n", "EHLO x\r\nAUTH LOGIN\r\n!\x00\r\nNOOP\r\n",
		"BDAT 3\r\nabc", "NOOP\nNOOP\r\n", "STARTTLS\r\nEHLO x\r\n", "\r\n\r\n", "GET / HTTP/1.1\r\n",
	} {
		f.Add([]byte(s), uint8(7))
	}
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) { checkConn(t, data, 1+int(piece)) })
}

// TestPieces: a dialogue does not depend on how the network cuts it.
func TestPieces(t *testing.T) {
	in := "EHLO x\r\nMAIL FROM:<>\r\nDATA\r\n..a\r\nb\r\n.\r\nBOGUS\r\nDATA\r\nc\r\n.\r\nQUIT\r\n"
	_, wantBodies, want := checkConn(t, []byte(in), len(in))
	if len(wantBodies) != 2 || wantBodies[0] != ".a\r\nb\r\n" {
		t.Fatalf("bodies %q", wantBodies)
	}
	for piece := 1; piece < len(in); piece++ {
		if _, bodies, out := checkConn(t, []byte(in), piece); out != want || strings.Join(bodies, "|") != strings.Join(wantBodies, "|") {
			t.Fatalf("in pieces of %d: %q, bodies %q", piece, out, bodies)
		}
	}
}

// TestRepliesAreCoalesced: what was pipelined is answered in one write.
func TestRepliesAreCoalesced(t *testing.T) {
	w := &wire{in: []byte("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\nNOOP\r\nQUIT\r\n"), piece: 1000}
	c := New(w, Options{Hostname: "relay.example"})
	c.Handle(&passing{})
	if _, _, err := library(c); err != nil {
		t.Fatal(err)
	}
	if w.sent != 2 { // the greeting, and all the rest
		t.Errorf("%d writes for %q", w.sent, w.out.String())
	}
}

func TestReplyInjection(t *testing.T) {
	w := &wire{}
	c := New(w, Options{})
	c.say(&mail.Reply{Code: 550, Enhanced: "5.0.0", Text: "a\r\x00b\n250 ok\xff" + strings.Repeat("x", 1000)})
	c.flush()
	for i, l := range strings.Split(strings.TrimSuffix(w.out.String(), "\r\n"), "\r\n") {
		if !strings.HasPrefix(l, []string{"550-5.0.0 a??b", "550 5.0.0 250 ok?"}[i]) || len(l) > 512 {
			t.Errorf("line %q", l)
		}
	}
}
