package chain

import (
	"math"

	"github.com/stagecoachmail/stagecoach/mail"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
)

// diffOf shows what e changes in c. It is for people: what cannot be read is missing, and no failure.
func diffOf(c mail.Content, e mail.Edits) mail.Diff {
	d, err := mail.NewDiff(c, e.Splices)
	if err != nil {
		return mail.Diff{Cut: true}
	}
	return d
}

// diffProto leaves out the inserted bytes that the edits beside it have.
func diffProto(d mail.Diff, edits bool) *relayv1.Diff {
	if len(d.Hunks) == 0 && !d.Cut {
		return nil
	}
	out := &relayv1.Diff{Cut: d.Cut}
	for i := range d.Hunks {
		h := &d.Hunks[i]
		p := &relayv1.Hunk{Offset: uint64(h.Offset), Length: uint64(h.Length), Removed: h.Removed, Before: h.Before, After: h.After}
		if !edits || d.Cut {
			p.Inserted = h.Inserted
		}
		out.Hunks = append(out.Hunks, p)
	}
	return out
}

// diffFrom reads a diff. Mail does not depend on it: a peer that sends none, or one that is too large or not of these
// edits, has not failed; what can be shown then is where its edits are.
func diffFrom(p *relayv1.Diff, e mail.Edits, omitted bool) mail.Diff {
	places := mail.Places(e.Splices)
	if p == nil {
		return withoutBytes(places, omitted)
	}
	d := mail.Diff{Cut: p.GetCut()}
	for i, q := range p.GetHunks() {
		if q.GetOffset() > math.MaxInt64/2 || q.GetLength() > math.MaxInt64/2 {
			return withoutBytes(places, omitted)
		}
		h := mail.Hunk{Offset: int64(q.GetOffset()), Length: int64(q.GetLength()), Removed: q.GetRemoved(), Inserted: q.GetInserted(), Before: q.GetBefore(), After: q.GetAfter()}
		if !omitted {
			if i >= len(places) || places[i].Offset != h.Offset || places[i].Length != h.Length {
				return withoutBytes(places, omitted)
			}
			if !d.Cut {
				h.Inserted = places[i].Inserted
			}
		}
		d.Hunks = append(d.Hunks, h)
	}
	if d.Validate() != nil || !omitted && !d.Cut && len(d.Hunks) != len(places) {
		return withoutBytes(places, omitted)
	}
	return d
}

// withoutBytes is a diff of edits alone: it says what was inserted and where, but not what was there.
func withoutBytes(places []mail.Hunk, omitted bool) mail.Diff {
	d := mail.Diff{Hunks: places, Cut: omitted}
	for _, h := range places {
		d.Cut = d.Cut || h.Length > 0
	}
	if d.Validate() != nil {
		return mail.Diff{Cut: true}
	}
	return d
}
