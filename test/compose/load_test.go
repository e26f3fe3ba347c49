//go:build compose

package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// tokenField bears the name that the load gives to a message.
const tokenField = "X-Token: "

// outcome is what a client was told about a message.
type outcome int

const (
	accepted outcome = iota
	refused          // by a 4xx; or nothing was sent whole
	rejected         // by a 5xx: nobody may say that
	unknown          // the connection broke after the final dot
)

// load sends at a fixed rate, and keeps what it was told.
type load struct {
	in    *install
	ports []int
	quit  chan struct{}
	wg    sync.WaitGroup

	mu   sync.Mutex
	told map[string]told
	// infected are those with a virus: they may not arrive.
	infected map[string]bool
	// accepts are the times of all acceptances.
	accepts []time.Time
	bad     []string
}

// told is what a client heard, and when.
type told struct {
	outcome
	at time.Time
}

// startLoad begins to send so many messages a second over so many sessions, each to one of the ports.
func startLoad(t *testing.T, in *install, rate, sessions int, ports ...int) *load {
	l := &load{in: in, ports: ports, quit: make(chan struct{}), told: map[string]told{}, infected: map[string]bool{}}
	every := time.Duration(sessions) * time.Second / time.Duration(rate)
	for i := range sessions {
		l.wg.Go(func() { l.client(i, every) })
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	l.mu.Lock()
	select {
	case <-l.quit:
	default:
		close(l.quit)
	}
	l.mu.Unlock()
	l.wg.Wait()
}

// client sends a message each time, over a session that it opens anew when it has broken.
func (l *load) client(i int, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var s *session
	for n := 0; ; n++ {
		select {
		case <-l.quit:
			if s != nil {
				_ = s.c.Quit() // nothing is under way
				_ = s.conn.Close()
			}
			return
		case <-tick.C:
		}
		if s == nil {
			var err error
			if s, err = dial(l.ports[(i+n)%len(l.ports)], true); err != nil {
				s = nil
				continue
			}
		}
		token := fmt.Sprintf("t%d-%d-%d", time.Now().UnixNano()%1e9, i, n)
		raw := text("alice@example.com", "bob@example.net", "load "+token, loadBody)
		if n%infectedEach == infectedEach-1 {
			raw = alternative("load "+token, eicarPacked())
			l.mu.Lock()
			l.infected[token] = true
			l.mu.Unlock()
		}
		answered, err := s.send("alice@example.com", "bob@example.net", tokenField+token+"\r\n"+raw)
		l.note(token, answered, err)
		if err != nil {
			_ = s.conn.Close()
			s = nil
		}
	}
}

func (l *load) note(token string, answered bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	reply, isReply := errors.AsType[*textproto.Error](err)
	switch {
	case err == nil:
		l.told[token] = told{accepted, now}
		l.accepts = append(l.accepts, now)
	case isReply && reply.Code/100 == 5 && reply.Code != 502:
		l.told[token] = told{rejected, now}
		l.bad = append(l.bad, fmt.Sprintf("%s: %v", token, err))
	case answered:
		l.told[token] = told{refused, now}
	default:
		l.told[token] = told{unknown, now}
	}
}

// counts says how many ended how.
func (l *load) counts() (n [4]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.told {
		n[o.outcome]++
	}
	return n
}

// since gives the first acceptance after a time.
func (l *load) since(t time.Time) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, _ := slices.BinarySearchFunc(l.accepts, t, time.Time.Compare)
	if i == len(l.accepts) {
		return time.Time{}, false
	}
	return l.accepts[i], true
}

// missing are the messages that were accepted before a time and have not arrived.
func (l *load) missing(got map[string][]delivery, before time.Time) (tokens []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for token, o := range l.told {
		if o.outcome == accepted && o.at.Before(before) && len(got[token]) == 0 && !l.infected[token] {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// longestGap is the longest time between two acceptances, from the last one before begin to the first one after end.
func (l *load) longestGap(begin, end time.Time) (gap time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := 1; i < len(l.accepts); i++ {
		if l.accepts[i].After(begin) && l.accepts[i-1].Before(end) {
			gap = max(gap, l.accepts[i].Sub(l.accepts[i-1]))
		}
	}
	return gap
}

// slowest is the longest time from an acceptance between begin and end to the mailbox.
func (l *load) slowest(begin, end time.Time, got map[string][]delivery) (slowest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for token, d := range got {
		if o := l.told[token]; o.outcome == accepted && o.at.After(begin) && o.at.Before(end) {
			slowest = max(slowest, d[0].at.Sub(o.at))
		}
	}
	return slowest
}

// delivery is a message in the smarthost's mailbox.
type delivery struct {
	id, file string
	at       time.Time
}

var relayID = regexp.MustCompile(`(?i)\sid ([0-9a-z]{20,40}) \(stagecoach`)

// mailbox gives what arrived, by token. It reads the heads of files that it has not seen.
type mailbox struct {
	dir  string
	seen map[string]bool
	got  map[string][]delivery
}

func newMailbox(in *install) *mailbox {
	return &mailbox{dir: in.path("mailbox", "new"), seen: map[string]bool{}, got: map[string][]delivery{}}
}

func (b *mailbox) look(t testing.TB) map[string][]delivery {
	t.Helper()
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if b.seen[e.Name()] {
			continue
		}
		b.seen[e.Name()] = true
		f, err := os.Open(filepath.Join(b.dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 8<<10)
		n, err := io.ReadFull(f, head)
		_ = f.Close()
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		_, rest, ok := bytes.Cut(head[:n], []byte("\n"+tokenField))
		if !ok {
			continue // not of the load
		}
		token, _, _ := strings.Cut(string(rest), "\r")
		d := delivery{file: filepath.Join(b.dir, e.Name())}
		if m := relayID.FindSubmatch(head[:n]); m != nil {
			d.id = string(m[1])
		}
		if i, err := e.Info(); err == nil {
			d.at = i.ModTime()
		}
		b.got[token] = append(b.got[token], d)
	}
	return b.got
}

// settle waits until everything that was accepted has arrived, and says what was lost, bounced or came too often, what
// arrived and should not have, and what arrived otherwise than it should. faults were in force.
func (l *load) settle(t *testing.T, limit time.Duration, faults ...window) map[string][]delivery {
	t.Helper()
	l.stop()
	box := newMailbox(l.in)
	lost := func() []string { return l.missing(box.look(t), time.Now()) }
	end := time.Now().Add(limit)
	for len(lost()) > 0 && time.Now().Before(end) {
		time.Sleep(500 * time.Millisecond)
	}
	n := l.counts()
	t.Logf("%d accepted, %d heard 4xx, %d with an unknown answer", n[accepted], n[refused], n[unknown])
	if tokens := lost(); len(tokens) > 0 {
		t.Errorf("%d messages of %d are lost, or have not arrived within %v: %.200q", len(tokens), n[accepted], limit, tokens)
	}
	if len(l.bad) > 0 {
		t.Errorf("%d messages were refused for good: %.300q", len(l.bad), l.bad)
	}
	got := box.look(t)
	second := 0
	for token, all := range got {
		second += len(all) - 1
		if l.infected[token] {
			t.Errorf("the virus in %s was delivered", token)
		}
	}
	t.Logf("%d held a virus; %d second copies", len(l.infected), second)
	if bad := unexplained(got, faults); len(bad) > 0 {
		t.Errorf("%d second copies that no fault explains: %.500q", len(bad), bad)
	}
	if n := bounces(t, l.in); n > 0 {
		t.Errorf("%d reports to the sender", n)
	}
	l.in.checkDelivered(t, got)
	return got
}

// bounces counts the reports in the inbox of our own domain.
func bounces(t *testing.T, in *install) (n int) {
	t.Helper()
	files, err := filepath.Glob(in.path("egress", "inbox", "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if raw, err := os.ReadFile(f); err == nil && bytes.Contains(raw, []byte("multipart/report")) {
			n++
		}
	}
	return n
}
