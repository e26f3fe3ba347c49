package spool

import (
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	spoolv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/spool/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

// format is the version that every stored record carries.
const format = 1

func encodeAccepted(a *Accepted) *spoolv1.Entry {
	return &spoolv1.Entry{Kind: &spoolv1.Entry_Accepted{Accepted: &spoolv1.Accepted{
		Id: a.ID, Received: nanos(a.Received), Envelope: encodeEnvelope(&a.Envelope), Starts: encodeStarts(a.Starts),
		Reports: a.Reports, Body: encodeBody(a.Body), Inline: a.Body.Inline,
	}}}
}

func encodeSettled(s *Settled) *spoolv1.Entry {
	var t reportTable
	p := &spoolv1.Settled{Id: s.ID, Ends: encodeEnds(s.Ends), Waits: encodeWaits(s.Waits, &t)}
	p.Reports = t.list
	return &spoolv1.Entry{Kind: &spoolv1.Entry_Settled{Settled: p}}
}

func encodeWaiting(m *depot.Message) *spoolv1.Waiting {
	var t reportTable
	p := &spoolv1.Waiting{
		Version: format, Id: m.ID, Received: nanos(m.Received), Envelope: encodeEnvelope(&m.Envelope),
		Reports: m.Reports, Body: encodeBody(m.Body), Sequence: m.Seq, Waits: encodeWaits(m.Groups, &t),
		Ended: fromIDs(m.Ended),
	}
	for _, s := range m.Running {
		p.Starts = append(p.Starts, &spoolv1.Start{Chain: s.Chain, Recipients: fromIDs(s.Recipients), DoneAt: t.add(s.Done)})
	}
	p.Done = t.list
	return p
}

// reportTable stores each hop report once: the groups of a message mostly share them, edits and all.
type reportTable struct {
	list []*spoolv1.HopReport
	at   map[string]uint32
}

func (t *reportTable) add(reports []chain.Report) []uint32 {
	var at []uint32
	for i := range reports {
		p := encodeReport(&reports[i])
		key, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
		n, known := t.at[string(key)]
		if !known || err != nil {
			if t.at == nil {
				t.at = make(map[string]uint32)
			}
			n = uint32(len(t.list))
			t.list = append(t.list, p)
			t.at[string(key)] = n
		}
		at = append(at, n)
	}
	return at
}

// shrink leaves out the largest edits until m fits; the hop is then run again on waking. It is needed only by
// messages whose groups were edited very differently.
func shrink(m proto.Message, reports []*spoolv1.HopReport, limit int) error {
	for proto.Size(m) > limit {
		var largest *spoolv1.HopReport
		for _, r := range reports {
			if r.Edits != nil && (largest == nil || proto.Size(r.Edits) > proto.Size(largest.Edits)) {
				largest = r
			}
		}
		if largest == nil {
			return fmt.Errorf("%w: %d bytes without any edits, the limit is %d", ErrTooLarge, proto.Size(m), limit)
		}
		largest.Edits, largest.EditsOmitted = nil, true
	}
	return nil
}

func encodeBody(b Body) *spoolv1.Body {
	return &spoolv1.Body{Size: uint64(b.Size), Chunks: uint32(b.Chunks), Crc32C: b.CRC}
}

func encodeStarts(ss []Start) []*spoolv1.Start {
	out := make([]*spoolv1.Start, 0, len(ss))
	for _, s := range ss {
		p := &spoolv1.Start{Chain: s.Chain, Recipients: fromIDs(s.Recipients)}
		for i := range s.Done {
			p.Done = append(p.Done, encodeReport(&s.Done[i]))
		}
		out = append(out, p)
	}
	return out
}

func encodeEnds(ends []End) []*spoolv1.End {
	var out []*spoolv1.End
	for i := range ends {
		e := &ends[i]
		out = append(out, &spoolv1.End{
			Recipients: fromIDs(e.Recipients), Kind: string(e.Kind), Reason: text(e.Reason), Fate: encodeFate(&e.Fate),
		})
	}
	return out
}

func encodeWaits(waits []Wait, t *reportTable) []*spoolv1.Wait {
	var out []*spoolv1.Wait
	for i := range waits {
		w := &waits[i]
		out = append(out, &spoolv1.Wait{
			Recipients: fromIDs(w.Recipients), Chain: w.Chain, Room: string(w.Room), Attempts: uint32(w.Attempts),
			Since: nanos(w.Since), Next: nanos(w.Next), Last: encodeFate(&w.Last), DoneAt: t.add(w.Done),
			Open: w.Open, Released: w.Released,
		})
	}
	return out
}

func encodeEnvelope(e *mail.Envelope) *spoolv1.Envelope {
	p := &spoolv1.Envelope{
		ReversePath: encodeAddress(e.ReversePath), Ret: e.Ret, Envid: []byte(e.EnvID),
		EightBitMime: e.EightBitMIME, Smtputf8: e.SMTPUTF8,
		Origin: &spoolv1.Origin{
			Direction: string(e.Origin.Direction), Listener: e.Origin.Listener, Relay: e.Origin.Relay,
			User: text(e.Origin.User), Client: e.Origin.Client, Helo: text(e.Origin.Helo), Tls: e.Origin.TLS,
		},
		Recipients: make([]*spoolv1.Recipient, 0, len(e.Recipients)),
	}
	for _, r := range e.Recipients {
		p.Recipients = append(p.Recipients, &spoolv1.Recipient{
			Id: string(r.ID), Address: encodeAddress(r.Address), Notify: r.Notify, Orcpt: []byte(r.ORcpt),
		})
	}
	return p
}

func encodeAddress(a mail.Address) *spoolv1.Address {
	return &spoolv1.Address{Local: []byte(a.Local), Domain: []byte(a.Domain)}
}

func encodeReply(r *mail.Reply) *spoolv1.Reply {
	if r == nil {
		return nil
	}
	return &spoolv1.Reply{Code: int32(r.Code), Enhanced: r.Enhanced, Text: text(r.Text), Private: text(r.Private)}
}

func encodeFate(f *chain.Fate) *spoolv1.Fate {
	return &spoolv1.Fate{
		Recipient: string(f.Recipient), Kind: string(f.Kind), Concern: string(f.Concern), About: text(f.About),
		Reply: encodeReply(f.Reply), After: int64(f.After), Host: text(f.Host), Reason: text(f.Reason), ByError: f.ByError,
	}
}

func encodeReport(r *chain.Report) *spoolv1.HopReport {
	p := &spoolv1.HopReport{
		Instance: r.Instance, Hash: r.Hash, Recipients: fromIDs(r.Recipients), Outcome: string(r.Outcome),
		Verdict: r.Verdict.String(), Took: int64(r.Took), EditsOmitted: r.EditsOmitted, Reason: text(r.Reason),
	}
	if !r.Edits.Empty() {
		p.Edits = encodeEdits(&r.Edits)
	}
	for _, n := range r.Notes {
		p.Notes = append(p.Notes, encodeNote(n))
	}
	return p
}

func encodeNote(n slog.Attr) *spoolv1.Note {
	return &spoolv1.Note{Key: text(n.Key), Value: text(n.Value.String())}
}

func encodeEdits(e *mail.Edits) *spoolv1.Edits {
	p := &spoolv1.Edits{}
	for _, s := range e.Splices {
		p.Splices = append(p.Splices, &spoolv1.Splice{Offset: uint64(s.Offset), Length: uint64(s.Length), Insert: s.Insert})
	}
	if e.ReversePath != nil {
		p.ReversePath = encodeAddress(*e.ReversePath)
	}
	for _, r := range e.Rewrites {
		p.Rewrites = append(p.Rewrites, &spoolv1.Rewrite{Recipient: string(r.Recipient), To: encodeAddress(r.To)})
	}
	return p
}

func fromIDs(ids []mail.RecipientID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
