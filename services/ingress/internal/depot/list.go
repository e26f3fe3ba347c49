package depot

import (
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/chain"
)

// stretch is how many messages are looked at before others have their turn at the View.
const stretch = 1000

// Filter chooses messages; a zero field chooses all. A message is chosen when one of its groups satisfies every
// field.
type Filter struct {
	// Rooms: one of them.
	Rooms []Room
	Chain string
	// Concern and About choose by the last fate: everything that waits for one destination, route or hop.
	Concern chain.Concern
	About   string
	// Also is one more condition, or nil. It must not call the View.
	Also func(m *Message, w *Wait) bool
	// After is the id after which the list goes on.
	After string
	// Limit is the most messages in one answer; 0 is 100.
	Limit int
}

// Match says that a group of m satisfies the filter.
func (f *Filter) Match(m *Message, w *Wait) bool {
	return (len(f.Rooms) == 0 || slices.Contains(f.Rooms, w.Room)) &&
		(f.Chain == "" || w.Chain == f.Chain) &&
		(f.Concern == "" || w.Last.Concern == f.Concern) &&
		(f.About == "" || w.Last.About == f.About) &&
		(f.Also == nil || f.Also(m, w))
}

// MatchMessage says that one of the groups of m satisfies the filter.
func (f *Filter) MatchMessage(m *Message) bool {
	return slices.ContainsFunc(m.Groups, func(w Wait) bool { return f.Match(m, &w) })
}

// List gives messages in the order of their ids, and the After of the next page, which is empty at the end. What comes
// and goes while a long list is looked through may be in it or not.
func (v *View) List(f Filter) (list []*Message, next string) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	for at := f.After; ; {
		part, seen := v.part(&f, at, f.Limit+1-len(list))
		list = append(list, part...)
		switch {
		case len(list) > f.Limit:
			list = list[:f.Limit]
			return list, list[f.Limit-1].ID
		case seen == "":
			return list, ""
		}
		at = seen
	}
}

// part is at most limit messages out of the next stretch; seen is the last one that was looked at, empty at the end.
func (v *View) part(f *Filter, after string, limit int) (list []*Message, seen string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sort()
	at, found := slices.BinarySearch(v.order, after)
	if found {
		at++
	}
	for n := 0; at < len(v.order); at++ {
		if n == stretch || len(list) == limit {
			return list, v.order[at-1]
		}
		n++
		if it := v.items[v.order[at]]; it != nil && f.MatchMessage(it.m) {
			list = append(list, it.m)
		}
	}
	return list, ""
}

// nearEnd is how far from its end an id is put into its place in the order; ids come nearly sorted.
const nearEnd = 1024

// enroll puts an id into the order.
func (v *View) enroll(id string) {
	n := len(v.order)
	switch {
	case n == 0 || v.order[n-1] < id:
	case v.unsorted:
	default:
		at, found := slices.BinarySearch(v.order, id)
		if found { // it went, and came again
			return
		}
		if n-at <= nearEnd {
			v.order = slices.Insert(v.order, at, id)
			return
		}
		v.unsorted = true
	}
	v.order = append(v.order, id)
}

func (v *View) sort() {
	if !v.unsorted {
		return
	}
	slices.Sort(v.order)
	// An id that went and came again stands twice.
	v.order = slices.Compact(v.order)
	v.unsorted = false
}
