package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// counting answers with counters that grow by the same each time: as many as a second has, at ten looks a second.
type counting struct {
	adminv1.UnimplementedStatisticsServiceServer
	mu    sync.Mutex
	looks uint64
	seen  chan struct{} // if not nil, gets a value at each look
}

func (c *counting) GetStatistics(context.Context, *adminv1.GetStatisticsRequest) (*adminv1.GetStatisticsResponse, error) {
	c.mu.Lock()
	c.looks++
	n := c.looks
	c.mu.Unlock()
	if c.seen != nil {
		select {
		case c.seen <- struct{}{}:
		default:
		}
	}
	latency := func(count uint64) *adminv1.Latency {
		return &adminv1.Latency{Count: count, Total: durationpb.New(time.Duration(count) * 20 * time.Millisecond), Buckets: []*adminv1.LatencyBucket{
			{Most: durationpb.New(10 * time.Millisecond), Count: count / 2}, {Most: durationpb.New(50 * time.Millisecond), Count: count - count/2}, {}}}
	}
	return &adminv1.GetStatisticsResponse{At: timestamppb.New(noon.Add(time.Duration(n) * time.Second)), Since: before(time.Hour), Accepted: 1000 + 12*n, AcceptedBytes: 5000 * n,
		RefusedForGood: 3 * n, RefusedForNow: n, Running: 7, Latency: latency(10 * n),
		Listeners: []*adminv1.ListenerStatistics{{Name: "mx", Open: 4, Sessions: 5 * n, FailedLogins: 2}},
		Chains:    []*adminv1.ChainStatistics{{Name: "outbound", Accepted: 12 * n, Delivered: 11 * n, Waits: n, Held: 3}},
		Stages: []*adminv1.StageStatistics{{Name: "antivirus", Continued: 10 * n, Quarantined: 2 * n, Latency: latency(12 * n)},
			{Name: "signer", Continued: 8 * n, Failed: 2 * n, Edited: 8 * n, Latency: latency(10 * n)}, {Name: "archive", Latency: latency(0)}},
		Routes: []*adminv1.RouteStatistics{{Name: "provider", Delivered: 11 * n, Deferred: n}}}, nil
}

func watched() *adminv1.GetStatusResponse {
	return &adminv1.GetStatusResponse{Hostname: "relay.example.com", Revision: "0123456789abcdef", Problems: []*adminv1.Problem{
		{Severity: adminv1.Severity_SEVERITY_CRITICAL, Text: "route exchange is down for 20 min; 9 messages wait: \x1b[31mconnection\u202e refused", Remedy: "start it"}},
		Rooms:    []*adminv1.Room{{Name: "park", Messages: 9, Recipients: 12, Bytes: 90000, Oldest: before(20 * time.Minute)}, {Name: "retry"}},
		Barriers: []*adminv1.Barrier{{Kind: "route", Name: "exchange", Waiting: 9}, {Kind: "hop", Name: "signer", Waiting: 2}, {Kind: "route", Name: "provider", By: "eve", Waiting: 1}}}
}

func newTopFake(t *testing.T) (*fake, *counting) {
	f := newFake(t)
	f.status = watched()
	return f, &f.counting
}

func TestTopOnce(t *testing.T) {
	t.Parallel()
	f, _ := newTopFake(t)
	p := &person{}
	if code := p.runs(t, "top", "--socket", f.socket, "--interval", "100ms"); code != ExitDone {
		t.Fatal(code, p.stderr)
	}
	golden(t, "top", p.stdout)
	if code := p.runs(t, "top", "--socket", f.socket, "--interval", "1ms"); code != ExitUsage {
		t.Error(code, p.stderr)
	}
}

// keptWriter keeps what is written, until it has so many lines; then it is told.
type keptWriter struct {
	mu    sync.Mutex
	text  bytes.Buffer
	lines int
	full  func()
}

func (w *keptWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(b)
	if strings.Count(w.text.String(), "\n") >= w.lines {
		w.full()
	}
	return len(b), nil
}

func TestTopJSON(t *testing.T) {
	t.Parallel()
	f, _ := newTopFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := newApp(Options{Getenv: func(string) string { return "" }})
	a.socket = f.socket
	conn, err := a.dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	out := &keptWriter{lines: 2, full: cancel}
	tp := &top{app: a, conn: conn, interval: topLeast, out: out}
	if err := tp.lines(ctx); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.text.String()) {
		var got topLine
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if got.Rates != (topRates{Accepted: 12, Bytes: 5000, Delivered: 11, Waited: 1, Refused: 4}) || got.Seconds != 1 {
			t.Errorf("%+v", got)
		}
		if strings.ContainsAny(line, "\x1b\u202e") {
			t.Error("not escaped:", line)
		}
	}
}

// pty is a terminal of so many rows and columns.
func pty(t *testing.T, rows, columns uint16) (user, side *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	side, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	size(t, user, rows, columns)
	return user, side
}

func size(t *testing.T, f *os.File, rows, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

// On a terminal it draws, follows a new size, ends at q, and leaves the terminal as it was.
func TestTopLive(t *testing.T) {
	t.Parallel()
	f, count := newTopFake(t)
	count.seen = make(chan struct{}, 1)
	user, side := pty(t, 8, 60)
	defer user.Close()
	was, err := term.GetState(int(side.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	var screen bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&screen, user)
	}()
	a := newApp(Options{Getenv: func(string) string { return "" }})
	a.socket = f.socket
	conn, err := a.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tp := &top{app: a, conn: conn, interval: topLeast, out: side, in: side}
	over := make(chan error, 1)
	go func() { over <- tp.live(t.Context()) }()
	for range 3 {
		<-count.seen
	}
	size(t, user, 40, 30)
	for range 3 {
		<-count.seen
	}
	if _, err := user.WriteString("xq"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-over:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("q does not end it")
	}
	now, err := term.GetState(int(side.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if *now != *was {
		t.Error("the terminal is not as it was")
	}
	side.Close()
	<-read
	text := screen.String()
	if !strings.HasPrefix(text, screenOn) || !strings.HasSuffix(text, screenOff) {
		t.Errorf("begins with %q, ends with %q", text[:min(20, len(text))], text[max(0, len(text)-20):])
	}
	frames := strings.Split(strings.TrimSuffix(text, screenOff), screenHome)
	if n := strings.Count(frames[1], "\r\n"); n != 7 {
		t.Errorf("%d lines on a terminal of 8:\n%s", n+1, frames[1])
	}
	last := frames[len(frames)-1]
	if n := strings.Count(last, "\r\n"); n < 20 {
		t.Errorf("%d lines after it grew to 40:\n%s", n+1, last)
	}
	if strings.Contains(last, "accepted 12.0/s   delivered 11.0/s   came to wait") {
		t.Error("a line is longer than 30 columns")
	}
	if !strings.Contains(last, "accepted 12.0/s") || strings.Contains(text, "\x1b[31mconnection") {
		t.Errorf("%q", last)
	}
}

func TestLatencyBetween(t *testing.T) {
	t.Parallel()
	latency := func(total time.Duration, counts ...uint64) *adminv1.Latency {
		l := &adminv1.Latency{Total: durationpb.New(total)}
		for i, n := range counts {
			b := &adminv1.LatencyBucket{Count: n}
			if i < len(counts)-1 {
				b.Most = durationpb.New(time.Duration(i+1) * 100 * time.Millisecond)
			}
			l.Buckets = append(l.Buckets, b)
			l.Count += n
		}
		return l
	}
	for _, c := range []struct {
		from, to  *adminv1.Latency
		mean, p95 time.Duration
		ok        bool
	}{
		{latency(0, 0, 0, 0), latency(0, 0, 0, 0), 0, 0, false},
		{nil, latency(time.Second, 10, 0, 0), 100 * time.Millisecond, 100 * time.Millisecond, true},
		{latency(time.Second, 10, 0, 0), latency(3*time.Second, 10, 20, 0), 100 * time.Millisecond, 195 * time.Millisecond, true},
		{latency(0, 0, 0, 0), latency(50*time.Second, 0, 0, 10), 5 * time.Second, 200 * time.Millisecond, true},                  // beyond the last bound
		{latency(9*time.Second, 90, 0, 0), latency(time.Second, 10, 0, 0), 100 * time.Millisecond, 100 * time.Millisecond, true}, // it began anew
	} {
		if mean, p95, ok := latencyBetween(c.from, c.to); mean != c.mean || p95.Round(time.Millisecond) != c.p95 || ok != c.ok {
			t.Errorf("%v %v: %v %v %v", c.from, c.to, mean, p95, ok)
		}
	}
}

// After a restart the rates are those since then, and never negative.
func TestSpanOfARestart(t *testing.T) {
	t.Parallel()
	from := &adminv1.GetStatisticsResponse{At: timestamppb.New(noon), Since: before(time.Hour), Accepted: 5000}
	to := &adminv1.GetStatisticsResponse{At: timestamppb.New(noon.Add(10 * time.Second)), Since: timestamppb.New(noon.Add(5 * time.Second)), Accepted: 50}
	if r := spanOf(from, to).rates(); r.Accepted != 10 {
		t.Error(r)
	}
}
