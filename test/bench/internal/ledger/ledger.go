// Package ledger keeps, message by message, what the loader sent and what arrived at the sink.
package ledger

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// TokenSize is the length of every token in bytes.
const TokenSize = 15

// entry is one message. Times that are zero have not come.
type entry struct {
	size                   int
	began, acked, arrived  time.Time
	copies                 int
	refusal                string
	unsigned, arrivedShort bool
}

// Ledger is the ledger of one scenario. It may be used by many goroutines at once.
type Ledger struct {
	run int

	mu                  sync.Mutex
	entries             []entry
	deferred            int
	strange             []string
	accepted, completed int
}

// New makes the ledger of a run; the tokens of two runs differ.
func New(run int) *Ledger { return &Ledger{run: run} }

// Open enters a message that is about to be sent, and gives its number. size gives its size in bytes by that number.
func (l *Ledger) Open(size func(n int) int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.entries)
	l.entries = append(l.entries, entry{size: size(n)})
	return n
}

// Token is what a message carries to be known by: TokenSize letters and digits.
func (l *Ledger) Token(n int) string { return fmt.Sprintf("b%05dx%08d", l.run%100_000, n) }

// Began notes where the time of a message begins: with its data in a closed loop, when it was due in an open one.
func (l *Ledger) Began(n int, at time.Time) {
	l.mu.Lock()
	l.entries[n].began = at
	l.mu.Unlock()
}

// Accepted notes the 250 after the data.
func (l *Ledger) Accepted(n int, at time.Time) {
	l.mu.Lock()
	l.entries[n].acked = at
	l.accepted++
	l.mu.Unlock()
}

// Deferred counts a 4xx; the loader sends the message again.
func (l *Ledger) Deferred() {
	l.mu.Lock()
	l.deferred++
	l.mu.Unlock()
}

// Refused notes a 5xx: a violation, for the bench sends nothing that deserves one.
func (l *Ledger) Refused(n int, reply string) {
	l.mu.Lock()
	l.entries[n].refusal = reply
	l.mu.Unlock()
}

// Arrived notes a message at the sink: its token (empty if there was none), its size there, whether it is signed.
func (l *Ledger) Arrived(token string, size int64, signed bool, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.number(token)
	if n < 0 {
		l.strange = append(l.strange, fmt.Sprintf("%q of %d bytes", token, size))
		return
	}
	e := &l.entries[n]
	if e.copies++; e.copies == 1 {
		e.arrived = at
		l.completed++
	}
	e.unsigned = e.unsigned || !signed
	e.arrivedShort = e.arrivedShort || size < int64(e.size)
}

// number finds the message of a token; negative: not one of ours.
func (l *Ledger) number(token string) int {
	run, number, ok := strings.Cut(token, "x")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 0 || n >= len(l.entries) || run != fmt.Sprintf("b%05d", l.run%100_000) {
		return -1
	}
	return n
}

// Len is how many messages were entered.
func (l *Ledger) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

// Deferrals is how many 4xx there were.
func (l *Ledger) Deferrals() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deferred
}

// Drained says that everything accepted has arrived.
func (l *Ledger) Drained() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.completed >= l.accepted
}

// Violations are the promises that were broken: lost, doubled, refused for good, cut, arrived without a 250, not ours;
// and with mustSign, left without a signature. Read it when nothing is under way any more.
func (l *Ledger) Violations(mustSign bool) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for n := range l.entries {
		for _, what := range l.entries[n].wrong(mustSign) {
			out = append(out, l.Token(n)+": "+what)
		}
	}
	for _, s := range l.strange {
		out = append(out, "arrived, and was never sent: "+s)
	}
	return out
}

func (e *entry) wrong(mustSign bool) []string {
	var out []string
	acked := !e.acked.IsZero()
	for what, is := range map[string]bool{
		"lost: accepted, and did not arrive":      acked && e.copies == 0,
		fmt.Sprintf("arrived %d times", e.copies): e.copies > 1,
		"arrived, and was never accepted":         !acked && e.copies > 0,
		"refused for good: " + e.refusal:          e.refusal != "",
		"arrived with fewer bytes than were sent": e.arrivedShort,
		"arrived unsigned":                        mustSign && e.unsigned,
	} {
		if is {
			out = append(out, what)
		}
	}
	slices.Sort(out)
	return out
}

// Figures are what the messages of one measurement add up to.
type Figures struct {
	// Messages that were accepted, and their bytes as sent.
	Messages int
	Bytes    int64
	// FirstBegan, LastAccepted and LastArrived bound the measurement.
	FirstBegan, LastAccepted, LastArrived time.Time
	// Accept is from the first byte of the data (open loop: from when the message was due) to its 250, Delivery from
	// the 250 to the final dot at the sink. The sink may have it before the loader has read the 250: then it is negative.
	Accept, Delivery Latency
}

// Figures adds up the messages from number n on that were accepted and have arrived.
func (l *Ledger) Figures(n int) Figures {
	l.mu.Lock()
	defer l.mu.Unlock()
	var f Figures
	var accept, delivery []time.Duration
	for _, e := range l.entries[n:] {
		if e.acked.IsZero() || e.copies == 0 {
			continue
		}
		f.Messages++
		f.Bytes += int64(e.size)
		accept = append(accept, e.acked.Sub(e.began))
		delivery = append(delivery, e.arrived.Sub(e.acked))
		if f.FirstBegan.IsZero() || e.began.Before(f.FirstBegan) {
			f.FirstBegan = e.began
		}
		f.LastAccepted = later(f.LastAccepted, e.acked)
		f.LastArrived = later(f.LastArrived, e.arrived)
	}
	f.Accept, f.Delivery = Quantiles(accept), Quantiles(delivery)
	return f
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
