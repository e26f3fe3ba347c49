package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	spoolv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/spool/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/stage"
)

// decodeRecord reads one record of the log. An error means that the log cannot be understood: nothing may run.
func decodeRecord(data []byte) (*spoolv1.Record, error) {
	r := &spoolv1.Record{}
	if err := proto.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("spool: record: %w", err)
	}
	if r.Version != format {
		return nil, fmt.Errorf("spool: record of format %d; this release reads %d", r.Version, format)
	}
	for _, e := range r.Entries {
		if e.Kind == nil {
			return nil, errors.New("spool: record with an entry of an unknown kind")
		}
	}
	return r, nil
}

func decodeAccepted(p *spoolv1.Accepted) *Accepted {
	a := &Accepted{
		ID: p.Id, Received: instant(p.Received), Envelope: decodeEnvelope(p.Envelope), Reports: p.Reports,
		Body: decodeBody(p.Body),
	}
	if len(p.Inline) > 0 {
		a.About = AboutOf(mail.FromBytes(p.Inline).Header(), a.ID)
	}
	for _, s := range p.Starts {
		start := Start{Chain: s.Chain, Recipients: toIDs(s.Recipients)}
		for _, r := range s.Done {
			start.Done = append(start.Done, decodeReport(r))
		}
		a.Starts = append(a.Starts, start)
	}
	return a
}

func decodeSettled(p *spoolv1.Settled) (*Settled, error) {
	done := decodeReports(p.Reports)
	waits, err := decodeWaits(p.Waits, done)
	if err != nil {
		return nil, fmt.Errorf("spool: settled %s: %w", p.Id, err)
	}
	return &Settled{ID: p.Id, Ends: decodeEnds(p.Ends), Waits: waits}, nil
}

func decodeWaiting(data []byte) (*depot.Message, error) {
	p := &spoolv1.Waiting{}
	if err := proto.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("spool: waiting message: %w", err)
	}
	if p.Version != format {
		return nil, fmt.Errorf("spool: waiting message of format %d; this release reads %d", p.Version, format)
	}
	done := decodeReports(p.Done)
	waits, err := decodeWaits(p.Waits, done)
	if err != nil {
		return nil, fmt.Errorf("spool: waiting message %s: %w", p.Id, err)
	}
	m := &depot.Message{
		ID: p.Id, Received: instant(p.Received), Envelope: decodeEnvelope(p.Envelope), Reports: p.Reports,
		Body: decodeBody(p.Body), Seq: p.Sequence, Groups: waits, Ended: toIDs(p.Ended),
	}
	for _, s := range p.Starts {
		picked, err := pickReports(done, s.DoneAt)
		if err != nil {
			return nil, fmt.Errorf("spool: waiting message %s: %w", p.Id, err)
		}
		m.Running = append(m.Running, Start{Chain: s.Chain, Recipients: toIDs(s.Recipients), Done: picked})
	}
	return m, nil
}

func decodeBody(p *spoolv1.Body) Body {
	return Body{Size: int64(p.GetSize()), Chunks: int(p.GetChunks()), CRC: p.GetCrc32C()}
}

func decodeEnds(ends []*spoolv1.End) []End {
	var out []End
	for _, e := range ends {
		out = append(out, End{
			Recipients: toIDs(e.Recipients), Kind: EndKind(e.Kind), Reason: e.Reason, Fate: decodeFate(e.Fate),
		})
	}
	return out
}

func decodeWaits(waits []*spoolv1.Wait, done []chain.Report) ([]Wait, error) {
	var out []Wait
	for _, w := range waits {
		picked, err := pickReports(done, w.DoneAt)
		if err != nil {
			return nil, err
		}
		out = append(out, Wait{
			Recipients: toIDs(w.Recipients), Chain: w.Chain, Room: Room(w.Room), Attempts: int(w.Attempts),
			Since: instant(w.Since), Next: instant(w.Next), Last: decodeFate(w.Last), Done: picked,
			Open: w.Open, Released: w.Released,
		})
	}
	return out, nil
}

func pickReports(done []chain.Report, at []uint32) ([]chain.Report, error) {
	var out []chain.Report
	for _, i := range at {
		if int(i) >= len(done) {
			return nil, fmt.Errorf("names hop report %d of %d", i, len(done))
		}
		out = append(out, done[i])
	}
	return out, nil
}

func decodeReports(list []*spoolv1.HopReport) []chain.Report {
	var out []chain.Report
	for _, r := range list {
		out = append(out, decodeReport(r))
	}
	return out
}

func decodeEnvelope(p *spoolv1.Envelope) mail.Envelope {
	o := p.GetOrigin()
	e := mail.Envelope{
		ReversePath: decodeAddress(p.GetReversePath()), Ret: p.GetRet(), EnvID: string(p.GetEnvid()),
		EightBitMIME: p.GetEightBitMime(), SMTPUTF8: p.GetSmtputf8(),
		Origin: mail.Origin{
			Direction: mail.Direction(o.GetDirection()), Listener: o.GetListener(), Relay: o.GetRelay(),
			User: o.GetUser(), Client: o.GetClient(), Helo: o.GetHelo(), TLS: o.GetTls(),
		},
	}
	for _, r := range p.GetRecipients() {
		e.Recipients = append(e.Recipients, mail.Recipient{
			ID: mail.RecipientID(r.Id), Address: decodeAddress(r.Address), Notify: r.Notify, ORcpt: string(r.Orcpt),
		})
	}
	return e
}

func decodeAddress(p *spoolv1.Address) mail.Address {
	return mail.Address{Local: string(p.GetLocal()), Domain: string(p.GetDomain())}
}

func decodeReply(p *spoolv1.Reply) *mail.Reply {
	if p == nil {
		return nil
	}
	return &mail.Reply{Code: int(p.Code), Enhanced: p.Enhanced, Text: p.Text, Private: p.Private}
}

func decodeFate(p *spoolv1.Fate) chain.Fate {
	if p == nil {
		return chain.Fate{}
	}
	return chain.Fate{
		Recipient: mail.RecipientID(p.Recipient), Kind: chain.FateKind(p.Kind), Concern: chain.Concern(p.Concern),
		About: p.About, Reply: decodeReply(p.Reply), After: time.Duration(p.After), Host: p.Host, Reason: p.Reason,
		ByError: p.ByError,
	}
}

func decodeReport(p *spoolv1.HopReport) chain.Report {
	r := chain.Report{
		Instance: p.Instance, Hash: p.Hash, Recipients: toIDs(p.Recipients), Outcome: chain.Outcome(p.Outcome),
		Verdict: decodeVerdict(p.Verdict), Took: time.Duration(p.Took), EditsOmitted: p.EditsOmitted, Reason: p.Reason,
	}
	if p.Edits != nil {
		r.Edits = decodeEdits(p.Edits)
	}
	for _, n := range p.Notes {
		r.Notes = append(r.Notes, slog.String(n.Key, n.Value))
	}
	return r
}

// decodeVerdict maps what it does not know to no verdict at all, so that it never reads as Continue.
func decodeVerdict(name string) stage.Kind {
	for k := stage.KindContinue; k <= stage.KindDiscard; k++ {
		if k.String() == name {
			return k
		}
	}
	return -1
}

func decodeEdits(p *spoolv1.Edits) mail.Edits {
	var e mail.Edits
	for _, s := range p.Splices {
		e.Splices = append(e.Splices, mail.Splice{Offset: int64(s.Offset), Length: int64(s.Length), Insert: s.Insert})
	}
	if p.ReversePath != nil {
		a := decodeAddress(p.ReversePath)
		e.ReversePath = &a
	}
	for _, r := range p.Rewrites {
		e.Rewrites = append(e.Rewrites, mail.Rewrite{Recipient: mail.RecipientID(r.Recipient), To: decodeAddress(r.To)})
	}
	return e
}

func toIDs(ids []string) []mail.RecipientID {
	if len(ids) == 0 {
		return nil
	}
	out := make([]mail.RecipientID, len(ids))
	for i, id := range ids {
		out[i] = mail.RecipientID(id)
	}
	return out
}

func instant(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos).UTC()
}

// text makes s storable: protobuf refuses strings that are not UTF-8, and what a remote host says is not ours to
// choose.
func text(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
