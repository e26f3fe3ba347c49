package spool

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	spoolv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/spool/v1"
)

// Event is something that happened to one message. Ends and waits are entered by Settle itself, acceptances by the
// shard; the rest is what the dispatcher reports.
type Event struct {
	ID       string
	At       time.Time
	Instance string
	// Revision of the configuration that the message ran under.
	Revision string
	Chain    string
	// Hops are without the splices of their edits: their diffs say what these did.
	Hops []Hop
	// Kept, with Hops: the stages behind the message that were not run again.
	Kept  []string
	Fates []chain.Fate
	Ends  []End
	Waits []Wait
	// Seq is the log sequence of an end or wait, else 0.
	Seq uint64
	// Accepted is set in the event of the message's acceptance, which may stand in the trail twice after a crash, or
	// not at all.
	Accepted *Acceptance
	// Text is for people: what happened, if it is none of the above; Actor the person who did it.
	Text  string
	Actor string
}

// Hop is the report of a hop, and when it arrived.
type Hop struct {
	chain.Report
	At time.Time
}

// Acceptance is what a message was when it was accepted.
type Acceptance struct {
	Received time.Time
	Envelope mail.Envelope
	Size     int64
	// About may be empty in what was written after a crash.
	About
	// Reports is the message that this one, a report of ours, is about.
	Reports string
	// Chains are those that take it. The trail does not keep them: they are empty in what was read.
	Chains []string
}

// About is what the trail keeps of a message's header. Nothing else does.
type About struct {
	// MessageID and Subject are decoded; the trail keeps the first KiB of each.
	MessageID string
	Subject   string
	// Prepended are the fields that we put above the message.
	Prepended []byte
}

// AboutOf gives what the trail keeps of the header of the message id.
func AboutOf(h *mail.Header, id string) About {
	a := About{MessageID: mail.DecodeWords(h.Get("Message-ID")), Subject: mail.DecodeWords(h.Get("Subject"))}
	if len(h.Fields) > 0 {
		if f := h.Fields[0]; strings.EqualFold(f.Name, "Received") && bytes.Contains(f.Raw, []byte("id "+id+" ")) {
			a.Prepended = f.Raw
		}
	}
	return a
}

const (
	// aboutLimit bounds what is kept of a field, in bytes.
	aboutLimit = 1 << 10
	// prependedLimit is more than our Received field takes.
	prependedLimit = 8 << 10
	// diffsLimit bounds the diffs of one event, in bytes: of a message that was forked for each of a thousand
	// recipients, those of the first are kept.
	diffsLimit = 256 << 10
)

func acceptanceOf(a *Accepted) *Acceptance {
	e := &Acceptance{Received: a.Received, Envelope: a.Envelope, Size: a.Body.Size, About: a.About, Reports: a.Reports}
	for _, s := range a.Starts {
		e.Chains = append(e.Chains, s.Chain)
	}
	return e
}

func encodeEvent(e *Event) *spoolv1.TrailEvent {
	// The hops done are told by the events of the hops.
	bare := slices.Clone(e.Waits)
	for i := range bare {
		bare[i].Done = nil
	}
	p := &spoolv1.TrailEvent{
		Id: e.ID, At: nanos(e.At), Instance: text(e.Instance), Revision: e.Revision, Chain: e.Chain, Ends: encodeEnds(e.Ends),
		Waits: encodeWaits(bare, &reportTable{}), Sequence: e.Seq, Text: text(e.Text), Actor: text(e.Actor), Kept: e.Kept,
	}
	left := diffsLimit
	for i := range e.Hops {
		h := encodeHop(&e.Hops[i])
		if n := diffSize(h.Diff); n > left {
			h.Diff = &spoolv1.Diff{Cut: true}
		} else {
			left -= n
		}
		p.Hops = append(p.Hops, h)
	}
	for i := range e.Fates {
		p.Fates = append(p.Fates, encodeFate(&e.Fates[i]))
	}
	if a := e.Accepted; a != nil {
		p.Accepted = &spoolv1.TrailAccepted{
			Received: nanos(a.Received), Envelope: encodeEnvelope(&a.Envelope), Size: uint64(max(a.Size, 0)), MessageId: short(a.MessageID),
			Subject: short(a.Subject), Reports: a.Reports,
		}
		if len(a.Prepended) <= prependedLimit {
			p.Accepted.Prepended = a.Prepended
		}
	}
	return p
}

// short is s cut at a character's border.
func short(s string) string {
	s = text(s)
	if len(s) <= aboutLimit {
		return s
	}
	n := aboutLimit
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// encodeHop is a report as the trail keeps it: its diff instead of its splices.
func encodeHop(h *Hop) *spoolv1.HopReport {
	r := h.Report
	r.Edits.Splices = nil
	p := encodeReport(&r)
	p.At, p.Shadow, p.Diff = nanos(h.At), r.Shadow, encodeDiff(&r.Diff)
	return p
}

func encodeDiff(d *mail.Diff) *spoolv1.Diff {
	if len(d.Hunks) == 0 && !d.Cut {
		return nil
	}
	p := &spoolv1.Diff{Cut: d.Cut}
	for i := range d.Hunks {
		h := &d.Hunks[i]
		p.Hunks = append(p.Hunks, &spoolv1.Hunk{
			Offset: uint64(h.Offset), Length: uint64(h.Length), Removed: h.Removed, Inserted: h.Inserted, Before: h.Before, After: h.After,
		})
	}
	return p
}

func diffSize(p *spoolv1.Diff) int {
	n := 0
	for _, h := range p.GetHunks() {
		n += len(h.Removed) + len(h.Inserted) + len(h.Before) + len(h.After)
	}
	return n
}

func decodeEvent(p *spoolv1.TrailEvent) (*Event, error) {
	waits, err := decodeWaits(p.Waits, nil)
	if err != nil {
		return nil, fmt.Errorf("event of %s: %w", p.Id, err)
	}
	e := &Event{
		ID: p.Id, At: instant(p.At), Instance: p.Instance, Revision: p.Revision, Chain: p.Chain,
		Ends: decodeEnds(p.Ends), Waits: waits, Seq: p.Sequence, Text: p.Text, Actor: p.Actor, Kept: p.Kept,
	}
	for _, h := range p.Hops {
		e.Hops = append(e.Hops, decodeHop(h))
	}
	for _, f := range p.Fates {
		e.Fates = append(e.Fates, decodeFate(f))
	}
	if a := p.Accepted; a != nil {
		e.Accepted = &Acceptance{
			Received: instant(a.Received), Envelope: decodeEnvelope(a.Envelope), Size: int64(a.Size), Reports: a.Reports,
			About: About{MessageID: a.MessageId, Subject: a.Subject, Prepended: a.Prepended},
		}
	}
	return e, nil
}

func decodeHop(p *spoolv1.HopReport) Hop {
	h := Hop{Report: decodeReport(p), At: instant(p.At)}
	h.Shadow, h.Diff.Cut = p.Shadow, p.Diff.GetCut()
	for _, q := range p.Diff.GetHunks() {
		h.Diff.Hunks = append(h.Diff.Hunks, mail.Hunk{
			Offset: int64(q.Offset), Length: int64(q.Length), Removed: q.Removed, Inserted: q.Inserted, Before: q.Before, After: q.After,
		})
	}
	return h
}
