package mail

import (
	"bytes"
	"errors"
	"fmt"
	"math"
)

const (
	// DiffLimit is the size in bytes of a Diff: of the bytes in its hunks, and hunkCost for each.
	DiffLimit = 16 << 10
	// ContextLimit is the most that a Hunk shows of what stands on one side of it, in bytes.
	ContextLimit = 200
	// contextLines is the most whole lines of it.
	contextLines = 3
	// hunkCost is what a hunk counts besides its bytes, so that a thousand empty ones are not for nothing.
	hunkCost = 32
)

// Hunk is one place where a message was changed: Length bytes at Offset were replaced by Inserted. Offset and Length
// are in bytes of the message before.
type Hunk struct {
	Offset   int64
	Length   int64
	Removed  []byte
	Inserted []byte
	// Before and After are what stands around it in the message before: the lines above and below, at most
	// ContextLimit bytes each, the rest of a line that is longer. Where hunks are near, what is between them is shown
	// once.
	Before []byte
	After  []byte
}

// Diff is what splices changed, for people, bounded by DiffLimit. Its hunks are in the order of their offsets and do
// not touch each other.
type Diff struct {
	Hunks []Hunk
	// Cut: hunks are missing, or bytes of Removed and Inserted are. Length and Offset are always right.
	Cut bool
}

// Places gives the hunks of sorted, disjoint splices with what they insert, and without what only the message can
// tell. Splices that touch each other are one hunk; those that change nothing are none.
func Places(splices []Splice) []Hunk {
	var out []Hunk
	for _, s := range splices {
		if s.Length == 0 && len(s.Insert) == 0 {
			continue
		}
		if n := len(out); n > 0 && out[n-1].end() == s.Offset {
			h := &out[n-1]
			h.Length += s.Length
			h.Inserted = append(h.Inserted[:len(h.Inserted):len(h.Inserted)], s.Insert...)
			continue
		}
		out = append(out, Hunk{Offset: s.Offset, Length: s.Length, Inserted: s.Insert})
	}
	return out
}

// NewDiff gives what the splices change in c, which they must fit. Inserted bytes are shared with the splices unless
// the diff is cut. It reads no more of c than it shows.
func NewDiff(c Content, splices []Splice) (Diff, error) {
	if _, err := checkSplices(splices, c.Size()); err != nil {
		return Diff{}, fmt.Errorf("diff: %w", err)
	}
	var d Diff
	places := Places(splices)
	left, shown := int64(DiffLimit), int64(0) // shown: up to here the message has been shown
	for i, h := range places {
		next := c.Size()
		if i+1 < len(places) {
			next = places[i+1].Offset
		}
		if err := h.surround(c, shown, next); err != nil {
			return Diff{}, fmt.Errorf("diff: %w", err)
		}
		around := int64(hunkCost + len(h.Before) + len(h.After))
		if left -= around; left < 0 {
			d.Cut = true
			break
		}
		removed, inserted := share(left, h.Length, int64(len(h.Inserted)))
		if removed < h.Length || inserted < int64(len(h.Inserted)) {
			d.Cut = true
			h.Inserted = bytes.Clone(h.Inserted[:inserted]) // what is cut off is not kept in memory
		}
		left -= removed + inserted
		if h.Removed = make([]byte, removed); removed > 0 {
			if err := readFull(c, h.Removed, h.Offset); err != nil {
				return Diff{}, fmt.Errorf("diff: %w", err)
			}
		}
		d.Hunks = append(d.Hunks, h)
		if d.Cut {
			break
		}
		shown = h.end() + int64(len(h.After))
	}
	return d, nil
}

func (h *Hunk) end() int64 { return h.Offset + h.Length }

// share divides room between what was removed and what was inserted: half for each, and more if the other needs less.
func share(room, removed, inserted int64) (r, i int64) {
	r = min(removed, max(room/2, room-inserted))
	return r, min(inserted, room-r)
}

// surround reads the lines around the hunk: from low on, up to high.
func (h *Hunk) surround(c Content, low, high int64) error {
	// One byte more than is shown tells whether a line begins there.
	from := max(low, h.Offset-ContextLimit-1)
	b := make([]byte, h.Offset-from)
	if err := readFull(c, b, from); err != nil {
		return err
	}
	h.Before = linesAbove(b)
	to := min(high, h.end()+ContextLimit)
	b = make([]byte, to-h.end())
	if err := readFull(c, b, h.end()); err != nil {
		return err
	}
	h.After = linesBelow(b, to < high)
	return nil
}

// linesAbove gives the end of b: its last lines, and what is left of the line in which b ends.
func linesAbove(b []byte) []byte {
	if len(b) > ContextLimit {
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:] // the first line is not whole
		} else {
			b = b[1:]
		}
	}
	at := len(b)
	for range contextLines + 1 {
		if at = bytes.LastIndexByte(b[:at], '\n'); at < 0 {
			return bytes.Clone(b)
		}
	}
	return bytes.Clone(b[at+1:])
}

// linesBelow gives the beginning of b: its first lines. more: the last line of b goes on after it.
func linesBelow(b []byte, more bool) []byte {
	at := 0
	for range contextLines {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			if !more || at == 0 {
				at = len(b)
			}
			break
		}
		at += i + 1
	}
	return bytes.Clone(b[:at])
}

// ErrDiffCut is what Apply gives where a diff has not all that was changed.
var ErrDiffCut = errors.New("the diff is cut")

// Apply makes of c, which has to be the message before, the message after, owned by the caller. A diff that is cut, or
// was made of another message, is an error.
func (d *Diff) Apply(c Content) (Content, error) {
	if d.Cut {
		return nil, ErrDiffCut
	}
	splices := make([]Splice, 0, len(d.Hunks))
	for i := range d.Hunks {
		h := &d.Hunks[i]
		if h.Offset < 0 || h.Length != int64(len(h.Removed)) || h.Offset > c.Size()-h.Length {
			return nil, fmt.Errorf("hunk %d at %d does not fit the message", i, h.Offset)
		}
		there := make([]byte, h.Length)
		if err := readFull(c, there, h.Offset); err != nil {
			return nil, fmt.Errorf("hunk %d: %w", i, err)
		}
		if !bytes.Equal(there, h.Removed) {
			return nil, fmt.Errorf("hunk %d at %d removes other bytes than the message has", i, h.Offset)
		}
		splices = append(splices, Splice{Offset: h.Offset, Length: h.Length, Insert: h.Inserted})
	}
	return Apply(c, splices)
}

// Validate says whether d keeps to the form and the limits of what NewDiff makes. Diffs that were received are checked
// by it.
func (d *Diff) Validate() error {
	left, end := int64(DiffLimit), int64(-1)
	for i := range d.Hunks {
		h := &d.Hunks[i]
		left -= int64(hunkCost + len(h.Removed) + len(h.Inserted) + len(h.Before) + len(h.After))
		switch {
		case left < 0:
			return fmt.Errorf("diff of more than %d bytes", DiffLimit)
		case len(h.Before) > ContextLimit || len(h.After) > ContextLimit:
			return fmt.Errorf("hunk %d: more than %d bytes around it", i, ContextLimit)
		case h.Offset < 0 || h.Length < 0 || h.Offset > math.MaxInt64/2 || h.Length > math.MaxInt64/2:
			return fmt.Errorf("hunk %d: [%d,+%d) is no place in a message", i, h.Offset, h.Length)
		case h.Offset <= end:
			return fmt.Errorf("hunk %d at %d is not after the one before it", i, h.Offset)
		case int64(len(h.Removed)) > h.Length || !d.Cut && int64(len(h.Removed)) < h.Length:
			return fmt.Errorf("hunk %d: removes %d bytes and shows %d", i, h.Length, len(h.Removed))
		}
		end = h.end()
	}
	return nil
}
