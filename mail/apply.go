package mail

import (
	"fmt"
)

// Apply makes the content that the splices turn c into, owned by the caller; c stays as it is, with its owners. The
// splices must be sorted, disjoint and within c; their Insert bytes are taken over. No bytes of a large body are
// copied: a result above InlineLimit is a piece table over the file of c, which stays open until both are released.
func Apply(c Content, splices []Splice) (Content, error) {
	size, err := checkSplices(splices, c.Size())
	if err != nil {
		return nil, fmt.Errorf("apply splices: %w", err)
	}
	if len(splices) == 0 {
		return c.Retain(), nil
	}
	if size <= InlineLimit {
		return applyInline(c, splices, size)
	}
	t := tabler{}
	var b base
	switch o := c.(type) {
	case *buffer:
		t.source = []piece{{length: int64(len(o.b)), data: o.b}}
	case *pieces:
		t.source, b = o.table, o.base
	default:
		t.source, b = []piece{{length: c.Size()}}, foreignBase{c}
	}
	pos := int64(0)
	for _, s := range splices {
		t.keep(pos, s.Offset)
		t.add(piece{length: int64(len(s.Insert)), data: s.Insert})
		pos = s.Offset + s.Length
	}
	t.keep(pos, c.Size())
	if b != nil {
		b.retain()
	}
	return newPieces(t.table, size, b), nil
}

func applyInline(c Content, splices []Splice, size int64) (Content, error) {
	out := make([]byte, size)
	at, pos := 0, int64(0)
	keep := func(end int64) error {
		n := int(end - pos)
		if err := readFull(c, out[at:at+n], pos); err != nil {
			return fmt.Errorf("apply splices: %w", err)
		}
		at += n
		return nil
	}
	for _, s := range splices {
		if err := keep(s.Offset); err != nil {
			return nil, err
		}
		at += copy(out[at:], s.Insert)
		pos = s.Offset + s.Length
	}
	if err := keep(c.Size()); err != nil {
		return nil, err
	}
	return FromBytes(out), nil
}

// tabler writes a new piece table from an old one, in order.
type tabler struct {
	source []piece
	next   int // the first piece of source that can still hold what is asked for
	table  []piece
	size   int64
}

// keep takes over the bytes [from, to) of the source.
func (t *tabler) keep(from, to int64) {
	for from < to {
		q := t.source[t.next]
		if end := q.start + q.length; end <= from {
			t.next++
			continue
		}
		in := from - q.start
		n := min(to-from, q.length-in)
		if q.data != nil {
			t.add(piece{length: n, data: q.data[in : in+n]})
		} else {
			t.add(piece{length: n, off: q.off + in})
		}
		from += n
	}
}

func (t *tabler) add(q piece) {
	if q.length == 0 {
		return
	}
	q.start = t.size
	t.size += q.length
	t.table = append(t.table, q)
}
