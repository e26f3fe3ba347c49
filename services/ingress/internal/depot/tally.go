package depot

import (
	"cmp"
	"container/heap"
	"slices"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
)

// Cause is what groups in a room wait for, as their last fate says: a hop, a route, a destination.
type Cause struct {
	Room    Room
	Concern chain.Concern
	About   string
}

// Tally is what waits in a room, or by a cause, in numbers.
type Tally struct {
	// Messages with at least one group there.
	Messages   int
	Recipients int
	// Bytes of these messages.
	Bytes int64
	// Oldest is since when the group that has been there the longest has been there, and Last its last fate; zero if
	// nothing is there.
	Oldest time.Time
	Last   chain.Fate
}

// CauseTally is a Cause with what waits by it.
type CauseTally struct {
	Cause
	Tally
}

// Room tells what waits in a room.
func (v *View) Room(r Room) Tally {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rooms[r].numbers()
}

// Cause tells what waits by a cause.
func (v *View) Cause(c Cause) Tally {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.causes[c].numbers()
}

// Causes gives the causes in a room of one concern, those with the most messages first, at most limit.
func (v *View) Causes(r Room, concern chain.Concern, limit int) []CauseTally {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []CauseTally
	p := v.ranks[rank{r, concern}]
	if p == nil {
		return nil
	}
	ranks := *p
	// The heap from its top: the next one is a child of one that was taken.
	for next := []int{0}; len(out) < limit && len(next) > 0 && len(ranks) > 0; {
		best := 0
		for i := range next {
			if ranks.Less(next[i], next[best]) {
				best = i
			}
		}
		at := next[best]
		next = slices.Delete(next, best, best+1)
		out = append(out, CauseTally{ranks[at].cause, ranks[at].numbers()})
		for child := 2*at + 1; child <= 2*at+2 && child < len(ranks); child++ {
			next = append(next, child)
		}
	}
	return out
}

// rank is where causes are compared with each other.
type rank struct {
	room    Room
	concern chain.Concern
}

// ranks is a heap of causes: the one with the most messages is on top.
type ranks []*tally

func (r ranks) Len() int { return len(r) }
func (r ranks) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(r[j].messages, r[i].messages), strings.Compare(r[i].cause.About, r[j].cause.About)) < 0
}
func (r ranks) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].pos, r[j].pos = i, j
}

func (r *ranks) Push(x any) {
	e := x.(*tally)
	e.pos = len(*r)
	*r = append(*r, e)
}

func (r *ranks) Pop() any {
	old := *r
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*r = old[:len(old)-1]
	return e
}

// ranked puts a tally into its place after its messages have changed.
func (v *View) ranked(t *tally) {
	if t.cause == (Cause{}) {
		return
	}
	k := rank{t.cause.Room, t.cause.Concern}
	r := v.ranks[k]
	if r == nil {
		r = &ranks{}
		v.ranks[k] = r
	}
	switch {
	case t.messages == 0:
		heap.Remove(r, t.pos)
		delete(v.causes, t.cause)
	case t.pos < 0:
		heap.Push(r, t)
	default:
		heap.Fix(r, t.pos)
	}
}

// tally is a Tally that is kept up to date.
type tally struct {
	cause                        Cause // zero: of a room
	pos                          int   // among its likes; -1: not yet
	messages, groups, recipients int
	bytes                        int64
	stays                        stays
}

func (t *tally) numbers() Tally {
	if t == nil || t.messages == 0 {
		return Tally{}
	}
	first := t.stays[0]
	return Tally{Messages: t.messages, Recipients: t.recipients, Bytes: t.bytes, Oldest: first.oldest.Since, Last: first.oldest.Last}
}

// stay is the part of one message that a tally counts.
type stay struct {
	in                 *tally
	oldest             *Wait
	groups, recipients int
	bytes              int64
	pos                int
}

// count enters the groups of it into the tallies.
func (v *View) count(it *item) {
	for i := range it.m.Groups {
		w := &it.m.Groups[i]
		t := v.rooms[w.Room]
		if t == nil {
			t = &tally{}
			v.rooms[w.Room] = t
		}
		it.enter(t, w)
		switch w.Last.Concern {
		case chain.AboutHop, chain.AboutRoute, chain.AboutDestination:
			c := Cause{w.Room, w.Last.Concern, w.Last.About}
			if t = v.causes[c]; t == nil {
				t = &tally{cause: c, pos: -1}
				v.causes[c] = t
			}
			it.enter(t, w)
		}
	}
	for _, s := range it.stays {
		s.in.messages++
		s.in.groups += s.groups
		s.in.recipients += s.recipients
		s.in.bytes += s.bytes
		heap.Push(&s.in.stays, s)
		v.ranked(s.in)
	}
}

// enter notes a group in what the message will be counted for.
func (it *item) enter(t *tally, w *Wait) {
	i := slices.IndexFunc(it.stays, func(s *stay) bool { return s.in == t })
	if i < 0 {
		i = len(it.stays)
		it.stays = append(it.stays, &stay{in: t, oldest: w, bytes: it.m.Body.Size})
	}
	s := it.stays[i]
	s.groups++
	s.recipients += len(w.Recipients)
	if w.Since.Before(s.oldest.Since) {
		s.oldest = w
	}
}

// uncount takes them out again.
func (v *View) uncount(it *item) {
	for _, s := range it.stays {
		s.in.messages--
		s.in.groups -= s.groups
		s.in.recipients -= s.recipients
		s.in.bytes -= s.bytes
		heap.Remove(&s.in.stays, s.pos)
		v.ranked(s.in)
	}
	it.stays = nil
}

// stays is a heap by age.
type stays []*stay

func (s stays) Len() int           { return len(s) }
func (s stays) Less(i, j int) bool { return s[i].oldest.Since.Before(s[j].oldest.Since) }
func (s stays) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].pos, s[j].pos = i, j
}

func (s *stays) Push(x any) {
	e := x.(*stay)
	e.pos = len(*s)
	*s = append(*s, e)
}

func (s *stays) Pop() any {
	old := *s
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*s = old[:len(old)-1]
	return e
}
