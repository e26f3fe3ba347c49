package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtptest"
)

func TestNoLeaveNoDot(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{})
	r := build(t, setup{route: smart(s)})
	got := &sink{ready: func(context.Context, []mail.RecipientID) error { return errRefusal }}
	r.Carry(t.Context(), parcel("m1", simple, "a@x.example", "b@x.example"), got)
	if f := got.want(t, chain.Refused, chain.Refused)[0]; f.Concern != chain.AboutRecipient || !strings.Contains(f.Reason, "fenced") {
		t.Error(describe(f))
	}
	if len(s.Messages()) != 0 || got.leaves() != 1 {
		t.Errorf("%d messages, %d questions", len(s.Messages()), got.leaves())
	}
	// Refused is no outcome: the next attempt is made, and delivers.
	r.carry(t, parcel("m1", simple, "a@x.example", "b@x.example")).want(t, chain.Delivered, chain.Delivered)
}

// A leave that has grown old, because we or the dispatcher stood still, is not used: it is asked for again.
func TestOldLeaveIsAskedForAgain(t *testing.T) {
	for name, c := range map[string]struct {
		pauses int // how many answers come after a pause
		asked  int
		kind   chain.FateKind
	}{"once": {1, 2, chain.Delivered}, "always": {9, 3, chain.Refused}, "never": {0, 1, chain.Delivered}} {
		t.Run(name, func(t *testing.T) {
			clock := newClock()
			s := smtptest.Start(t, smtptest.Config{})
			r := build(t, setup{route: smart(s), opts: func(o *Options) { o.Now = clock.Now }})
			n := 0
			got := &sink{ready: func(context.Context, []mail.RecipientID) error {
				if n++; n <= c.pauses {
					clock.pass(10 * time.Second)
				}
				return nil
			}}
			r.Carry(t.Context(), parcel("m1", simple, "a@x.example"), got)
			got.want(t, c.kind)
			if got.leaves() != c.asked || (len(s.Messages()) == 1) != (c.kind == chain.Delivered) {
				t.Errorf("%d questions, %d messages", got.leaves(), len(s.Messages()))
			}
		})
	}
}

// A dispatcher that does not answer holds nobody for ever.
func TestSilentDispatcher(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{})
	r := build(t, setup{route: smart(s), limits: func(l *limits) { l.leave = 20 * time.Millisecond }})
	got := &sink{ready: func(ctx context.Context, _ []mail.RecipientID) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	r.Carry(t.Context(), parcel("m1", simple, "a@x.example"), got)
	got.want(t, chain.Refused)
	if len(s.Messages()) != 0 || got.leaves() != 3 {
		t.Errorf("%d messages, %d questions", len(s.Messages()), got.leaves())
	}
}

// Leave is asked for near the end of a long body, not at its beginning.
func TestLeaveIsAskedNearTheEnd(t *testing.T) {
	const size = 8 << 20
	release := make(chan struct{})
	s := smtptest.Start(t, smtptest.Config{Forget: true, Script: func(c *smtptest.Conn, at, _ string) bool {
		if at != "DATA" {
			return false
		}
		c.Say("354 go on")
		<-release // nothing is read: the body cannot get far
		if c.ReadMessage() == nil {
			c.Accept()
			c.Say("250 2.0.0 ok")
		}
		return true
	}})
	r := build(t, setup{route: smart(s)})
	got := &sink{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Carry(context.Background(), parcel("m1", strings.Repeat(strings.Repeat("x", 62)+"\r\n", size/64), "a@x.example"), got)
	}()
	// The kernel's buffers take some of it; the rest cannot be sent, and so no leave be asked for.
	select {
	case <-done:
		t.Fatal("delivered to a host that does not read")
	case <-time.After(100 * time.Millisecond):
	}
	if got.leaves() != 0 {
		t.Error("asked too early")
	}
	close(release)
	<-done
	got.want(t, chain.Delivered)
	if got.leaves() != 1 {
		t.Errorf("%d questions", got.leaves())
	}
}

// Before the dot the end of the context aborts; nothing is delivered, and it may be tried again at once.
func TestCancelBeforeTheDot(t *testing.T) {
	for _, step := range []string{"CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "leave"} {
		t.Run(step, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
				if at == step {
					cancel()
					c.Stall()
				}
				return at == step
			}})
			got := &sink{ready: func(ctx context.Context, _ []mail.RecipientID) error {
				cancel()
				<-ctx.Done()
				return ctx.Err()
			}}
			build(t, setup{route: smart(s)}).Carry(ctx, parcel("m1", simple, "a@x.example"), got)
			got.want(t, chain.Refused)
			if len(s.Messages()) != 0 {
				t.Error("delivered")
			}
		})
	}
}

// A deadline that runs out while the host keeps us waiting is no refusal, which would be tried again at once.
func TestDeadlineBeforeTheDot(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
		if at == "RCPT" {
			c.Stall()
		}
		return at == "RCPT"
	}})
	got := &sink{}
	build(t, setup{route: smart(s)}).Carry(ctx, parcel("m1", simple, "a@x.example"), got)
	if f := got.want(t, chain.Deferred)[0]; f.Concern != chain.AboutRoute || !strings.Contains(f.Reason, "out of time") {
		t.Error(describe(f))
	}
}

// After it nothing does: the answer is awaited and reported.
func TestCancelAfterTheDot(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
		if at == "DOT" {
			cancel()
			// The host takes its time, and sees whether the client hangs up meanwhile.
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, err := c.Read(make([]byte, 1))
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("the client has gone: %v", err)
			}
			_ = c.SetReadDeadline(time.Time{})
		}
		return false
	}})
	got := &sink{}
	r := build(t, setup{route: smart(s)})
	r.Carry(ctx, parcel("m1", simple, "a@x.example"), got)
	got.want(t, chain.Delivered)
}

// The answer has its own deadline, not what is left of the body's.
func TestSlowAnswerAfterTheDot(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
		if at == "DOT" {
			_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			_, _ = c.Read(make([]byte, 1))
			_ = c.SetReadDeadline(time.Time{})
		}
		return false
	}})
	r := build(t, setup{route: smart(s), opts: func(o *Options) { o.Deadlines.Block = 200 * time.Millisecond }})
	r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Delivered)
}

// The answer to the dot never comes: an unknown outcome, after a deadline of its own.
func TestStallAfterTheDot(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
		if at == "DOT" {
			c.Accept()
			c.Stall()
		}
		return at == "DOT"
	}})
	r := build(t, setup{route: smart(s), opts: func(o *Options) { o.Deadlines.Dot = 30 * time.Millisecond }})
	got := r.carry(t, parcel("m1", simple, "a@x.example", "b@x.example"))
	got.want(t, chain.Unknown, chain.Unknown)
}

// The host stops reading in the middle of the body.
func TestStallInTheBody(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{Script: func(c *smtptest.Conn, at, _ string) bool {
		if at == "DATA" {
			c.Say("354 go on")
			<-t.Context().Done()
		}
		return at == "DATA"
	}})
	r := build(t, setup{route: smart(s), opts: func(o *Options) { o.Deadlines.Block = 50 * time.Millisecond }})
	got := r.carry(t, parcel("m1", strings.Repeat(strings.Repeat("x", 62)+"\r\n", 1<<18), "a@x.example"))
	if f := got.want(t, chain.Deferred)[0]; f.Concern != chain.AboutRoute {
		t.Error(describe(f))
	}
	if got.leaves() != 0 {
		t.Error("asked for leave")
	}
}

// unreadable is a message whose file fails in the middle.
type unreadable struct{ mail.Content }

var errDisk = errors.New("input/output error")

func (unreadable) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, "a: b\r\n")
	if err == nil {
		err = errDisk
	}
	return int64(n), err
}

func TestUnreadableMessage(t *testing.T) {
	s := smtptest.Start(t, smtptest.Config{})
	p := parcel("m1", simple, "a@x.example")
	p.Content = unreadable{p.Content}
	if f := build(t, setup{route: smart(s)}).carry(t, p).want(t, chain.Deferred)[0]; !strings.Contains(f.Reason, errDisk.Error()) {
		t.Error(describe(f))
	}
}

// Maildir, too, delivers nothing without leave.
func TestMaildirNeedsLeave(t *testing.T) {
	r := build(t, setup{route: config.Route{Maildir: &config.Maildir{Path: "box"}}})
	got := &sink{ready: func(context.Context, []mail.RecipientID) error { return errRefusal }}
	r.Carry(t.Context(), parcel("m1", simple, "a@x.example", "b@x.example"), got)
	got.want(t, chain.Refused, chain.Refused)
	if n := files(t, r.dir, "box/new") + files(t, r.dir, "box/tmp"); n != 0 {
		t.Errorf("%d files", n)
	}
}
