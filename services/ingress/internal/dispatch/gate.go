package dispatch

import (
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
)

const (
	// failuresToOpen is how many runs of a stage must fail one after the other before it counts as down. One that
	// cannot be reached at all is down at once.
	failuresToOpen = 3
	// crashesToDie is how often a message that was alone at a hop must have broken it, others having passed in
	// between, before it is held for a person.
	crashesToDie = 3
)

// key names what a gate stands before: a hop or a route.
type key struct {
	concern chain.Concern
	about   string
}

// gate stands before a hop or route. Closed to traffic (down), it lets one message through at a time, as a probe.
type gate struct {
	key
	down     bool
	failures int // in a row
	probed   int // probes failed since it went down
	next     time.Time
	earliest time.Time // set once, at a takeover
	probing  bool
	// cursor is the last message that probed, so that another one is next.
	cursor string
	// suspects were at the hop when it broke.
	suspects map[string]bool
	passes   int
	crashes  map[string]crash
}

type crash struct{ count, passes int }

// gates are the gates of one dispatcher.
type gates struct {
	now func() time.Time

	mu sync.Mutex
	m  map[key]*gate
}

func newGates(now func() time.Time) *gates { return &gates{now: now, m: map[key]*gate{}} }

func (g *gates) get(k key) *gate {
	t := g.m[k]
	if t == nil {
		t = &gate{key: k, suspects: map[string]bool{}, crashes: map[string]crash{}}
		g.m[k] = t
	}
	return t
}

// shut says that k is down, and whether that is news.
func (g *gates) shut(k key) (news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.get(k).shut(g.now())
}

func (t *gate) shut(now time.Time) bool {
	if t.down {
		return false
	}
	t.down, t.probed, t.next = true, 0, now.Add(probeWait(0))
	return true
}

// due is when the gate wants its next probe.
func (t *gate) due() time.Time {
	if t.earliest.After(t.next) {
		return t.earliest
	}
	return t.next
}

// failed counts a failure of a stage that was reached, and says whether it is down by that.
func (g *gates) failed(k key) (news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.get(k)
	t.failures++
	return t.failures >= failuresToOpen && t.shut(g.now())
}

// suspect notes that a message was at k when the connection broke.
func (g *gates) suspect(k key, id string) (news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.get(k)
	t.suspects[id] = true
	return t.shut(g.now())
}

// passed notes that a message got through k.
func (g *gates) passed(k key, id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.m[k]
	if t == nil {
		return
	}
	t.failures = 0
	t.passes++
	delete(t.crashes, id)
}

// crashed counts a break by a message that was alone at k, and says whether it is to blame.
func (g *gates) crashed(k key, id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.get(k)
	c, seen := t.crashes[id]
	if !seen || t.passes > c.passes {
		c.count++
		c.passes = t.passes
		t.crashes[id] = c
	}
	if c.count < crashesToDie {
		return false
	}
	delete(t.crashes, id)
	delete(t.suspects, id)
	return true
}

// isDown says whether traffic through k must wait.
func (g *gates) isDown(k key) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.m[k]
	return t != nil && t.down
}

// due are the gates that want a probe now; each is marked as being probed until probeEnded.
func (g *gates) due() []key {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []key
	for k, t := range g.m {
		if t.down && !t.probing && !t.due().After(g.now()) {
			t.probing = true
			out = append(out, k)
		}
	}
	return out
}

// candidate tells where to look for the next probe: the suspects first, then what follows the last one.
func (g *gates) candidate(k key) (suspects []string, after string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.get(k)
	for id := range t.suspects {
		suspects = append(suspects, id)
	}
	return suspects, t.cursor
}

// probeWith notes that id probes k.
func (g *gates) probeWith(k key, id string) {
	g.mu.Lock()
	g.get(k).cursor = id
	g.mu.Unlock()
}

// probeEnded notes how the probe of k ended and says whether k is well: what waits for it goes on. While there are
// suspects left, they are let through one after the other first.
func (g *gates) probeEnded(k key, id string, well bool) (up bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.get(k)
	t.probing = false
	if !well {
		t.probed++
		t.next = g.now().Add(probeWait(t.probed))
		return false
	}
	delete(t.suspects, id)
	t.probed = 0
	if len(t.suspects) > 0 {
		t.next = g.now()
		return false
	}
	t.down, t.failures = false, 0
	return true
}

// nothingWaits removes the gate k: no message is left that could probe it, so the next one that comes will.
func (g *gates) nothingWaits(k key) {
	g.mu.Lock()
	delete(g.m, k)
	g.mu.Unlock()
}

// unsuspect forgets a suspect that is not parked at k any more.
func (g *gates) unsuspect(k key, id string) {
	g.mu.Lock()
	delete(g.get(k).suspects, id)
	g.mu.Unlock()
}

// postpone lets the probe of k wait a little: its candidates may not run yet.
func (g *gates) postpone(k key, d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.get(k)
	t.probing = false
	t.next = g.now().Add(d)
}

// notBefore keeps k from being probed before the time given.
func (g *gates) notBefore(k key, at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.get(k).earliest = at
}

// nextDue is when the next probe is due.
func (g *gates) nextDue() (time.Time, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var at time.Time
	for _, t := range g.m {
		if t.down && !t.probing && (at.IsZero() || t.due().Before(at)) {
			at = t.due()
		}
	}
	return at, !at.IsZero()
}

// hurry makes the probe of every gate due now.
func (g *gates) hurry() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.m {
		t.next = g.now()
	}
}
