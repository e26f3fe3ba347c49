package dispatch

import (
	"context"
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// Reasons why a message cannot be bounced.
const (
	noneToTell     = "it has the null sender, so there is nobody to tell: delete it instead"
	strangerToTell = "its sender is a stranger, who may not be who he says: delete it instead"
	wantsNoReport  = "its sender wants no report of failures: delete it instead"
	noWayToTell    = "no chain takes the report to the sender"
)

// bouncedAtOnce bounds the recipients of a group that one order bounces, so that the reports fit into a record.
const bouncedAtOnce = 500

// Bounce ends the groups of a message as failed: the sender gets a report (RFC 3464) with the reason and the last answer, if a
// relay rule let the message in and the sender wants to know. Of a group with more than 500 recipients it takes the first 500.
func (d *Dispatcher) Bounce(ctx context.Context, id string, o Order) (Changed, error) {
	m, ok := d.o.Log.Waiting().Get(id)
	if !ok {
		return Changed{Reason: NotHere}, nil
	}
	env := &m.Envelope
	switch {
	case env.ReversePath.IsNull():
		return Changed{Reason: noneToTell}, nil
	case !env.Origin.Trusted():
		return Changed{Reason: strangerToTell}, nil
	}
	meant := o
	o.Pick = func(m *depot.Message, w *spool.Wait) []mail.RecipientID {
		ids := meant.pick(m, w)
		return ids[:min(len(ids), bouncedAtOnce)]
	}
	return d.change(ctx, id, o, "bounced", everyRoom, func(w *spool.Wait) ([]spool.End, string) {
		var told, others []mail.RecipientID
		for _, one := range w.Recipients {
			if r, _ := env.Recipient(one); noReport(env, r) == "" {
				told = append(told, one)
			} else {
				others = append(others, one)
			}
		}
		if len(told) == 0 {
			return nil, wantsNoReport
		}
		ends := []spool.End{{Recipients: told, Kind: spool.EndReported, Fate: brief(o.bounced(w.Last)), Chain: w.Chain}}
		if len(others) > 0 {
			ends = append(ends, spool.End{Recipients: others, Kind: spool.EndDiscarded, Reason: ruleNotifyNever, Fate: brief(w.Last), Chain: w.Chain})
		}
		return ends, ""
	})
}

// bounced is the fate that the sender is told of.
func (o *Order) bounced(last chain.Fate) chain.Fate {
	text := "returned by an operator of this relay"
	if o.Reason != "" {
		text += ": " + o.Reason
	}
	if last.Reply != nil {
		text += "; the last answer was: " + last.Reply.Public()
	}
	return chain.Fate{Kind: chain.Rejected, Concern: chain.AboutRecipient, About: heldByPerson, Reply: &mail.Reply{Code: 550, Enhanced: "5.0.0", Text: text}}
}

// reportedOf are the failures of a settlement that the sender is told of.
func reportedOf(s *spool.Settled) []spool.End {
	var out []spool.End
	for _, e := range s.Ends {
		if e.Kind == spool.EndReported {
			out = append(out, e)
		}
	}
	return out
}

// reports are what the senders are told of an order, with their contents.
type reports struct {
	entries  []*spool.Accepted
	contents []mail.Content
}

func (r *reports) release() {
	for _, c := range r.contents {
		c.Release()
	}
}

// reportsOf makes the reports about what a person has ended, of batch recipients each; why, for people, if nobody takes them.
func (d *Dispatcher) reportsOf(ctx context.Context, m *depot.Message, ends []spool.End) (r *reports, why string, err error) {
	original, err := d.o.Log.Content(ctx, m.ID, m.Body)
	if err != nil {
		return nil, "", err
	}
	defer original.Release()
	var failures []failure
	for _, e := range ends {
		for _, id := range e.Recipients {
			to, _ := m.Envelope.Recipient(id)
			failures = append(failures, failure{to: to, fate: e.Fate})
		}
	}
	r = &reports{}
	for some := range slices.Chunk(failures, batch) {
		dsn, content := d.dsn(&mail.Message{ID: m.ID, Received: m.Received, Envelope: m.Envelope, Content: original}, some)
		if dsn == nil {
			r.release()
			return nil, noWayToTell, nil
		}
		r.entries, r.contents = append(r.entries, dsn), append(r.contents, content)
	}
	return r, "", nil
}

// writeWithReports puts a settlement and the reports that it causes into one record, and sends them.
func (d *Dispatcher) writeWithReports(s *spool.Settled, r *reports) bool {
	defer r.release()
	if !d.write(s, r.entries...) {
		return false
	}
	for i, a := range r.entries {
		d.countStarts(a)
		d.start(a, r.contents[i], nil, nil)
	}
	return true
}
