package depot

import (
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/chain"
)

// Filter chooses messages; a zero field chooses all. A message is chosen when one of its groups satisfies every
// field.
type Filter struct {
	// Rooms: one of them.
	Rooms []Room
	Chain string
	// Concern and About choose by the last fate: everything that waits for one destination, route or hop.
	Concern chain.Concern
	About   string
	// After is the id after which the list goes on.
	After string
	// Limit is the most messages in one answer; 0 is 100.
	Limit int
}

// Match says that a group satisfies the filter.
func (f *Filter) Match(w *Wait) bool {
	return (len(f.Rooms) == 0 || slices.Contains(f.Rooms, w.Room)) &&
		(f.Chain == "" || w.Chain == f.Chain) &&
		(f.Concern == "" || w.Last.Concern == f.Concern) &&
		(f.About == "" || w.Last.About == f.About)
}

// List gives messages in the order of their ids, and the After of the next page, which is empty at the end.
func (v *View) List(f Filter) (list []*Message, next string) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sort()
	at, found := slices.BinarySearch(v.order, f.After)
	if found {
		at++
	}
	for ; at < len(v.order); at++ {
		it := v.items[v.order[at]]
		if it == nil || !slices.ContainsFunc(it.m.Groups, func(w Wait) bool { return f.Match(&w) }) {
			continue
		}
		if len(list) == f.Limit {
			return list, list[len(list)-1].ID
		}
		list = append(list, it.m)
	}
	return list, ""
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
