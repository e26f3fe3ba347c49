package dispatch

import (
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/tally"
)

// countStarts counts the recipients of a message that is in the log now.
func (d *Dispatcher) countStarts(a *spool.Accepted) {
	for _, s := range a.Starts {
		d.o.Tally.Recipients(s.Chain, tally.Accepted, len(s.Recipients))
	}
}

// endEvents are the events that ends are counted as.
var endEvents = map[spool.EndKind]tally.Event{spool.EndDelivered: tally.Delivered, spool.EndReported: tally.Reported,
	spool.EndDiscarded: tally.Discarded, spool.EndDeleted: tally.Deleted}

// countSettled counts what is on record now. What waits only because its run takes long has not come to wait yet.
func (d *Dispatcher) countSettled(s *spool.Settled) {
	if d.o.Tally == nil {
		return
	}
	for i := range s.Ends {
		d.o.Tally.Recipients(s.Ends[i].Chain, endEvents[s.Ends[i].Kind], len(s.Ends[i].Recipients))
	}
	for i := range s.Waits {
		switch w := &s.Waits[i]; {
		case w.Open:
		case w.Room == spool.Quarantine || w.Room == spool.Dead:
			d.o.Tally.Recipients(w.Chain, tally.Held, len(w.Recipients))
		default:
			d.o.Tally.Recipients(w.Chain, tally.Waited, len(w.Recipients))
		}
	}
}

// countInline counts what stages said before the 250, also where it refused the message.
func (d *Dispatcher) countInline(in *Inline) {
	for i := range in.heard {
		d.o.Tally.Report(&in.heard[i].Report, in.heard[i].Shadow)
	}
}

// countDelivered counts how long a message took that met no wait.
func (r *run) countDelivered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.job.fresh && r.arrivals == len(r.job.group.Recipients) {
		r.d.o.Tally.Delivered(r.last.Sub(r.job.began))
	}
}
