package dispatch

import (
	"context"
	"errors"
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

// Inline is what the stages before the 250 said.
type Inline struct {
	parts []part
	slip  chain.Slip
	// heard is what the stages said, for the trail.
	heard []spool.Hop
}

// part is recipients for which the inline stages said the same.
type part struct {
	to   []mail.RecipientID
	done []chain.Report
	// fate, if not nil, is carried out as soon as the message is accepted.
	fate *chain.Fate
	// message as it goes on; its content is retained until the judging is over.
	message mail.Message
}

// Judge runs the inline stages of a chain on a message that is about to be accepted; m.Pending are all its recipients.
// A reply refuses the message: 4xx if a stage defers or fails, 5xx if every recipient was rejected. Chains that
// share a transaction have the same inline stages.
func (d *Dispatcher) Judge(ctx context.Context, cfg *config.Config, c *config.Chain, m *mail.Message) (*Inline, *mail.Reply) {
	in := &Inline{slip: cfg.Slip(c)}
	defer d.countInline(in)
	m.Content.Retain()
	parts := []part{{to: m.Pending, message: *m}}
	defer func() {
		for _, p := range parts {
			p.message.Content.Release()
		}
	}()
	for i, u := range c.Stages {
		if !u.Inline {
			break
		}
		var next []part
		for n, p := range parts {
			if p.fate != nil {
				next = append(next, p)
				continue
			}
			judged, reply := d.judgePart(ctx, in, in.slip.Hops[i], p)
			if reply != nil {
				parts = append(next, parts[n:]...)
				return nil, reply
			}
			p.message.Content.Release()
			next = append(next, judged...)
		}
		parts = next
	}
	in.parts = parts
	return in, in.rejected()
}

func (d *Dispatcher) judgePart(ctx context.Context, in *Inline, h chain.Hop, p part) ([]part, *mail.Reply) {
	p.message.Pending = p.to
	judged, err := d.o.Runner.Inline(ctx, h, &p.message)
	if h.Shadow { // what it would have done is for the log alone
		rep := chain.Report{Instance: h.Instance, Hash: h.Hash, Recipients: p.to, Outcome: chain.Skipped}
		for _, j := range judged {
			d.o.Logger.Info("inline shadow", "id", p.message.ID, "stage", h.Instance, "verdict", j.Verdict.Kind.String(), "reason", j.Verdict.Reason)
			in.hear(d.o.Now(), asShadow(j.Report))
			j.Message.Content.Release()
		}
		if err != nil {
			d.o.Logger.Warn("inline shadow failed", "id", p.message.ID, "stage", h.Instance, "error", err)
			rep.Reason = err.Error()
			in.hear(d.o.Now(), asShadow(rep))
		}
		p.message.Content.Retain()
		return []part{{to: p.to, done: append(slices.Clip(p.done), rep), message: p.message}}, nil
	}
	if err != nil {
		d.o.Logger.Warn("inline stage failed", "id", p.message.ID, "stage", h.Instance, "on_error", string(h.OnError), "error", err)
		same := part{to: p.to, done: p.done, message: p.message}
		onError := h.OnError
		if not, ok := errors.AsType[*chain.NotHandedOver](err); ok && not.Unknown || ctx.Err() != nil {
			onError = chain.OnErrorDefer // who does not know the configuration, or was interrupted, has not failed
		}
		switch onError {
		case chain.OnErrorSkip:
			rep := chain.Report{Instance: h.Instance, Hash: h.Hash, Recipients: p.to, Outcome: chain.Skipped, Reason: err.Error()}
			in.hear(d.o.Now(), rep)
			same.done = append(slices.Clip(p.done), rep)
		case chain.OnErrorQuarantine:
			in.hear(d.o.Now(), chain.Report{Instance: h.Instance, Hash: h.Hash, Recipients: p.to, Outcome: chain.Failed, Reason: err.Error()})
			same.fate = &chain.Fate{Kind: chain.Quarantined, Concern: chain.AboutHop, About: h.Instance, Reason: err.Error(), ByError: true}
		default:
			if r, ok := mail.AsReply(err); ok && r.Temporary() {
				return nil, r
			}
			return nil, &mail.Reply{Code: 451, Enhanced: "4.3.0", Text: "the message cannot be checked now, try again later", Private: err.Error()}
		}
		same.message.Content.Retain()
		return []part{same}, nil
	}
	var out []part
	var deferred *mail.Reply
	for _, j := range judged {
		q := part{to: j.Report.Recipients, done: p.done, message: j.Message}
		in.hear(d.o.Now(), j.Report)
		switch j.Verdict.Kind {
		case stage.KindContinue:
			q.done = append(slices.Clip(p.done), toKeep(j.Report))
		case stage.KindDefer:
			deferred = j.Verdict.Reply
		default:
			f := chain.FateOf(h, j.Verdict)
			q.fate = &f
		}
		out = append(out, q)
	}
	if deferred != nil {
		for _, q := range out {
			q.message.Content.Release()
		}
		return nil, deferred
	}
	return out, nil
}

// rejected gives the first reply if every recipient was rejected.
func (in *Inline) rejected() *mail.Reply {
	var first *mail.Reply
	for _, p := range in.parts {
		if p.fate == nil || p.fate.Kind != chain.Rejected {
			return nil
		}
		if first == nil {
			first = p.fate.Reply
		}
	}
	return first
}

// Starts are the starts of an accepted entry: by chain, and by what the inline stages did.
func (in *Inline) Starts(byChain map[string][]mail.RecipientID) []spool.Start {
	var out []spool.Start
	for name, ids := range byChain {
		for _, p := range in.parts {
			var to []mail.RecipientID
			for _, id := range ids {
				if slices.Contains(p.to, id) {
					to = append(to, id)
				}
			}
			if len(to) > 0 {
				out = append(out, spool.Start{Chain: name, Recipients: to, Done: p.done})
			}
		}
	}
	return out
}

// fates are what is carried out at once.
func (in *Inline) fates() map[mail.RecipientID]chain.Fate {
	out := map[mail.RecipientID]chain.Fate{}
	if in == nil {
		return out
	}
	for _, p := range in.parts {
		if p.fate == nil {
			continue
		}
		for _, id := range p.to {
			f := *p.fate
			f.Recipient = id
			out[id] = f
		}
	}
	return out
}

// carryOut settles the recipients that the inline stages did not let go on, and gives those that do.
func (d *Dispatcher) carryOut(j *job, in *Inline) (rest []mail.RecipientID) {
	decided := in.fates()
	var fates []chain.Fate
	slip := in.slip
	slip.Chain = j.group.Chain
	r := newRun(d, j, slip)
	for _, id := range j.group.Recipients {
		if f, ok := decided[id]; ok {
			fates = append(fates, f)
			r.done[id] = j.group.Done
		} else {
			rest = append(rest, id)
		}
	}
	d.settle(r, fates)
	return rest
}
