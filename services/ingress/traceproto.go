package ingress

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

func summaryProto(m *told) *adminv1.TraceSummary {
	a := m.accepted
	out := &adminv1.TraceSummary{Id: m.id, Received: timestamppb.New(a.Received), ReversePath: utf8(a.Envelope.ReversePath.String()), MessageId: a.MessageID,
		Subject: a.Subject, Size: uint64(max(a.Size, 0)), States: m.count()}
	for _, r := range a.Envelope.Recipients {
		out.Recipients = append(out.Recipients, utf8(r.Address.String()))
	}
	return out
}

// utf8 is s as a protobuf string can carry it: the log keeps addresses as the bytes that they came as.
func utf8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// traceProto is all that is known of a message that was accepted at a time, by its id.
func traceProto(m *told, at time.Time, events []*spool.Event) *adminv1.Trace {
	out := &adminv1.Trace{Id: m.id, Received: timestamppb.New(at), Accepted: m.accepted != nil}
	if a := m.accepted; a != nil {
		out.Received, out.Size = timestamppb.New(a.Received), uint64(max(a.Size, 0))
		out.MessageId, out.Subject, out.Prepended, out.Reports = a.MessageID, a.Subject, a.Prepended, a.Reports
	} else if p := m.present; p != nil {
		out.Received, out.Size, out.Reports = timestamppb.New(p.Received), uint64(max(p.Body.Size, 0)), p.Reports
	}
	if e := m.envelope(); e != nil {
		out.Envelope = chain.EnvelopeProto(e)
		out.Envelope.ReversePath = utf8(out.Envelope.ReversePath)
		for _, r := range out.Envelope.Recipients {
			r.Address = utf8(r.Address)
		}
	}
	left := eventsLimit
	for i, e := range events {
		p := eventProto(e)
		n := proto.Size(p)
		if n > left-eventsReserve { // what was changed is the most of it; what became of the message is what matters
			dropDiffs(p)
			n = proto.Size(p)
		}
		if left -= n; left < 0 {
			out.Events = append(out.Events, &adminv1.TraceEvent{At: timestamppb.New(e.At), Text: fmt.Sprintf("%d more events are left out: there are too many", len(events)-i)})
			break
		}
		out.Events = append(out.Events, p)
	}
	return out
}

func dropDiffs(p *adminv1.TraceEvent) {
	for _, h := range p.GetHops() {
		if h.Diff != nil {
			h.Diff.Hunks, h.Diff.Cut = nil, true
		}
	}
}

func eventProto(e *spool.Event) *adminv1.TraceEvent {
	p := &adminv1.TraceEvent{At: timestamppb.New(e.At), Shard: e.Instance, Revision: e.Revision, Chain: e.Chain, Text: e.Text, Actor: e.Actor, Kept: e.Kept}
	for i := range e.Hops {
		p.Hops = append(p.Hops, hopProto(&e.Hops[i]))
	}
	for _, f := range e.Fates {
		p.Fates = append(p.Fates, chain.FateProto(f))
	}
	for _, end := range e.Ends {
		p.Ends = append(p.Ends, &adminv1.TraceEnd{Recipients: ids(end.Recipients), Kind: string(end.Kind), Reason: end.Reason, Fate: chain.FateProto(end.Fate)})
		if end.Kind == spool.EndDeleted && p.Actor == "" {
			p.Actor = end.Reason
		}
	}
	for _, w := range e.Waits {
		q := &adminv1.TraceWait{Recipients: ids(w.Recipients), Chain: w.Chain, Room: string(w.Room), Attempts: uint32(max(w.Attempts, 0)), Last: chain.FateProto(w.Last)}
		if !w.Next.IsZero() {
			q.Next = timestamppb.New(w.Next)
		}
		p.Waits = append(p.Waits, q)
	}
	return p
}

func ids(list []mail.RecipientID) []string {
	var out []string
	for _, id := range list {
		out = append(out, string(id))
	}
	return out
}

func hopProto(h *spool.Hop) *adminv1.HopStep {
	p := &adminv1.HopStep{Diff: diffProto(&h.Report), Shadow: h.Shadow}
	if !h.At.IsZero() {
		p.At = timestamppb.New(h.At)
	}
	r := h.Report
	r.Edits, r.Diff = mail.Edits{}, mail.Diff{}
	p.Report = chain.ReportProto(r)
	return p
}

// diffProto is nil where nothing was changed.
func diffProto(r *chain.Report) *adminv1.Diff {
	out := &adminv1.Diff{Cut: r.Diff.Cut || r.EditsOmitted}
	for _, h := range r.Diff.Hunks {
		out.Hunks = append(out.Hunks, &adminv1.Hunk{Offset: uint64(h.Offset), Length: uint64(h.Length), Removed: h.Removed, Inserted: h.Inserted, Before: h.Before, After: h.After})
	}
	if a := r.Edits.ReversePath; a != nil {
		out.ReversePath = proto.String(utf8(a.String()))
	}
	for _, w := range r.Edits.Rewrites {
		out.Rewrites = append(out.Rewrites, &stagev1.Rewrite{Recipient: string(w.Recipient), Address: utf8(w.To.String())})
	}
	if len(out.Hunks) == 0 && len(out.Rewrites) == 0 && out.ReversePath == nil && !out.Cut {
		return nil
	}
	return out
}
