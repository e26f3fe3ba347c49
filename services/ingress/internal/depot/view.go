package depot

import (
	"container/heap"
	"slices"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// View is the index over the messages that wait: by id, by room and chain, and by the time at which each group is
// due. It is safe for concurrent use. Times are compared with what the caller says the time is; it has no clock.
//
// Waking takes recipients out of the heap without a change of the log: they still count as waiting (a crash now
// finds them where they were), and are not given out again until they are settled, or Rest puts them back.
type View struct {
	mu     sync.Mutex
	items  map[string]*item
	timers timers
	// order holds every id of items, and perhaps some that have gone; sorted unless unsorted is set.
	order    []string
	unsorted bool
	rooms    map[Room]*tally
	causes   map[Cause]*tally
	ranks    map[rank]*ranks
}

// Due is recipients of one message that were woken together.
type Due struct {
	ID string
	// Wait is the group, narrowed to the recipients that were woken now.
	Wait Wait
}

type item struct {
	m      *Message
	woken  map[mail.RecipientID]struct{}
	timers []*timer
	stays  []*stay
}

type timer struct {
	at    time.Time
	id    string
	group int
	pos   int
}

// NewView returns an empty View.
func NewView() *View {
	return &View{items: make(map[string]*item), rooms: make(map[Room]*tally), causes: make(map[Cause]*tally), ranks: make(map[rank]*ranks)}
}

// Put inserts a message or replaces it; changed are the recipients that were settled, which makes them wakeable
// again. A message without waiting groups is removed.
func (v *View) Put(m *Message, changed ...mail.RecipientID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(m.Groups) == 0 {
		v.remove(m.ID)
		return
	}
	it := v.items[m.ID]
	if it == nil {
		it = &item{}
		v.items[m.ID] = it
		v.enroll(m.ID)
	} else {
		v.disarm(it)
		v.uncount(it)
	}
	it.m = m
	for _, r := range changed {
		delete(it.woken, r)
	}
	v.count(it)
	v.arm(it)
}

// Remove forgets a message.
func (v *View) Remove(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.remove(id)
}

// Get finds a message that waits.
func (v *View) Get(id string) (*Message, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	it := v.items[id]
	if it == nil {
		return nil, false
	}
	return it.m, true
}

// Due wakes up to limit groups in retry and park whose time has come, the longest due first. A group whose Relay
// is still open is not woken.
func (v *View) Due(now time.Time, limit int) []Due {
	v.mu.Lock()
	defer v.mu.Unlock()
	var due []Due
	for len(due) < limit && len(v.timers) > 0 && !v.timers[0].at.After(now) {
		t := heap.Pop(&v.timers).(*timer)
		it := v.items[t.id]
		it.timers = slices.DeleteFunc(it.timers, func(o *timer) bool { return o == t })
		if d, ok := v.wake(it, &it.m.Groups[t.group]); ok {
			due = append(due, d)
		}
	}
	return due
}

// Wake wakes the groups of a message that pick chooses, whatever their room and time: a route came back, a person
// lets it go. Groups that are open or already woken are not offered. pick must not call the View.
func (v *View) Wake(id string, pick func(*Wait) bool) []Due {
	v.mu.Lock()
	defer v.mu.Unlock()
	it := v.items[id]
	if it == nil {
		return nil
	}
	var due []Due
	for i := range it.m.Groups {
		w := &it.m.Groups[i]
		if w.Open || !pick(w) {
			continue
		}
		if d, ok := v.wake(it, w); ok {
			due = append(due, d)
		}
	}
	v.disarm(it)
	v.arm(it)
	return due
}

// Rest puts woken recipients back to sleep where they were, for a caller that could not run them. Their time is
// not changed: if it has come they are due again at once.
func (v *View) Rest(id string, recipients ...mail.RecipientID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	it := v.items[id]
	if it == nil {
		return
	}
	for _, r := range recipients {
		delete(it.woken, r)
	}
	v.disarm(it)
	v.arm(it)
}

// Next is when the next group is due; false if none has a time.
func (v *View) Next() (time.Time, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.timers) == 0 {
		return time.Time{}, false
	}
	return v.timers[0].at, true
}

// Len is the number of messages that wait.
func (v *View) Len() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.items)
}

// Count is the number of groups in a room.
func (v *View) Count(r Room) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	if t := v.rooms[r]; t != nil {
		return t.groups
	}
	return 0
}

func (v *View) wake(it *item, w *Wait) (Due, bool) {
	d := Due{ID: it.m.ID, Wait: *w}
	d.Wait.Recipients = nil
	for _, r := range w.Recipients {
		if _, awake := it.woken[r]; awake {
			continue
		}
		if it.woken == nil {
			it.woken = make(map[mail.RecipientID]struct{})
		}
		it.woken[r] = struct{}{}
		d.Wait.Recipients = append(d.Wait.Recipients, r)
	}
	return d, len(d.Wait.Recipients) > 0
}

func (v *View) remove(id string) {
	it := v.items[id]
	if it == nil {
		return
	}
	v.disarm(it)
	v.uncount(it)
	delete(v.items, id)
	if len(v.order) > 1024 && len(v.order) > 2*len(v.items) {
		v.order = slices.DeleteFunc(v.order, func(id string) bool { return v.items[id] == nil })
	}
}

// arm enters the groups of it into the heap of times.
func (v *View) arm(it *item) {
	for i := range it.m.Groups {
		w := &it.m.Groups[i]
		if w.Open || !byTime(w) || !it.sleeps(w) {
			continue
		}
		t := &timer{at: w.Next, id: it.m.ID, group: i}
		it.timers = append(it.timers, t)
		heap.Push(&v.timers, t)
	}
}

func (v *View) disarm(it *item) {
	for _, t := range it.timers {
		heap.Remove(&v.timers, t.pos)
	}
	it.timers = nil
}

func byTime(w *Wait) bool {
	return w.Room == Retry || w.Room == Park && !w.Next.IsZero()
}

// sleeps says that some recipient of w is not woken.
func (it *item) sleeps(w *Wait) bool {
	return slices.ContainsFunc(w.Recipients, func(r mail.RecipientID) bool {
		_, awake := it.woken[r]
		return !awake
	})
}

// timers is a heap by time.
type timers []*timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].pos, t[j].pos = i, j
}

func (t *timers) Push(x any) {
	e := x.(*timer)
	e.pos = len(*t)
	*t = append(*t, e)
}

func (t *timers) Pop() any {
	old := *t
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	return e
}
