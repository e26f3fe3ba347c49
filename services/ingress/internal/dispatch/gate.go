package dispatch

import (
	"slices"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
)

const (
	// failuresToOpen is how many runs of a stage, of different messages, must fail one after the other before it counts
	// as down. One that cannot be reached at all is down at once.
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

// outcome is what a probe showed.
type outcome int

const (
	// unclear: the message did not come as far as what it was to probe.
	unclear outcome = iota
	well
	stillDown
)

// gate stands before a hop or route. Closed to traffic (down), it lets one message through at a time, as a probe.
// It is open again when one has passed; suspects that may not run yet stay behind, and close it again for the time
// in which they are tried.
type gate struct {
	key
	down bool
	// testing: closed only to try suspects by themselves; what stands behind it is well.
	testing  bool
	failures int // in a row
	failedBy string
	probed   int // probes failed since it went down
	since    time.Time
	why      chain.Fate
	next     time.Time
	probing  bool
	// cursor is the last message that probed, so that another one is next.
	cursor string
	// suspects were at the hop when it broke.
	suspects map[string]suspicion
	passes   int
	crashes  map[string]crash
}

// suspicion is of a message that was at a hop when it broke.
type suspicion struct {
	from   time.Time // it may not run before
	parked bool      // the log says that it waits here
}

type crash struct{ count, passes int }

// gates are the gates of one dispatcher.
type gates struct {
	now func() time.Time
	// earliest is when the first probe may run: after a takeover, what was open may still have its outcome.
	earliest time.Time
	// stopped says that k is not to be probed; nil: all are.
	stopped func(k key) bool

	mu sync.Mutex
	m  map[key]*gate
}

func newGates(now func() time.Time, earliest time.Time) *gates {
	return &gates{now: now, earliest: earliest, m: map[key]*gate{}}
}

func (g *gates) get(k key) *gate {
	t := g.m[k]
	if t == nil {
		t = &gate{key: k, suspects: map[string]suspicion{}, crashes: map[string]crash{}}
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
	was := t.down && !t.testing
	t.testing = false
	if !t.down {
		t.down, t.probed, t.next = true, 0, now.Add(probeWait(0))
	}
	if !was {
		t.since, t.why = now, chain.Fate{}
	}
	return !was
}

// failed counts a failure of a stage that was reached, and says whether it is down by that.
func (g *gates) failed(k key, id string) (news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.get(k)
	if id != t.failedBy { // one message that fails again and again says nothing about the stage
		t.failures++
		t.failedBy = id
	}
	return t.failures >= failuresToOpen && t.shut(g.now())
}

// suspect notes that a message was at k when the connection broke; it is not tried again before from.
func (g *gates) suspect(k key, id string, from time.Time) (news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.get(k)
	s := t.suspects[id]
	if from.After(s.from) {
		s.from = from
	}
	s.parked = false
	t.suspects[id] = s
	return t.shut(g.now())
}

// parked notes that the log has it that a message waits before k.
func (g *gates) parked(k key, id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.m[k]; t != nil {
		if s, ok := t.suspects[id]; ok {
			s.parked = true
			t.suspects[id] = s
		}
	}
}

// passed notes that a message got through k.
func (g *gates) passed(k key, id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.m[k]
	if t == nil {
		return
	}
	t.failures, t.failedBy = 0, ""
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

// holds says that a message that waits before k must go on waiting.
func (g *gates) holds(k key, id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.m[k]
	if t == nil {
		return false
	}
	_, suspected := t.suspects[id]
	return t.down || suspected
}

// suspected says that a message was at k when it broke, and has not passed it since.
func (g *gates) suspected(k key, id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.m[k]
	if t == nil {
		return false
	}
	_, ok := t.suspects[id]
	return ok
}

// suspects says that k has some.
func (g *gates) suspects(k key) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.m[k]
	return t != nil && len(t.suspects) > 0
}

// due are the gates that want a probe now; each is marked as being probed until probeEnded, postpone or gone.
func (g *gates) due() []key {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	var out []key
	for k, t := range g.m {
		if at, ok := g.dueAt(t); !ok || at.After(now) {
			continue
		}
		if !t.down {
			t.down, t.testing = true, true
		}
		t.probing = true
		out = append(out, k)
	}
	return out
}

// dueAt is when a gate wants its next probe.
func (g *gates) dueAt(t *gate) (time.Time, bool) {
	if t.probing || !t.down && len(t.suspects) == 0 || g.stopped != nil && g.stopped(t.key) {
		return time.Time{}, false
	}
	if g.earliest.After(t.next) {
		return g.earliest, true
	}
	return t.next, true
}

// nextDue is when the next probe is due.
func (g *gates) nextDue() (time.Time, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var first time.Time
	for _, t := range g.m {
		if at, ok := g.dueAt(t); ok && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first, !first.IsZero()
}

// candidates tells where to look for the next probe of k: the suspects that may run; then (after the cursor) those
// that are no suspects, unless k is only closed for the suspects' sake; last the suspects that broke it when nobody
// has passed since, which proves nothing more against them.
func (g *gates) candidates(k key) (suspects, last []string, cursor string, others bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.get(k)
	now := g.now()
	for id, s := range t.suspects {
		if !s.parked || s.from.After(now) {
			continue
		}
		if c, broke := t.crashes[id]; broke && c.passes == t.passes {
			last = append(last, id)
		} else {
			suspects = append(suspects, id)
		}
	}
	slices.Sort(suspects)
	slices.Sort(last)
	return suspects, last, t.cursor, !t.testing
}

// probeWith notes that id probes k.
func (g *gates) probeWith(k key, id string) {
	g.mu.Lock()
	g.get(k).cursor = id
	g.mu.Unlock()
}

// probeEnded notes what the probe of k showed, and says whether k is open now: what waits for it goes on. Suspects
// that may run are tried one after the other first.
func (g *gates) probeEnded(k key, id string, o outcome) (up bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.get(k)
	now := g.now()
	t.probing = false
	switch o {
	case stillDown:
		t.testing = false
		t.probed++
		t.next = now.Add(probeWait(t.probed))
		return false
	case unclear:
		t.next = now.Add(probeWait(0))
		if !t.testing {
			return false
		}
	case well:
		delete(t.suspects, id)
		t.probed, t.failures, t.failedBy = 0, 0, ""
	}
	for _, s := range t.suspects {
		if s.parked && !s.from.After(now) {
			t.next = now
			return false
		}
	}
	t.open(now)
	return true
}

func (t *gate) open(now time.Time) {
	t.down, t.testing = false, false
	t.next = now.Add(probeWait(0))
	var first time.Time
	for _, s := range t.suspects {
		if first.IsZero() || s.from.Before(first) {
			first = s.from
		}
	}
	if first.After(t.next) {
		t.next = first
	}
}

// gone removes the gate k: no message is left that could probe it, so the next one that comes will.
func (g *gates) gone(k key) {
	g.mu.Lock()
	delete(g.m, k)
	g.mu.Unlock()
}

// forget drops the suspicion of a message that does not wait before k any more; waits tells which do.
func (g *gates) forget(k key, waits func(id string) bool) {
	g.mu.Lock()
	var known []string
	for id, s := range g.get(k).suspects {
		if s.parked {
			known = append(known, id)
		}
	}
	g.mu.Unlock()
	for _, id := range known {
		if waits(id) {
			continue
		}
		g.mu.Lock()
		if t := g.get(k); t.suspects[id].parked {
			delete(t.suspects, id)
			delete(t.crashes, id)
		}
		g.mu.Unlock()
	}
}

// postpone lets the probe of k wait a little: its candidates may not run yet. It says whether k is open now.
func (g *gates) postpone(k key, d time.Duration) (up bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.get(k)
	t.probing = false
	if up = t.testing; up {
		t.open(g.now())
	}
	t.next = g.now().Add(d)
	return up
}

// hurryRoutes makes the probe of every route that is down due now.
func (g *gates) hurryRoutes() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.m {
		if t.concern == chain.AboutRoute {
			t.next = g.now()
		}
	}
}

// hurry makes the probe of every gate due now.
func (g *gates) hurry() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.m {
		t.next = g.now()
	}
}
