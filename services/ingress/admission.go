package ingress

import (
	"sync"

	"github.com/stagecoachmail/stagecoach/mail"
)

// minMessages is how many messages of the largest size fit under way at once, however small the budget.
const minMessages = 2

// leastBytes is what a message counts for at least: a run costs memory however small its message is, so the bound on
// bytes bounds the number of messages too.
const leastBytes = 16 << 10

// undeclared is what is reserved before 354 for a message whose client did not say how large it is; more as it comes.
// To reserve the largest size for each would let a few silent strangers take all the room.
const undeclared = 1 << 20

// errNoRoom is what a session hears before its 354 when too much is under way.
var errNoRoom = &mail.Reply{Code: 452, Enhanced: "4.3.1", Text: "too much mail is under way, try again later"}

// admission bounds the bytes of messages under way. A session reserves what it will need before 354, as far as its
// client said; after that it waits for nobody: what needs more than it has, and finds no room, is refused. Strangers get at most half, so that a flood from outside does not stop the company's own mail.
type admission struct {
	mu                sync.Mutex
	limit             int64
	total, byStranger int64
}

// grant is what one message has reserved.
type grant struct {
	a        *admission
	bytes    int64
	stranger bool
}

func (a *admission) setLimit(limit, largest int64) {
	a.mu.Lock()
	a.limit = max(limit, minMessages*largest)
	a.mu.Unlock()
}

// reserve takes room for a message; nil if there is none.
func (a *admission) reserve(bytes int64, stranger bool) *grant {
	a.mu.Lock()
	defer a.mu.Unlock()
	bytes = max(bytes, leastBytes)
	// One always fits: with a small budget a message of the largest size, and the field that we add, may be more than half.
	if a.total > 0 && a.total+bytes > a.limit || stranger && a.byStranger > 0 && a.byStranger+bytes > a.limit/2 {
		return nil
	}
	a.total += bytes
	if stranger {
		a.byStranger += bytes
	}
	return &grant{a: a, bytes: bytes, stranger: stranger}
}

// grow takes more room for a message that turns out larger, up to the given size; false if there is none.
func (g *grant) grow(to int64) bool {
	g.a.mu.Lock()
	defer g.a.mu.Unlock()
	more := to - g.bytes
	if more <= 0 {
		return true
	}
	a := g.a
	if a.total > g.bytes && a.total+more > a.limit || g.stranger && a.byStranger > g.bytes && a.byStranger+more > a.limit/2 {
		return false
	}
	a.total += more
	if g.stranger {
		a.byStranger += more
	}
	g.bytes = to
	return true
}

// shrink gives back what the message turned out not to need.
func (g *grant) shrink(to int64) { g.keep(max(to, leastBytes)) }

// release gives everything back; doing it twice does no harm.
func (g *grant) release() { g.keep(0) }

func (g *grant) keep(to int64) {
	g.a.mu.Lock()
	defer g.a.mu.Unlock()
	if to >= g.bytes {
		return
	}
	g.a.total -= g.bytes - to
	if g.stranger {
		g.a.byStranger -= g.bytes - to
	}
	g.bytes = to
}

// state is what is reserved, and the limit, in bytes.
func (a *admission) state() (used, limit int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total, a.limit
}
