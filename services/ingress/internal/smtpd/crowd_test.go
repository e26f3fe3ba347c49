package smtpd

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/guard"
)

func crowded(limit int, patience time.Duration) func(*config.Config, *Options) {
	return func(c *config.Config, o *Options) { c.Ingress.Limits.Connections, o.patience = limit, patience }
}

// TestSlowClients: when slow clients hold every connection, a new one is served all the same, and soon.
func TestSlowClients(t *testing.T) {
	const limit = 100
	r := newRig(t, crowded(limit, 100*time.Millisecond))
	var slow []net.Conn
	for i := range limit {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%20))}}
		nc, err := d.Dial("tcp", r.addrs["mx"])
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = nc.Close() }()
		_, _ = nc.Write([]byte("EH")) // and no more
		slow = append(slow, nc)
	}
	begun := time.Now()
	for {
		c := r.dial("mx")
		if strings.HasPrefix(c.line(), "220") {
			c.script("C: EHLO x", "S: 250", toData, "S: 354", "C: .", "S: 250")
			break
		}
		if time.Since(begun) > 2*time.Second {
			t.Fatal("a new client is not served within 2 s")
		}
	}
	if n := r.server.Connections(); n > limit {
		t.Errorf("%d connections", n)
	}
	// The company's own are served at once: a share is theirs.
	c := r.dial("inside")
	c.expect("220")
	if len(slow) != limit {
		t.Errorf("%d slow clients", len(slow))
	}
}

// TestSlowHandshakes: clients that do not come to the point in TLS are slow clients too.
func TestSlowHandshakes(t *testing.T) {
	r := newRig(t, crowded(10, 20*time.Millisecond))
	for range 4 {
		r.dial("submissions")
	}
	begun := time.Now()
	for {
		c := r.dial("mx")
		if strings.HasPrefix(c.line(), "220") {
			return
		}
		if time.Since(begun) > 2*time.Second {
			t.Fatal("a new client is not served within 2 s")
		}
	}
}

// TestSilentSendersHoldNoRoom: who reserves room for a message and sends nothing, or stops in the middle, gives it up
// to the next who needs it.
func TestSilentSendersHoldNoRoom(t *testing.T) {
	r := newRig(t, limited(guard.Limits{Stall: 50 * time.Millisecond}))
	r.intake.room = 3
	for _, part := range []string{"", "x: y\r\n", strings.Repeat("x", 100_000)} {
		c := r.hello("mx")
		c.script(toData, "S: 354")
		c.send(part)
	}
	begun := time.Now()
	c := r.hello("mx")
	for range 3 {
		for {
			c.script(toData)
			if strings.HasPrefix(c.line(), "354") {
				c.script("C: x: y", "C: .", "S: 250")
				break
			}
			if time.Since(begun) > 2*time.Second {
				t.Fatal("silent clients keep a new one's message out")
			}
		}
	}
	// The company's own clients are left in peace.
	begun = time.Now()
	for range 3 {
		own := r.hello("inside")
		for own.script(toData); !strings.HasPrefix(own.line(), "354"); own.script(toData) {
			if time.Since(begun) > 2*time.Second {
				t.Fatal("silent clients keep the company's own out")
			}
		}
	}
	for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		c.script(toData, "S: 452 4.3.1")
	}
}

// TestIdleMachinesOfOurOwn: connections that one of the company's own machines has forgotten do not keep it out.
func TestIdleMachinesOfOurOwn(t *testing.T) {
	r := newRig(t, crowded(5, 5*time.Millisecond))
	for range 5 {
		r.dial("inside").expect("220")
	}
	r.dial("mx").expect("421 4.3.2") // for a stranger they do not move
	begun := time.Now()
	for !strings.HasPrefix(r.dial("inside").line(), "220") {
		if time.Since(begun) > 2*time.Second {
			t.Fatal("not served within 2 s")
		}
	}
	if took := time.Since(begun); took < 50*time.Millisecond {
		t.Errorf("they were cut after %v", took)
	}
}

func TestTooManyConnections(t *testing.T) {
	r := newRig(t, crowded(10, time.Hour))
	var all []*client
	refused := 0
	for range 8 {
		c := r.dial("mx")
		if l := c.line(); strings.HasPrefix(l, "421 4.3.2") {
			refused++
		}
		all = append(all, c)
	}
	if refused != 4 {
		t.Errorf("%d of 8 refused, want 4: one stranger has half of 8", refused)
	}
	for _, c := range all {
		_ = c.c.Close()
	}
	r.quiet()
	c := r.dial("mx")
	c.expect("220")
	if !strings.Contains(r.log.String(), "connection refused") {
		t.Error("the log is silent")
	}
}

func limited(l guard.Limits) func(*config.Config, *Options) {
	return func(_ *config.Config, o *Options) { o.Limits = l }
}

func TestTimeouts(t *testing.T) {
	t.Run("command", func(t *testing.T) {
		r := newRig(t, limited(guard.Limits{Command: 30 * time.Millisecond}))
		c := r.hello("mx")
		c.script("R: NOO", "S: 421 4.4.2", "S: EOF")
	})
	// What comes after a timeout in DATA is not parsed as commands.
	t.Run("data", func(t *testing.T) {
		r := newRig(t, limited(guard.Limits{Data: 30 * time.Millisecond}))
		c := r.hello("mx")
		c.script(toData, "S: 354", "C: x: y", "S: 421 4.4.2")
		_, _ = c.c.Write([]byte("MAIL FROM:<evil@b.example>\r\n"))
		c.script("S: EOF")
		r.quiet()
		if r.intake.aborted != 1 {
			t.Errorf("%d aborted", r.intake.aborted)
		}
	})
	// Progress is what counts: a message may take longer than the time between two octets of it.
	t.Run("progress", func(t *testing.T) {
		r := newRig(t, limited(guard.Limits{Data: 60 * time.Millisecond}))
		c := r.hello("mx")
		c.script(toData, "S: 354")
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range 8 {
			<-tick.C
			c.send("x: y\r\n")
		}
		c.script("C: .", "S: 250")
	})
	t.Run("trickle", func(t *testing.T) {
		r := newRig(t, limited(guard.Limits{Grace: 50 * time.Millisecond, Rate: 1e6}))
		c := r.hello("mx")
		c.script(toData, "S: 354")
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		stop := time.After(5 * time.Second)
		for cut := false; !cut; {
			select {
			case <-tick.C:
				_, err := c.c.Write([]byte("x"))
				cut = err != nil
			case <-stop:
				t.Fatal("a trickling client is not cut")
			}
		}
	})
	t.Run("handshake", func(t *testing.T) {
		r := newRig(t, limited(guard.Limits{Handshake: 30 * time.Millisecond}))
		c := r.dial("submissions")
		c.script("S: EOF")
	})
}

func TestManyRefusedRecipients(t *testing.T) {
	r := newRig(t, nil)
	c := r.hello("mx")
	c.script("C: MAIL FROM:<a@b.example>", "S: 250")
	for i := range refusals {
		c.script(fmt.Sprintf("C: RCPT TO:<guess%d@example.com>", i), "S: 550 5.1.1")
	}
	c.script("C: RCPT TO:<guess@example.com>", "S: 421 4.7.0", "S: EOF")
}

func TestTooManyCommands(t *testing.T) {
	r := newRig(t, limited(guard.Limits{Commands: 50}))
	c := r.hello("mx")
	for range 49 {
		c.script("C: NOOP", "S: 250")
	}
	c.script("C: NOOP", "S: 421 4.7.0", "S: EOF")
}

func TestRefusedMessageWithoutEnd(t *testing.T) {
	r := newRig(t, func(c *config.Config, o *Options) {
		c.Ingress.Limits.MessageSize = 1000
		o.Limits = guard.Limits{Discard: 10000}
	})
	c := r.hello("mx")
	c.script(toData, "S: 354")
	_, _ = c.c.Write([]byte(strings.Repeat("x", 100000))) // one endless line
	c.script("S: 552 5.3.4", "S: EOF")
}

// model is what a session must be doing, said in a few lines.
type model struct {
	hello, mail bool
	rcpts       int
	accepted    int
	then        string // the code of the reply that follows the 354
}

// TestRandomCommands plays random commands against the model: no command sequence gets a session out of step.
func TestRandomCommands(t *testing.T) {
	r := newRig(t, func(c *config.Config, o *Options) {
		c.Ingress.Limits.Recipients = 1000
		o.Limits = guard.Limits{Errors: 1 << 30, Commands: 1 << 30}
	})
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 1))
	want, commands := 0, 0
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		c := r.dial("mx")
		c.expect("220")
		m := model{}
		for range 200 {
			line, code := m.next(rnd)
			commands++
			c.send(line)
			if got := c.reply(); !strings.HasPrefix(got[strings.LastIndexByte(got, '\n')+1:], code) {
				t.Fatalf("seed %d: %q got %q, want %s (%+v)", seed, line, got, code, m)
			}
			if code == "354" {
				c.expect(m.then)
			}
		}
		want += m.accepted
		_ = c.c.Close()
	}
	r.quiet()
	if got := len(r.intake.all()); got != want {
		t.Errorf("seed %d: %d messages, want %d", seed, got, want)
	}
	t.Logf("%d commands, %d messages", commands, want)
}

// next makes a command and says the code of its reply.
func (m *model) next(rnd *rand.Rand) (line, code string) {
	sequence := func(ok bool, yes string) string {
		if ok {
			return yes
		}
		return "503"
	}
	switch rnd.IntN(14) {
	case 0:
		*m = model{hello: true, accepted: m.accepted}
		return "EHLO x\r\n", "250"
	case 1:
		return "EHLO\r\n", "501"
	case 2, 3, 4:
		code = sequence(m.hello && !m.mail, "250")
		if code == "250" {
			m.mail, m.rcpts = true, 0
		}
		return "mail from:<a@b.example>\r\n", code
	case 5, 6, 7:
		code = sequence(m.hello && m.mail, "250")
		if code == "250" {
			m.rcpts++
		}
		return fmt.Sprintf("RCPT TO:<u%d@any.example>\r\n", m.rcpts), code
	case 8:
		return "RCPT TO:<x@elsewhere.example>\r\n", sequence(m.hello && m.mail, "550")
	case 9:
		m.mail, m.rcpts = false, 0
		return "RSET\r\n", "250"
	case 10:
		return "NOOP\r\n", "250"
	case 11:
		return "FOO\r\n", "500"
	case 12:
		return "MAIL FROM:<a@b.example> X=y\r\n", sequence(m.hello && !m.mail, "555")
	}
	switch {
	case !m.hello || !m.mail:
		return "DATA\r\n", "503"
	case m.rcpts == 0:
		return "DATA\r\n", "554"
	}
	// The message is sent with the command, so that its answer is one step; the 354 comes first.
	m.mail, m.rcpts = false, 0
	return m.message(rnd)
}

func (m *model) message(rnd *rand.Rand) (string, string) {
	m.then = "250"
	if rnd.IntN(2) == 0 {
		m.then = "554"
		return "DATA\r\nx: y\r\n\r\nbad\nline\r\n.\r\n", "354"
	}
	m.accepted++
	return "DATA\r\nx: y\r\n\r\nRSET\r\n..\r\n.\r\n", "354"
}
