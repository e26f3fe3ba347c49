package dispatch

import (
	"context"
	"log/slog"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// waitFor decides where a recipient waits after f, and for what.
func (d *Dispatcher) waitFor(r *run, f chain.Fate, now time.Time) spool.Wait {
	w := r.wait([]mail.RecipientID{f.Recipient}, f)
	k := key{f.Concern, f.About}
	ours := f.Concern == chain.AboutHop || f.Concern == chain.AboutRoute
	switch {
	case f.Kind == chain.Quarantined:
		w.Room = spool.Quarantine
	case f.Kind == chain.Unknown && f.Concern == chain.AboutHop:
		// After a break, what was at the hop is tried one at a time.
		w.Room = spool.Park
		if d.broken(r, k, f) {
			w.Room = spool.Dead
			w.Last.Reason = "broke " + f.About + " each time it was alone there: " + w.Last.Reason
		}
	case f.Kind == chain.Unknown:
		w.Room, w.Attempts = spool.Retry, w.Attempts+1
		w.Next = now.Add(backoff(w.Attempts))
		if at := r.notBefore(w.Recipients); at.After(now) {
			d.notSooner(r.job.message.ID, at)
			if at.After(w.Next) {
				w.Next = at
			}
		}
	case f.Kind == chain.Refused && ours:
		w.Room = spool.Park
		d.shut(k, d.gates.shut(k), f)
	case f.Kind == chain.Refused && d.routePaused(r.slip.Route.Name): // it got no leave
		w.Room, w.Last = spool.Park, pausedFate(r.slip.Route.Name)
	case f.Kind == chain.Refused:
		// At once, but not for ever so.
		w.Room, w.Next = spool.Retry, now.Add(min(max(now.Sub(w.Since), time.Second), time.Minute))
	case f.Concern == chain.AboutRoute:
		w.Room, w.Attempts = spool.Park, w.Attempts+1
		d.shut(k, d.gates.shut(k), f)
	case f.Concern == chain.AboutHop:
		// A stage that answers, but fails: perhaps this message is to blame, perhaps it is the stage.
		w.Attempts++
		d.shut(k, d.gates.failed(k, r.job.message.ID), f) // counts the message, not its recipients
		if w.Room = spool.Park; !d.gates.isDown(k) {
			w.Room, w.Next = spool.Retry, now.Add(stageRetry(w.Attempts))
		}
	default:
		w.Room, w.Attempts = spool.Retry, w.Attempts+1
		w.Next = now.Add(max(backoff(w.Attempts), f.After))
	}
	if w.Room != r.job.group.Room {
		w.Since = now
	}
	return w
}

// broken notes that hop k broke while the run's message was there, and says whether the message is to blame: it was
// alone, each time, and others passed in between. All its recipients share that.
func (d *Dispatcher) broken(r *run, k key, f chain.Fate) (guilty bool) {
	id := r.job.message.ID
	at := r.notBefore(r.job.group.Recipients)
	if at.After(d.o.Now()) {
		d.notSooner(id, at)
	}
	guilty, known := r.broke[k]
	if !known {
		guilty = r.job.probes(k) && d.gates.crashed(k, id)
		r.broke[k] = guilty
		if guilty {
			d.o.Logger.LogAttrs(d.ctx, slog.LevelError, "a message breaks a hop: it is held", slog.String("id", id), slog.String("hop", k.about), slog.String("reason", f.Reason))
		}
	}
	if guilty {
		return true
	}
	d.shut(k, d.gates.suspect(k, id, at), f)
	return false
}

// learn notes what a fate says of the gates of egress and of the route, and of the one that the run probes.
func (d *Dispatcher) learn(r *run, f chain.Fate) {
	probe := r.job.probe
	egress, route := key{chain.AboutHop, chain.EgressHop}, key{chain.AboutRoute, r.slip.Route.Name}
	if r.delivered(f) {
		d.gates.passed(egress, r.job.message.ID)
		if probe != nil && (*probe == egress || *probe == route && f.Concern != chain.AboutRoute && f.Kind != chain.Refused) {
			d.probeOver(r.job, well)
		}
	}
	if probe == nil || *probe != (key{f.Concern, f.About}) {
		return
	}
	switch f.Kind {
	case chain.Deferred, chain.Refused, chain.Unknown:
		r.mu.Lock()
		r.passed = false
		r.mu.Unlock()
		// Whether the message is to blame has to be known before the next one probes.
		if f.Kind == chain.Unknown && f.Concern == chain.AboutHop {
			d.broken(r, *probe, f)
		}
		d.probeOver(r.job, stillDown)
	case chain.Quarantined: // by on_error: it does not wait for the hop any more
		d.probeOver(r.job, well)
	}
}

// delivered says that a fate is egress's: the message came as far as that.
func (r *run) delivered(f chain.Fate) bool {
	switch f.Concern {
	case chain.AboutHop:
		return false
	case chain.AboutRecipient:
		for _, h := range r.slip.Hops {
			if f.About == h.Instance {
				return false // a verdict
			}
		}
	}
	return f.Kind != chain.Discarded && f.Kind != chain.Quarantined
}

// reasonKnown is the reason of what was parked without being tried.
const reasonKnown = "known to be down"

// shut logs, loudly, that something of ours is down.
func (d *Dispatcher) shut(k key, news bool, f chain.Fate) {
	if !news {
		return
	}
	d.gates.because(k, f)
	attrs := []slog.Attr{slog.String("what", string(k.concern)), slog.String("name", k.about), slog.String("reason", f.Reason)}
	if f.Reply != nil {
		attrs = append(attrs, slog.String("reply", f.Reply.Public()))
	}
	d.o.Logger.LogAttrs(d.ctx, slog.LevelError, "down: its mail waits and goes on by itself", attrs...)
}

// mailLog writes the one line of a fate.
func (d *Dispatcher) mailLog(r *run, f chain.Fate) {
	to, _ := r.job.message.Envelope.Recipient(f.Recipient)
	attrs := []slog.Attr{slog.String("id", r.job.message.ID), slog.String("from", "<"+r.job.message.Envelope.ReversePath.String()+">"), slog.String("to", "<"+to.Address.String()+">"),
		slog.String("fate", string(f.Kind)), slog.String("chain", r.slip.Chain), slog.String("route", r.slip.Route.Name),
		slog.Int("attempt", r.job.group.Attempts+1), slog.Duration("age", d.o.Now().Sub(r.received).Round(time.Millisecond))}
	if f.About != "" {
		attrs = append(attrs, slog.String("concern", string(f.Concern)), slog.String("about", f.About))
	}
	if f.Host != "" {
		attrs = append(attrs, slog.String("host", f.Host))
	}
	if f.Reply != nil {
		attrs = append(attrs, slog.String("reply", f.Reply.Public()))
		if f.Reply.Private != "" {
			attrs = append(attrs, slog.String("cause", f.Reply.Private))
		}
	}
	if f.Reason != "" {
		attrs = append(attrs, slog.String("reason", f.Reason))
	}
	d.o.Logger.LogAttrs(context.Background(), slog.LevelInfo, "mail", attrs...)
}
