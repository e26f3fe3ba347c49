package chain

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/mail"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/stage"
)

// errWire is what a peer sent that this version does not understand: the stage failed.
var errWire = errors.New("not understood on the wire")

// text is s as a protobuf string can carry it. What hosts and clients say is bytes; a message that cannot be encoded
// would be lost, and with it the fate of a recipient.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func addressFrom(s string) (mail.Address, error) {
	if s == "" {
		return mail.Address{}, nil
	}
	return mail.ParseAddressUTF8(s)
}

// EnvelopeProto is e on the wire.
func EnvelopeProto(e *mail.Envelope) *stagev1.Envelope {
	out := &stagev1.Envelope{ReversePath: e.ReversePath.String(), Ret: text(e.Ret), Envid: text(e.EnvID), EightBitMime: e.EightBitMIME, Smtputf8: e.SMTPUTF8,
		Origin: &stagev1.Origin{Direction: string(e.Origin.Direction), Listener: e.Origin.Listener, Relay: e.Origin.Relay, User: text(e.Origin.User),
			Client: e.Origin.Client, Helo: text(e.Origin.Helo), Tls: e.Origin.TLS}}
	for _, r := range e.Recipients {
		out.Recipients = append(out.Recipients, &stagev1.Recipient{Id: string(r.ID), Address: r.Address.String(), Notify: text(r.Notify), Orcpt: text(r.ORcpt)})
	}
	return out
}

// EnvelopeFrom reads an envelope; an address that does not parse is an error.
func EnvelopeFrom(p *stagev1.Envelope) (mail.Envelope, error) {
	o := p.GetOrigin()
	e := mail.Envelope{Ret: p.GetRet(), EnvID: p.GetEnvid(), EightBitMIME: p.GetEightBitMime(), SMTPUTF8: p.GetSmtputf8(),
		Origin: mail.Origin{Direction: mail.Direction(o.GetDirection()), Listener: o.GetListener(), Relay: o.GetRelay(), User: o.GetUser(),
			Client: o.GetClient(), Helo: o.GetHelo(), TLS: o.GetTls()}}
	var err error
	if e.ReversePath, err = addressFrom(p.GetReversePath()); err != nil {
		return e, fmt.Errorf("reverse-path: %w", err)
	}
	for _, r := range p.GetRecipients() {
		a, err := mail.ParseAddressUTF8(r.GetAddress())
		if err != nil {
			return e, fmt.Errorf("recipient %s: %w", r.GetId(), err)
		}
		e.Recipients = append(e.Recipients, mail.Recipient{ID: mail.RecipientID(r.GetId()), Address: a, Notify: r.GetNotify(), ORcpt: r.GetOrcpt()})
	}
	return e, nil
}

// timeProto leaves the zero time unset.
func timeProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func timeFrom(p *timestamppb.Timestamp) time.Time {
	if p == nil {
		return time.Time{}
	}
	return p.AsTime()
}

func idsProto(ids []mail.RecipientID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}

func idsFrom(ids []string) []mail.RecipientID {
	out := make([]mail.RecipientID, len(ids))
	for i, id := range ids {
		out[i] = mail.RecipientID(id)
	}
	return out
}

func replyProto(r *mail.Reply) *stagev1.Reply {
	if r == nil {
		return nil
	}
	return &stagev1.Reply{Code: int32(r.Code), Enhanced: text(r.Enhanced), Text: text(r.Text), Private: text(r.Private)}
}

func replyFrom(p *stagev1.Reply) *mail.Reply {
	if p == nil {
		return nil
	}
	return &mail.Reply{Code: int(p.GetCode()), Enhanced: p.GetEnhanced(), Text: p.GetText(), Private: p.GetPrivate()}
}

func editsProto(e mail.Edits) *stagev1.Edits {
	if e.Empty() {
		return nil
	}
	out := &stagev1.Edits{}
	for _, s := range e.Splices {
		out.Splices = append(out.Splices, &stagev1.Splice{Offset: uint64(s.Offset), Length: uint64(s.Length), Insert: s.Insert})
	}
	if e.ReversePath != nil {
		out.ReversePath = &stagev1.ReversePathEdit{Address: e.ReversePath.String()}
	}
	for _, w := range e.Rewrites {
		out.Rewrites = append(out.Rewrites, &stagev1.Rewrite{Recipient: string(w.Recipient), Address: w.To.String()})
	}
	return out
}

func editsFrom(p *stagev1.Edits) (mail.Edits, error) {
	var e mail.Edits
	if p == nil {
		return e, nil
	}
	if unknown(p) {
		return e, fmt.Errorf("%w: an edit of an unknown kind", errWire)
	}
	for _, s := range p.GetSplices() {
		if unknown(s) || s.GetOffset() > 1<<62 || s.GetLength() > 1<<62 {
			return e, fmt.Errorf("%w: a splice out of range or of an unknown kind", errWire)
		}
		e.Splices = append(e.Splices, mail.Splice{Offset: int64(s.GetOffset()), Length: int64(s.GetLength()), Insert: s.GetInsert()})
	}
	if r := p.GetReversePath(); r != nil {
		a, err := addressFrom(r.GetAddress())
		if err != nil || unknown(r) {
			return e, fmt.Errorf("%w: reverse-path: %v", errWire, err)
		}
		e.ReversePath = &a
	}
	for _, w := range p.GetRewrites() {
		a, err := mail.ParseAddressUTF8(w.GetAddress())
		if err != nil || unknown(w) {
			return e, fmt.Errorf("%w: rewrite of %s: %v", errWire, w.GetRecipient(), err)
		}
		e.Rewrites = append(e.Rewrites, mail.Rewrite{Recipient: mail.RecipientID(w.GetRecipient()), To: a})
	}
	return e, nil
}

func unknown(m proto.Message) bool { return len(m.ProtoReflect().GetUnknown()) > 0 }

func kindFrom(v stagev1.Verdict) (stage.Kind, error) {
	if v <= stagev1.Verdict_VERDICT_UNSPECIFIED || v > stagev1.Verdict_VERDICT_DISCARD {
		return 0, fmt.Errorf("%w: verdict %d", errWire, v)
	}
	return stage.Kind(v - 1), nil
}

func kindProto(k stage.Kind) stagev1.Verdict { return stagev1.Verdict(k + 1) }

func branchProto(b stage.Branch) *stagev1.Branch {
	out := &stagev1.Branch{Verdict: kindProto(b.Verdict.Kind), Reply: replyProto(b.Verdict.Reply), Edits: editsProto(b.Edits)}
	if b.Verdict.After > 0 {
		out.After = durationpb.New(b.Verdict.After)
	}
	if b.Verdict.Kind == stage.KindDiscard {
		out.Rule = text(b.Verdict.Reason)
	} else {
		out.Reason = text(b.Verdict.Reason)
	}
	return out
}

func branchFrom(p *stagev1.Branch) (stage.Branch, error) {
	var b stage.Branch
	if p == nil || unknown(p) {
		return b, fmt.Errorf("%w: a branch that is missing or of an unknown kind", errWire)
	}
	kind, err := kindFrom(p.GetVerdict())
	if err != nil {
		return b, err
	}
	b.Verdict = stage.Verdict{Kind: kind, Reply: replyFrom(p.GetReply()), After: p.GetAfter().AsDuration(), Reason: p.GetReason()}
	if kind == stage.KindDiscard {
		b.Verdict.Reason = p.GetRule()
	}
	b.Edits, err = editsFrom(p.GetEdits())
	return b, err
}

func notesProto(notes []slog.Attr) []*stagev1.Note {
	var out []*stagev1.Note
	for _, n := range notes {
		out = append(out, &stagev1.Note{Key: text(n.Key), Value: text(n.Value.String())})
	}
	return out
}

func notesFrom(notes []*stagev1.Note) []slog.Attr {
	var out []slog.Attr
	for _, n := range notes {
		out = append(out, slog.String(n.GetKey(), n.GetValue()))
	}
	return out
}

func resultProto(r stage.Result) *stagev1.Result {
	out := &stagev1.Result{Branch: branchProto(r.Branch), Notes: notesProto(r.Notes)}
	for _, f := range r.Forks {
		out.Forks = append(out.Forks, &stagev1.Fork{To: idsProto(f.To), Branch: branchProto(f.Branch)})
	}
	return out
}

func resultFrom(p *stagev1.Result) (stage.Result, error) {
	var r stage.Result
	if p == nil || unknown(p) {
		return r, fmt.Errorf("%w: no result, or one of an unknown kind", errWire)
	}
	var err error
	if r.Branch, err = branchFrom(p.GetBranch()); err != nil {
		return r, err
	}
	for _, f := range p.GetForks() {
		if unknown(f) {
			return r, fmt.Errorf("%w: a fork of an unknown kind", errWire)
		}
		b, err := branchFrom(f.GetBranch())
		if err != nil {
			return r, err
		}
		r.Forks = append(r.Forks, stage.Fork{To: idsFrom(f.GetTo()), Branch: b})
	}
	r.Notes = notesFrom(p.GetNotes())
	return r, nil
}

func traitsProto(t stage.Traits) *stagev1.Traits {
	return &stagev1.Traits{ReadsBody: t.ReadsBody, EditsHeader: t.EditsHeader, EditsBody: t.EditsBody, EditsEnvelope: t.EditsEnvelope, Seals: t.Seals, Effects: t.Effects}
}

func traitsFrom(p *stagev1.Traits) stage.Traits {
	return stage.Traits{ReadsBody: p.GetReadsBody(), EditsHeader: p.GetEditsHeader(), EditsBody: p.GetEditsBody(), EditsEnvelope: p.GetEditsEnvelope(), Seals: p.GetSeals(), Effects: p.GetEffects()}
}

var onErrorProto = map[OnError]relayv1.OnError{
	OnErrorDefer:      relayv1.OnError_ON_ERROR_DEFER,
	OnErrorSkip:       relayv1.OnError_ON_ERROR_SKIP,
	OnErrorQuarantine: relayv1.OnError_ON_ERROR_QUARANTINE,
}

func slipProto(s Slip) *relayv1.Slip {
	out := &relayv1.Slip{Chain: s.Chain, Revision: s.Revision, Route: &relayv1.Route{Name: s.Route.Name, Hash: s.Route.Hash, Address: s.Route.Address}}
	for _, h := range s.Hops {
		out.Hops = append(out.Hops, &relayv1.Hop{Instance: h.Instance, Type: h.Type, Hash: h.Hash, Address: h.Address, Identity: h.Identity,
			Timeout: durationpb.New(h.Timeout), OnError: onErrorProto[h.OnError], ProcessOnly: h.ProcessOnly, Shadow: h.Shadow, Released: h.Released})
	}
	return out
}

func slipFrom(p *relayv1.Slip) Slip {
	s := Slip{Chain: p.GetChain(), Revision: p.GetRevision(), Route: Route{Name: p.GetRoute().GetName(), Hash: p.GetRoute().GetHash(), Address: p.GetRoute().GetAddress()}}
	for _, h := range p.GetHops() {
		hop := Hop{Instance: h.GetInstance(), Type: h.GetType(), Hash: h.GetHash(), Address: h.GetAddress(), Identity: h.GetIdentity(),
			Timeout: h.GetTimeout().AsDuration(), OnError: OnErrorDefer, ProcessOnly: h.GetProcessOnly(), Shadow: h.GetShadow(), Released: h.GetReleased()}
		switch h.GetOnError() {
		case relayv1.OnError_ON_ERROR_SKIP:
			hop.OnError = OnErrorSkip
		case relayv1.OnError_ON_ERROR_QUARANTINE:
			hop.OnError = OnErrorQuarantine
		}
		s.Hops = append(s.Hops, hop)
	}
	return s
}

var outcomes = map[Outcome]relayv1.Outcome{
	ByVerdict: relayv1.Outcome_OUTCOME_VERDICT,
	Skipped:   relayv1.Outcome_OUTCOME_SKIPPED,
	Failed:    relayv1.Outcome_OUTCOME_FAILED,
}

// ReportProto is r on the wire and in the log.
func ReportProto(r Report) *relayv1.HopReport {
	return &relayv1.HopReport{Instance: r.Instance, Hash: r.Hash, Recipients: idsProto(r.Recipients), Outcome: outcomes[r.Outcome], Verdict: kindProto(r.Verdict),
		Took: durationpb.New(r.Took), Edits: editsProto(r.Edits), EditsOmitted: r.EditsOmitted, Notes: notesProto(r.Notes), Reason: text(r.Reason),
		Diff: diffProto(r.Diff, !r.EditsOmitted), Shadow: r.Shadow}
}

// ReportFrom reads a report. What it does not understand makes the report useless for going on after it, so it is
// an error.
func ReportFrom(p *relayv1.HopReport) (Report, error) {
	r := Report{Instance: p.GetInstance(), Hash: p.GetHash(), Recipients: idsFrom(p.GetRecipients()), Took: p.GetTook().AsDuration(),
		EditsOmitted: p.GetEditsOmitted(), Notes: notesFrom(p.GetNotes()), Reason: p.GetReason(), Shadow: p.GetShadow()}
	for o, w := range outcomes {
		if w == p.GetOutcome() {
			r.Outcome = o
		}
	}
	if r.Outcome == "" {
		return r, fmt.Errorf("%w: outcome %d", errWire, p.GetOutcome())
	}
	var err error
	if r.Verdict, err = kindFrom(p.GetVerdict()); err != nil {
		return r, err
	}
	if r.Edits, err = editsFrom(p.GetEdits()); err != nil {
		return r, err
	}
	r.Diff = diffFrom(p.GetDiff(), r.Edits, r.EditsOmitted)
	return r, nil
}

var fateKinds = map[FateKind]relayv1.FateKind{
	Delivered:   relayv1.FateKind_FATE_KIND_DELIVERED,
	Discarded:   relayv1.FateKind_FATE_KIND_DISCARDED,
	Rejected:    relayv1.FateKind_FATE_KIND_REJECTED,
	Deferred:    relayv1.FateKind_FATE_KIND_DEFERRED,
	Quarantined: relayv1.FateKind_FATE_KIND_QUARANTINED,
	Refused:     relayv1.FateKind_FATE_KIND_REFUSED,
	Unknown:     relayv1.FateKind_FATE_KIND_UNKNOWN,
}

var concerns = map[Concern]relayv1.Concern{
	AboutRecipient:   relayv1.Concern_CONCERN_RECIPIENT,
	AboutDestination: relayv1.Concern_CONCERN_DESTINATION,
	AboutRoute:       relayv1.Concern_CONCERN_ROUTE,
	AboutHop:         relayv1.Concern_CONCERN_HOP,
}

// FateProto is f on the wire and in the log.
func FateProto(f Fate) *relayv1.Fate {
	out := &relayv1.Fate{Recipient: string(f.Recipient), Kind: fateKinds[f.Kind], Concern: concerns[f.Concern], About: text(f.About), Reply: replyProto(f.Reply),
		Host: text(f.Host), Reason: text(f.Reason), ByError: f.ByError}
	if f.After > 0 {
		out.After = durationpb.New(f.After)
	}
	return out
}

// FateFrom reads a fate. A kind that is unset or unknown is Unknown: the message was handed on, and no more is clear.
func FateFrom(p *relayv1.Fate) Fate {
	f := Fate{Recipient: mail.RecipientID(p.GetRecipient()), Kind: Unknown, Concern: AboutRecipient, About: p.GetAbout(), Reply: replyFrom(p.GetReply()),
		After: p.GetAfter().AsDuration(), Host: p.GetHost(), Reason: p.GetReason(), ByError: p.GetByError()}
	for k, w := range fateKinds {
		if w == p.GetKind() {
			f.Kind = k
		}
	}
	for c, w := range concerns {
		if w == p.GetConcern() {
			f.Concern = c
		}
	}
	return f
}
