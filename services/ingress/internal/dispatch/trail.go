package dispatch

import (
	"slices"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// note tells the trail what a person did with a message; a crash may lose it.
func (d *Dispatcher) note(id, actor, text string) {
	d.o.Log.Trail(&spool.Event{ID: id, At: d.o.Now(), Actor: actor, Text: text})
}

// tell gives the trail what hops have said since it was told last: before what follows from it is settled.
func (r *run) tell() {
	r.mu.Lock()
	hops := r.heard
	r.heard = nil
	r.mu.Unlock()
	if len(hops) == 0 {
		return
	}
	r.d.o.Log.Trail(&spool.Event{ID: r.job.message.ID, At: r.d.o.Now(), Revision: r.slip.Revision, Chain: r.slip.Chain, Hops: hops, Kept: r.kept})
}

// instances are the stages that hops done are of.
func instances(done []chain.Report) []string {
	var out []string
	for _, r := range done {
		out = append(out, r.Instance)
	}
	return out
}

// toKeep is a report as it is kept with waiting mail: what it shows people is in the trail.
func toKeep(r chain.Report) chain.Report {
	r.Diff = mail.Diff{}
	return r
}

// hear keeps what an inline stage said until its message is accepted.
func (in *Inline) hear(now time.Time, rep chain.Report) {
	in.heard = append(in.heard, spool.Hop{Report: rep, At: now})
}

// asShadow is what a shadow said, which is not done.
func asShadow(r chain.Report) chain.Report {
	r.Outcome, r.Shadow, r.Edits, r.EditsOmitted = chain.Skipped, true, mail.Edits{}, false
	return r
}

// tellInline gives the trail what the inline stages said of the recipients of a job.
func (d *Dispatcher) tellInline(in *Inline, id, chainName string, to []mail.RecipientID) {
	var hops []spool.Hop
	for _, h := range in.heard {
		h.Recipients = among(h.Recipients, to)
		if len(h.Recipients) > 0 {
			hops = append(hops, h)
		}
	}
	if len(hops) > 0 {
		d.o.Log.Trail(&spool.Event{ID: id, At: d.o.Now(), Revision: in.slip.Revision, Chain: chainName, Hops: hops})
	}
}

// among are those of ids that are in list.
func among(ids, list []mail.RecipientID) []mail.RecipientID {
	var out []mail.RecipientID
	for _, id := range ids {
		if slices.Contains(list, id) {
			out = append(out, id)
		}
	}
	return out
}
