package smtpd

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

func TestFirstMessage(t *testing.T) {
	r := newRig(t, nil)
	c := r.hello("mx")
	c.script(`
		C: MAIL FROM:<a@stranger.example> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=ab+2Bc
		S: 250 2.1.0
		C: RCPT TO:<user@example.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;u+40example.org
		S: 250 2.1.5
		C: DATA
		S: 354
		C: From: a@stranger.example
		C: Subject: x
		C:
		C: ..dot
		C: .
		S: 250 2.0.0 m1 accepted
		C: QUIT
		S: 221 2.0.0
		S: EOF`)
	all := r.intake.all()
	if len(all) != 1 {
		t.Fatalf("%d messages", len(all))
	}
	m := all[0]
	if m.body() != "From: a@stranger.example\r\nSubject: x\r\n\r\n.dot\r\n" {
		t.Errorf("body %q", m.body())
	}
	if !strings.HasPrefix(m.data, "Received: from client.example ([127.0.0.1])\r\n\tby relay.example.com (Stagecoach) with ESMTP\r\n\tid m1 (stagecoach "+r.policy.Token("m1")+")\r\n\tfor <user@example.com>;") {
		t.Errorf("Received field: %q", m.data)
	}
	e := m.env
	if e.Ret != "HDRS" || e.EnvID != "ab+c" || !e.EightBitMIME || e.Recipients[0].Notify != "FAILURE,DELAY" || e.Recipients[0].ORcpt != "rfc822;u@example.org" {
		t.Errorf("envelope %+v", e)
	}
	if e.Origin.Direction != "inbound" || e.Origin.Client != "127.0.0.1" || e.Origin.Listener != "mx" || e.Origin.Helo != "client.example" || e.Origin.Relay != "" {
		t.Errorf("origin %+v", e.Origin)
	}
	if got := m.starts["inbound"]; len(got) != 1 || got[0] != "r1" {
		t.Errorf("starts %v", m.starts)
	}
	log := r.log.String()
	if !strings.Contains(log, "msg=accepted listener=mx client=127.0.0.1 id=m1 from=a@stranger.example to=1 relay=\"\"") {
		t.Errorf("log: %s", log)
	}
}

// dialogues are played each against a server of its own; want is what was accepted.
var dialogues = []struct {
	name, on, script string
	want             int
	aborted          int
}{
	{name: "ehlo", on: "mx", script: `
		C: EHLO x
		S: /^250-relay.example.com\n250-PIPELINING\n250-8BITMIME\n250-ENHANCEDSTATUSCODES\n250-DSN\n250-SIZE 1000000\n250-LIMITS RCPTMAX=5\n250 STARTTLS$/`},
	{name: "helo", on: "mx", script: `
		C: HELO x
		S: /^250 relay.example.com$/
		C: HELO
		S: 501 5.5.4`},
	{name: "sequence", on: "mx", script: `
		C: RCPT TO:<user@example.com>
		S: 503 5.5.1
		C: DATA
		S: 503 5.5.1
		C: MAIL FROM:<a@b.example>
		S: 250
		C: DATA
		S: 554 5.5.1
		C: MAIL FROM:<other@b.example>
		S: 503 5.5.1
		C: RCPT TO:<user@example.com>
		S: 250
		C: RSET
		S: 250
		C: RCPT TO:<user@example.com>
		S: 503 5.5.1
		C: DATA
		S: 503 5.5.1`},
	{name: "ehlo resets", on: "mx", script: `
		C: MAIL FROM:<a@b.example>
		S: 250
		C: EHLO again
		S: 250
		C: RCPT TO:<user@example.com>
		S: 503`},
	{name: "malformed commands", on: "mx", script: `
		R: NOOP \0\r\n
		S: 500 5.5.2
		R: NO\rOP\r\n
		S: 500 5.5.2
		R: NOOP \t\r\n
		S: 500 5.5.2
		C: MAIL FROM:<ü@b.example>
		S: 500 5.5.2
		C:
		S: 500 5.5.2
		C: WHATEVER
		S: 500 5.5.2
		C: ETRN example.com
		S: 502 5.5.1
		C: VRFY user
		S: 252
		C: HELP
		S: 214
		C: NOOP
		S: 250`},
	{name: "bare LF in a command cuts", on: "mx", script: `
		R: MAIL FROM:<a@b.example>\nRCPT TO:<user@example.com>\r\n
		S: 500 5.5.2
		S: EOF`},
	{name: "long command cuts", on: "mx", script: "C: NOOP " + strings.Repeat("x", 5000) + `
		S: 500 5.5.2 line too long
		S: EOF`},
	{name: "another protocol cuts", on: "mx", script: `
		C: POST / HTTP/1.1
		S: 421 4.7.0
		S: EOF`},
	{name: "bdat is not offered and cuts", on: "mx", script: `
		C: MAIL FROM:<a@b.example>
		S: 250
		C: RCPT TO:<user@example.com>
		S: 250
		R: BDAT 20 LAST\r\nRSET\r\nNOOP\r\nNOOP\r\n
		S: 502 5.5.1
		S: EOF`},
	{name: "paths", on: "mx", script: `
		C: MAIL FROM:a@b.example
		S: 501 5.5.2
		C: MAIL FROM:<a@b.example
		S: 501 5.5.2
		C: MAIL FROM:<a@b.example>x
		S: 501 5.5.2
		C: MAIL FROM:<a@b@c.example>
		S: 501 5.1.7
		C: MAIL FROM:<a b@c.example>
		S: 501 5.1.7
		C: MAIL FROM:<postmaster>
		S: 501 5.1.7
		C: MAIL FROM:<@relay.example:a@b.example>
		S: 250
		C: RCPT TO:<>
		S: 501 5.1.3
		C: RCPT TO:<user@example.com.>
		S: 501 5.1.3`},
	{name: "parameters", on: "mx", script: `
		C: MAIL FROM:<a@b.example> SIZE=2000000
		S: 552 5.3.4
		C: MAIL FROM:<a@b.example> SIZE=99999999999999999999
		S: 552 5.3.4
		C: MAIL FROM:<a@b.example> SIZE=-1
		S: 501 5.5.4
		C: MAIL FROM:<a@b.example> SIZE=1 SIZE=2
		S: 501 5.5.4
		C: MAIL FROM:<a@b.example> BODY=BINARYMIME
		S: 555 5.5.4
		C: MAIL FROM:<a@b.example> SMTPUTF8
		S: 555 5.5.4
		C: MAIL FROM:<a@b.example> REQUIRETLS
		S: 555 5.5.4
		C: MAIL FROM:<a@b.example> RET=ALL
		S: 501 5.5.4
		C: MAIL FROM:<a@b.example> ENVID=a+0D+0Ab
		S: 501 5.5.4
		C: MAIL FROM:<a@b.example> AUTH=<>
		S: 250
		C: RCPT TO:<user@example.com> NOTIFY=NEVER,DELAY
		S: 501 5.5.4
		C: RCPT TO:<user@example.com> ORCPT=user
		S: 501 5.5.4
		C: RCPT TO:<user@example.com> X=1
		S: 555 5.5.4`},
	{name: "relaying denied", on: "mx", script: `
		C: MAIL FROM:<user@example.com>
		S: 250
		C: RCPT TO:<victim@elsewhere.example>
		S: 550 5.7.1
		C: RCPT TO:<victim%elsewhere.example@example.com>
		S: 550 5.7.1
		C: RCPT TO:<victim%elsewhere.example@any.example>
		S: 550 5.7.1
		C: RCPT TO:<@example.com:victim@elsewhere.example>
		S: 550 5.7.1
		C: RCPT TO:<@example.com,@x.example:user@example.com>
		S: 550 5.7.1
		C: RCPT TO:<elsewhere.example!victim@any.example>
		S: 550 5.7.1
		C: RCPT TO:<"victim@elsewhere.example"@any.example>
		S: 550 5.7.1
		C: RCPT TO:<"victim@elsewhere.example">
		S: 501
		C: RCPT TO:<victim@elsewhere.example@example.com>
		S: 501
		C: RCPT TO:<user@[127.0.0.1]>
		S: 550 5.7.1
		C: RCPT TO:<user@[IPv6:::1]>
		S: 550 5.7.1
		C: RCPT TO:<"x> NOTIFY=NEVER <y"@elsewhere.example>
		S: 550 5.7.1
		C: RCPT TO:<nobody@example.com>
		S: 550 5.1.1
		C: RCPT TO:<USER@EXAMPLE.COM>
		S: 250
		C: RCPT TO:<anything@any.example>
		S: 250
		C: RCPT TO:<odd%name@example.com>
		S: 250`},
	{name: "still denied after reset, failed auth and bad TLS", on: "submission", script: `
		C: AUTH PLAIN AGFsaWNlAHdyb25n
		S: 538 5.7.11
		C: MAIL FROM:<user@example.com>
		S: 530 5.7.0
		C: RSET
		S: 250
		C: MAIL FROM:<user@example.com>
		S: 530 5.7.0
		C: RCPT TO:<victim@elsewhere.example>
		S: 503`},
	{name: "postmaster", on: "mx", want: 1, script: `
		C: MAIL FROM:<>
		S: 250
		C: RCPT TO:<postmaster>
		S: 250
		C: RCPT TO:<Postmaster@any.example>
		S: 250
		C: RCPT TO:<abuse@example.com>
		S: 250
		C: DATA
		S: 354
		C: .
		S: 250 2.0.0 m1`},
	{name: "another inline prefix needs another transaction", on: "mx", script: `
		C: MAIL FROM:<a@b.example>
		S: 250
		C: RCPT TO:<user@example.com>
		S: 250
		C: RCPT TO:<info@example.com>
		S: 452 4.5.3
		C: RCPT TO:<other@example.com>
		S: 250`},
	{name: "too many recipients", on: "inside", script: `
		C: MAIL FROM:<a@b.example>
		S: 250
		C: RCPT TO:<1@x.example>
		S: 250
		C: RCPT TO:<2@x.example>
		S: 250
		C: RCPT TO:<3@x.example>
		S: 250
		C: RCPT TO:<4@x.example>
		S: 250
		C: RCPT TO:<5@x.example>
		S: 250
		C: RCPT TO:<6@x.example>
		S: 452 4.5.3
		C: RCPT TO:<5@X.example>
		S: 250`},
	{name: "pipelining", on: "mx", want: 2, script: `
		R: MAIL FROM:<a@b.example>\r\nRCPT TO:<user@example.com>\r\nRCPT TO:<nobody@example.com>\r\nDATA\r\n
		S: 250 2.1.0
		S: 250 2.1.5
		S: 550 5.1.1
		S: 354
		R: x: y\r\n\r\nz\r\n.\r\nMAIL FROM:<c@d.example>\r\nRCPT TO:<user@example.com>\r\nDATA\r\n
		S: 250 2.0.0
		S: 250
		S: 250
		S: 354
		R: .\r\nQUIT\r\n
		S: 250 2.0.0
		S: 221`},
	{name: "a message behind a refused DATA is no commands", on: "mx", script: `
		R: MAIL FROM:<a@b.example>\r\nDATA\r\nMAIL FROM:<evil@b.example>\r\nRCPT TO:<user@example.com>\r\n.\r\n
		S: 250
		S: 554 5.5.1
		S: EOF`},
	{name: "too many errors", on: "mx", script: strings.Repeat("C: XXXX\nS: 500\n", 19) + `
		C: XXXX
		S: 500
		S: 421 4.7.0
		S: EOF`},
	{name: "message too large", on: "mx", aborted: 1, script: `
		C: MAIL FROM:<a@b.example> SIZE=10
		S: 250
		C: RCPT TO:<user@example.com>
		S: 250
		C: DATA
		S: 354
		R: x: y\r\n\r\n` + strings.Repeat(strings.Repeat("x", 70)+`\r\n`, 1000) + `.\r\n
		S: 552 5.3.4
		C: RCPT TO:<user@example.com>
		S: 503
		C: NOOP
		S: 250`},
	{name: "endless header", on: "inside", aborted: 1, script: `
		C: MAIL FROM:<a@b.example>
		S: 250
		C: RCPT TO:<user@x.example>
		S: 250
		C: DATA
		S: 354
		R: ` + strings.Repeat("x: "+strings.Repeat("y", 900)+`\r\n`, 1200) + `\r\n.\r\n
		S: 552 5.3.4
		C: NOOP
		S: 250`},
	{name: "unfinished message", on: "mx", aborted: 1, script: `
		C: MAIL FROM:<a@b.example>
		S: 250
		C: RCPT TO:<user@example.com>
		S: 250
		C: DATA
		S: 354
		C: x`},
	{name: "source route of an insider is dropped", on: "inside", want: 1, script: `
		C: MAIL FROM:<a@b.example>
		S: 250
		C: RCPT TO:<@hop.example:user@x.example>
		S: 250
		C: DATA
		S: 354
		C: .
		S: 250`},
}

func TestDialogues(t *testing.T) {
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			r := newRig(t, func(c *config.Config, o *Options) {
				if d.name == "endless header" {
					c.Ingress.Limits.MessageSize = 50e6
				}
				c.Ingress.UsersFile = usersFile(t)
			})
			c := r.hello(d.on)
			c.script(d.script)
			_ = c.c.Close()
			r.quiet()
			if got := len(r.intake.all()); got != d.want {
				t.Errorf("%d messages accepted, want %d", got, d.want)
			}
			if r.intake.aborted != d.aborted {
				t.Errorf("%d aborted, want %d", r.intake.aborted, d.aborted)
			}
		})
	}
}

// quiet waits until all connections have ended.
func (r *rig) quiet() {
	r.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for r.server.Connections() > 0 {
		if time.Now().After(deadline) {
			r.t.Fatal("connections do not end")
		}
		runtime.Gosched()
	}
}

func TestBeforeEHLO(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial("mx")
	c.script(`
		S: 220 relay.example.com ESMTP
		C: MAIL FROM:<a@b.example>
		S: 503 5.5.1
		C: RCPT TO:<user@example.com>
		S: 503 5.5.1
		C: DATA
		S: 503 5.5.1
		C: AUTH PLAIN
		S: 503 5.5.1
		C: RSET
		S: 250
		C: QUIT x
		S: 501
		C: QUIT
		S: 221`)
}

// TestEndOfData: only CRLF "." CRLF ends data. Every other form is part of one message, or that message is refused;
// in no case does what follows become a command.
func TestEndOfData(t *testing.T) {
	const smuggled = `MAIL FROM:<admin@example.com>\r\nRCPT TO:<user@example.com>\r\nDATA\r\nx: smuggled\r\n`
	for _, form := range []string{
		`\n.\n`, `\n.\r\n`, `\r\n.\n`, `\r.\r`, `\r\n.\r`, `\r.\r\n`, `\r\r\n.\r\n`, `\r\n\0.\r\n`, `\r\n.\0\r\n`,
		`\n\n.\r\n`, `\r\n.\r\r\n`, `\n.\r`, `\r.\n`, `\r\n.\n\r\n`, `\n\r\n.\r\n`, `\r\n.\rX\n`,
	} {
		t.Run(form, func(t *testing.T) {
			r := newRig(t, nil)
			c := r.hello("mx")
			c.script(`
				C: MAIL FROM:<a@b.example>
				S: 250
				C: RCPT TO:<user@example.com>
				S: 250
				C: DATA
				S: 354`)
			c.send(unescape(t, `x: y\r\n\r\nbody`+form))
			cr := strings.Contains(strings.ReplaceAll(form, `\r\n`, ``), `\r`)
			switch {
			case cr:
				// Whoever passed it on may see no end where we see one: nothing behind it is a command.
				c.send(unescape(t, smuggled+`\r\n.\r\n`))
				c.script("S: 554 5.6.0", "S: EOF")
			case strings.HasSuffix(form, `\r\n.\r\n`):
				// The true end of a refused message: the client goes on as after any refusal.
				c.script("S: 554 5.6.0", "C: NOOP", "S: 250 2.0.0")
			default:
				c.send(unescape(t, smuggled+`\r\n.\r\n`))
				c.script("S: 554 5.6.0", "C: NOOP", "S: 250 2.0.0", "C: QUIT", "S: 221", "S: EOF")
			}
			if len(r.intake.all()) != 0 {
				t.Errorf("accepted %+v", r.intake.all())
			}
		})
	}
	for _, form := range []string{`\r\n..\r\n`, `\r\n.X\r\n`, `\r\n. \r\n`, `.\r\n`, ` \r\n.. \r\n`} {
		t.Run("one message: "+form, func(t *testing.T) {
			r := newRig(t, nil)
			c := r.hello("mx")
			c.script(`
				C: MAIL FROM:<a@b.example>
				S: 250
				C: RCPT TO:<user@example.com>
				S: 250
				C: DATA
				S: 354`)
			c.send(unescape(t, `x: y\r\n\r\nbody`+form+smuggled+`.\r\n`))
			c.expect("250 2.0.0")
			c.script("C: NOOP", "S: 250 2.0.0")
			all := r.intake.all()
			if len(all) != 1 || !strings.Contains(all[0].data, "DATA\r\n") {
				t.Errorf("accepted %+v", all)
			}
		})
	}
}

// TestBytes: what SMTP can carry arrives byte for byte.
func TestBytes(t *testing.T) {
	long := strings.Repeat("abcdefgh", 100000)
	for name, body := range map[string]string{
		"empty":           "",
		"no header":       "just text\r\n",
		"eight bits":      "x: \xff\xfe\r\n\r\n\x80\x01\x1a\x7f\t\r\n",
		"long line":       "x: y\r\n\r\n" + long + "\r\n",
		"dots":            "x: y\r\n\r\n.\r\n..\r\n...\r\n. .\r\n.x\r\n",
		"trailing spaces": "x: y \r\n\r\n \r\n\t\r\n",
		"from line":       "From a@b Tue Jan  1 00:00:00 2030\r\nx: y\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			c := r.hello("mx")
			c.script(`
				C: MAIL FROM:<a@b.example>
				S: 250
				C: RCPT TO:<user@example.com>
				S: 250
				C: DATA
				S: 354`)
			stuffed := strings.ReplaceAll("\r\n"+body, "\r\n.", "\r\n..")[2:]
			c.send(stuffed + ".\r\n")
			c.expect("250 2.0.0")
			if got := r.intake.all()[0].body(); got != body {
				t.Errorf("got %.80q (%d), want %.80q (%d)", got, len(got), body, len(body))
			}
		})
	}
}
