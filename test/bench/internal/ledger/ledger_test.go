package ledger

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestQuantiles(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	thousand := make([]time.Duration, 1000)
	for i := range thousand {
		thousand[i] = ms(i + 1)
	}
	rand.Shuffle(len(thousand), func(i, j int) { thousand[i], thousand[j] = thousand[j], thousand[i] })
	for _, c := range []struct {
		name string
		in   []time.Duration
		want Latency
	}{
		{"none", nil, Latency{}},
		{"one", []time.Duration{ms(7)}, Latency{ms(7), ms(7), ms(7), ms(7)}},
		{"two", []time.Duration{ms(9), ms(1)}, Latency{ms(1), ms(9), ms(9), ms(9)}},
		{"negative", []time.Duration{ms(-2), ms(-1), ms(3)}, Latency{ms(-1), ms(3), ms(3), ms(3)}},
		{"a thousand", thousand, Latency{ms(500), ms(950), ms(990), ms(1000)}},
	} {
		if got := Quantiles(c.in); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

var start = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

func at(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }

// of is the size of every message.
func of(size int) func(int) int { return func(int) int { return size } }

// sent enters a message that was accepted at the given second, 100 ms after it began.
func sent(l *Ledger, size int, acked float64) string {
	n := l.Open(of(size))
	l.Began(n, at(acked-0.1))
	l.Accepted(n, at(acked))
	return l.Token(n)
}

func TestViolations(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(l *Ledger)
		want string // empty: none
	}{
		{"all is well", func(l *Ledger) { l.Arrived(sent(l, 100, 1), 120, true, at(2)) }, ""},
		{"lost", func(l *Ledger) { sent(l, 100, 1) }, "b00007x00000000: lost: accepted, and did not arrive"},
		{"doubled", func(l *Ledger) {
			token := sent(l, 100, 1)
			l.Arrived(token, 120, true, at(2))
			l.Arrived(token, 120, true, at(3))
		}, "b00007x00000000: arrived 2 times"},
		{"refused", func(l *Ledger) { l.Refused(l.Open(of(100)), "554 no") }, "b00007x00000000: refused for good: 554 no"},
		{"deferred, and given up", func(l *Ledger) { l.Open(of(100)); l.Deferred() }, ""},
		{"never accepted", func(l *Ledger) { l.Arrived(l.Token(l.Open(of(100))), 100, true, at(1)) }, "b00007x00000000: arrived, and was never accepted"},
		{"cut", func(l *Ledger) { l.Arrived(sent(l, 100, 1), 99, true, at(2)) }, "b00007x00000000: arrived with fewer bytes than were sent"},
		{"unsigned", func(l *Ledger) { l.Arrived(sent(l, 100, 1), 120, false, at(2)) }, "b00007x00000000: arrived unsigned"},
		{"of another run", func(l *Ledger) {
			l.Arrived(sent(l, 100, 1), 120, true, at(2))
			l.Arrived(New(8).Token(0), 100, true, at(1))
		}, `arrived, and was never sent: "b00008x00000000" of 100 bytes`},
		{"without a token", func(l *Ledger) { l.Arrived("", 5, true, at(1)) }, `arrived, and was never sent: "" of 5 bytes`},
	} {
		l := New(7)
		c.do(l)
		if got := strings.Join(l.Violations(true), "; "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	l := New(7)
	l.Arrived(sent(l, 100, 1), 120, false, at(2))
	if v := l.Violations(false); len(v) != 0 {
		t.Errorf("a signature was not asked for: %v", v)
	}
}

func TestFigures(t *testing.T) {
	l := New(1)
	sent(l, 1, 0.5) // the warm-up
	from := l.Len()
	a, b := sent(l, 1000, 1), sent(l, 3000, 2)
	if l.Drained() {
		t.Error("drained, and nothing has arrived")
	}
	l.Arrived(l.Token(0), 1, true, at(0.6))
	l.Arrived(b, 3000, true, at(2.5))
	l.Arrived(a, 1000, true, at(4))
	if !l.Drained() {
		t.Error("all has arrived, and it is not drained")
	}
	l.Open(of(5000)) // never accepted
	got := l.Figures(from)
	want := Figures{Messages: 2, Bytes: 4000, FirstBegan: at(0.9), LastAccepted: at(2), LastArrived: at(4),
		Accept:   Quantiles([]time.Duration{100 * time.Millisecond, 100 * time.Millisecond}),
		Delivery: Quantiles([]time.Duration{500 * time.Millisecond, 3 * time.Second})}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestTokens(t *testing.T) {
	l := New(123_456)
	var tokens []string
	for range 3 {
		tokens = append(tokens, l.Token(l.Open(of(1))))
	}
	tokens = append(tokens, New(123_457).Token(0))
	for _, token := range tokens {
		if len(token) != TokenSize {
			t.Errorf("%q has %d bytes, not %d", token, len(token), TokenSize)
		}
	}
	slices.Sort(tokens)
	if len(slices.Compact(tokens)) != 4 {
		t.Errorf("two are the same: %v", tokens)
	}
}
