package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// settle decides what fates mean and writes it to the log.
func (d *Dispatcher) settle(r *run, fates []chain.Fate) {
	s := &spool.Settled{ID: r.job.message.ID, Revision: r.slip.Revision}
	var failures []failure
	var reported []mail.RecipientID
	byFate := map[string]int{} // index into s.Waits, of fates that wait alike
	now := d.o.Now()           // one for all: who waits alike is tried again in one transaction
	for _, f := range fates {
		d.mailLog(r, f)
		to := []mail.RecipientID{f.Recipient}
		expired := f.Kind == chain.Deferred && (f.Concern == chain.AboutRecipient || f.Concern == chain.AboutDestination) && d.o.Now().Sub(r.received) >= lifetime
		switch {
		case f.Kind == chain.Delivered:
			s.Ends = append(s.Ends, end(to, spool.EndDelivered, "", f))
		case f.Kind == chain.Discarded:
			s.Ends = append(s.Ends, end(to, spool.EndDiscarded, f.Reason, f))
		case f.Kind == chain.Rejected || expired:
			rcpt, _ := r.job.message.Envelope.Recipient(f.Recipient)
			switch rule := noReport(&r.job.message.Envelope, rcpt); {
			case !r.job.message.Envelope.Origin.Trusted() && rule != ruleNullSender:
				w := r.wait(to, f)
				w.Room = spool.Dead
				s.Waits = append(s.Waits, w)
			case rule != "":
				s.Ends = append(s.Ends, end(to, spool.EndDiscarded, rule, f))
			default:
				failures = append(failures, failure{to: rcpt, fate: f, expired: expired})
				reported = append(reported, f.Recipient)
				s.Ends = append(s.Ends, end(to, spool.EndReported, "", f))
			}
		default:
			w := d.waitFor(r, f, now)
			k := fmt.Sprint(w.Room, w.Next.UnixMilli(), f.Kind, f.Concern, f.About, f.Reply, f.Host, f.Reason)
			if i, ok := byFate[k]; ok && len(r.byDone(append(to, s.Waits[i].Recipients...))) == 1 {
				s.Waits[i].Recipients = append(s.Waits[i].Recipients, f.Recipient)
				continue
			}
			byFate[k] = len(s.Waits)
			s.Waits = append(s.Waits, w)
		}
	}
	if len(failures) == 0 {
		d.write(s)
		return
	}
	dsn, content := d.dsn(&r.job.message, failures)
	if dsn == nil { // nobody takes our reports: a person must see it
		for _, id := range reported {
			for i := range s.Ends {
				if s.Ends[i].Recipients[0] == id {
					w := r.wait(s.Ends[i].Recipients, s.Ends[i].Fate)
					w.Room = spool.Dead
					w.Last.Reason = "no chain takes the report to the sender"
					s.Waits = append(s.Waits, w)
					s.Ends = append(s.Ends[:i], s.Ends[i+1:]...)
					break
				}
			}
		}
		d.write(s)
		return
	}
	defer content.Release()
	if d.write(s, dsn) {
		d.start(dsn, content, nil, nil)
	}
}

func end(to []mail.RecipientID, k spool.EndKind, reason string, f chain.Fate) spool.End {
	f.Recipient = ""
	return spool.End{Recipients: to, Kind: k, Reason: reason, Fate: f}
}

// The rules by which a failure is not reported.
const (
	ruleNullSender  = "null-sender"
	ruleNotifyNever = "notify-never"
)

// noReport names the rule by which the sender is not told of a failure (RFC 5321, section 6.1; RFC 3461, 5.2.7).
func noReport(e *mail.Envelope, r mail.Recipient) string {
	switch {
	case e.ReversePath.IsNull():
		return ruleNullSender
	case r.Notify != "" && !strings.Contains(strings.ToUpper(r.Notify), "FAILURE"):
		return ruleNotifyNever
	}
	return ""
}

// waitFor decides where a recipient waits after f, and for what.
func (d *Dispatcher) waitFor(r *run, f chain.Fate, now time.Time) spool.Wait {
	w := r.wait([]mail.RecipientID{f.Recipient}, f)
	id := r.job.message.ID
	k := key{f.Concern, f.About}
	ours := f.Concern == chain.AboutHop || f.Concern == chain.AboutRoute
	if r.job.probe != nil && ours && k == *r.job.probe {
		r.blocked = true
	}
	switch {
	case f.Kind == chain.Quarantined:
		w.Room = spool.Quarantine
	case f.Kind == chain.Unknown && f.Concern == chain.AboutHop:
		// After a break, what was at the hop is tried one at a time.
		w.Room = spool.Park
		if at := r.notBefore(w.Recipients); !at.IsZero() {
			d.mu.Lock()
			d.notBefore[id] = at
			d.mu.Unlock()
		}
		if r.blocked && d.gates.crashed(k, id) {
			w.Room = spool.Dead
			w.Last.Reason = "broke " + f.About + " each time it was alone there: " + f.Reason
			break
		}
		d.shut(k, d.gates.suspect(k, id), f)
	case f.Kind == chain.Unknown:
		w.Room, w.Attempts = spool.Retry, w.Attempts+1
		w.Next = now.Add(backoff(w.Attempts))
		if at := r.notBefore(w.Recipients); at.After(w.Next) {
			w.Next = at
		}
	case f.Kind == chain.Refused && ours:
		w.Room = spool.Park
		d.shut(k, d.gates.shut(k), f)
	case f.Kind == chain.Refused:
		w.Room, w.Next = spool.Retry, now.Add(time.Second)
	case f.Concern == chain.AboutRoute:
		w.Room, w.Attempts = spool.Park, w.Attempts+1
		d.shut(k, d.gates.shut(k), f)
	case f.Concern == chain.AboutHop:
		// A stage that answers, but fails: perhaps this message is to blame, perhaps it is the stage.
		w.Attempts++
		news := d.gates.failed(k)
		d.shut(k, news, f)
		if w.Room = spool.Park; !d.gates.isDown(k) {
			w.Room, w.Next = spool.Retry, now.Add(stageRetry(w.Attempts))
		}
	default:
		w.Room, w.Attempts = spool.Retry, w.Attempts+1
		w.Next = now.Add(max(backoff(w.Attempts), f.After))
	}
	return w
}

// stageRetry is the wait after a stage failed: its own troubles end sooner than another host's.
func stageRetry(attempts int) time.Duration {
	return min(5*time.Second<<min(attempts-1, 8), 15*time.Minute)
}

// shut logs, loudly, that something of ours is down.
func (d *Dispatcher) shut(k key, news bool, f chain.Fate) {
	if !news {
		return
	}
	attrs := []slog.Attr{slog.String("what", string(k.concern)), slog.String("name", k.about), slog.String("reason", f.Reason)}
	if f.Reply != nil {
		attrs = append(attrs, slog.String("reply", f.Reply.Public()))
	}
	d.o.Logger.LogAttrs(d.ctx, slog.LevelError, "down: its mail waits and goes on by itself", attrs...)
}

// dsn makes the report about failures of m; nil if no chain takes it.
func (d *Dispatcher) dsn(m *mail.Message, failures []failure) (*spool.Accepted, mail.Content) {
	cfg := d.o.Policy.View().Config()
	now := d.o.Now()
	id := mail.NewID(now)
	raw := report(cfg.Hostname, cfg.Postmaster, id, m, failures, now)
	a := &spool.Accepted{ID: id, Received: now, Reports: m.ID, Body: spool.Body{Inline: raw, Size: int64(len(raw))},
		Envelope: mail.Envelope{Recipients: []mail.Recipient{{ID: "1", Address: m.Envelope.ReversePath, Notify: "NEVER"}},
			EightBitMIME: true, Origin: mail.Origin{Relay: policy.Self}}}
	c, ok := d.o.Policy.Match(&a.Envelope, a.Envelope.Recipients[0])
	if !ok {
		return nil, nil
	}
	a.Starts = []spool.Start{{Chain: c.Name, Recipients: []mail.RecipientID{"1"}}}
	return a, mail.FromBytes(raw)
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
