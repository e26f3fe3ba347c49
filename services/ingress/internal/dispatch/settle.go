package dispatch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

const (
	// batch is how many fates one settlement takes, so that it, and the report it may cause, fit into a record.
	batch = 50
	// textLimit is the most of a reply, or a reason, that is kept with a recipient, in bytes.
	textLimit = 2 << 10
)

// settle decides what fates mean and writes it to the log.
func (d *Dispatcher) settle(r *run, fates []chain.Fate) {
	for len(fates) > 0 {
		n := min(len(fates), batch)
		d.settleSome(r, fates[:n])
		fates = fates[n:]
	}
}

// settlement is one entry in the making. Recipients of whom the same is said share an end or a wait.
type settlement struct {
	spool.Settled
	run      *run
	failures []failure
	ends     map[string]int
	waits    map[string]int
}

func (d *Dispatcher) settleSome(r *run, fates []chain.Fate) {
	s := &settlement{Settled: spool.Settled{ID: r.job.message.ID, Revision: r.slip.Revision}, run: r, ends: map[string]int{}, waits: map[string]int{}}
	now := d.o.Now() // one for all: who waits alike is tried again in one transaction
	for _, f := range fates {
		d.mailLog(r, f)
		d.learn(r, f)
		d.decide(s, f, now)
	}
	if len(s.failures) > 0 {
		dsn, content := d.dsn(&r.job.message, s.failures)
		if dsn != nil {
			defer content.Release()
			if d.write(&s.Settled, dsn) {
				d.countStarts(dsn)
				d.traceReport(r, dsn, now)
				d.start(dsn, content, nil, nil)
			}
			return
		}
		for _, f := range s.failures { // nobody takes our reports: a person must see it
			f.fate.Reason = "no chain takes the report to the sender"
			s.hold(f.fate)
		}
		s.dropReported()
	}
	d.write(&s.Settled)
}

// decide enters what one fate means.
func (d *Dispatcher) decide(s *settlement, f chain.Fate, now time.Time) {
	env := &s.run.job.message.Envelope
	switch {
	case f.Kind == chain.Delivered:
		s.end(f, spool.EndDelivered, "")
		return
	case f.Kind == chain.Discarded:
		s.end(f, spool.EndDiscarded, f.Reason)
		return
	case f.Kind != chain.Rejected && !expired(f, now.Sub(s.run.received)):
		s.wait(d.waitFor(s.run, f, now))
		return
	}
	rcpt, _ := env.Recipient(f.Recipient)
	switch rule := noReport(env, rcpt); {
	case rule == ruleNullSender:
		s.end(f, spool.EndDiscarded, rule)
	case !env.Origin.Trusted(): // no backscatter: the sender may be anybody
		s.hold(f)
	case rule != "":
		s.end(f, spool.EndDiscarded, rule)
	default:
		s.failures = append(s.failures, failure{to: rcpt, fate: f, expired: f.Kind != chain.Rejected})
		s.end(f, spool.EndReported, "")
	}
}

// expired says that a recipient has been tried for long enough. What is a fault of ours never ends as a report.
func expired(f chain.Fate, age time.Duration) bool {
	return (f.Kind == chain.Deferred || f.Kind == chain.Unknown) &&
		(f.Concern == chain.AboutRecipient || f.Concern == chain.AboutDestination) && age >= lifetime
}

func (s *settlement) end(f chain.Fate, kind spool.EndKind, reason string) {
	id := f.Recipient
	f = brief(f)
	k := fmt.Sprint(kind, reason, f)
	if i, ok := s.ends[k]; ok {
		s.Ends[i].Recipients = append(s.Ends[i].Recipients, id)
		return
	}
	s.ends[k] = len(s.Ends)
	s.Ends = append(s.Ends, spool.End{Recipients: []mail.RecipientID{id}, Kind: kind, Reason: reason, Fate: f, Chain: s.run.slip.Chain})
}

// hold keeps a recipient where a person sees it.
func (s *settlement) hold(f chain.Fate) {
	w := s.run.wait([]mail.RecipientID{f.Recipient}, f)
	w.Room, w.Since = spool.Dead, s.run.d.o.Now()
	s.wait(w)
}

func (s *settlement) wait(w spool.Wait) {
	k := fmt.Sprint(w.Room, w.Next.UnixNano(), w.Last)
	if i, ok := s.waits[k]; ok && len(s.run.byDone(append([]mail.RecipientID{s.Waits[i].Recipients[0]}, w.Recipients...))) == 1 {
		s.Waits[i].Recipients = append(s.Waits[i].Recipients, w.Recipients...)
		return
	}
	s.waits[k] = len(s.Waits)
	s.Waits = append(s.Waits, w)
}

func (s *settlement) dropReported() {
	var ends []spool.End
	for _, e := range s.Ends {
		if e.Kind != spool.EndReported {
			ends = append(ends, e)
		}
	}
	s.Ends = ends
}

// brief is a fate as it is kept: without its recipient, and no longer than a person wants to read.
func brief(f chain.Fate) chain.Fate {
	f.Recipient = ""
	f.Reason = cut(f.Reason, textLimit)
	if f.Reply != nil {
		r := *f.Reply
		r.Text, r.Private = cut(r.Text, textLimit), cut(r.Private, textLimit)
		f.Reply = &r
	}
	return f
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
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

// dsn makes the report about failures of m; nil if no chain takes it.
func (d *Dispatcher) dsn(m *mail.Message, failures []failure) (*spool.Accepted, mail.Content) {
	cfg := d.o.Policy.View().Config()
	now := d.o.Now()
	id := mail.NewID(now)
	a, content := d.own(id, now, m.Envelope.ReversePath, report(cfg.Hostname, cfg.Postmaster, id, m, failures, now))
	if a != nil {
		a.Reports = m.ID
	}
	return a, content
}

// record puts a settlement into the log. One that is too large for an entry is divided; of a single recipient that
// waits, the hops done are given up, which costs that they are run again.
func (d *Dispatcher) record(s *spool.Settled, reports ...*spool.Accepted) error {
	err := d.o.Log.Settle(context.WithoutCancel(d.ctx), s, reports...)
	if err == nil {
		d.recorded(s)
		return nil
	}
	if !errors.Is(err, spool.ErrTooLarge) {
		return err
	}
	first, second := halves(s)
	switch {
	case second != nil && len(reports) == 0:
		return errors.Join(d.record(first), d.record(second))
	case second != nil: // the report belongs to the ends, which are small
		ends, waits := &spool.Settled{ID: s.ID, Revision: s.Revision, Ends: s.Ends}, &spool.Settled{ID: s.ID, Revision: s.Revision, Waits: s.Waits}
		if len(s.Waits) == 0 {
			return err
		}
		return errors.Join(d.record(ends, reports...), d.record(waits))
	case len(s.Waits) == 1 && len(s.Waits[0].Done) > 0:
		bare := *s
		bare.Waits = []spool.Wait{s.Waits[0]}
		bare.Waits[0].Done = nil
		return d.record(&bare, reports...)
	}
	return err
}

// halves divides a settlement by its ends and waits; second is nil if there is but one.
func halves(s *spool.Settled) (first, second *spool.Settled) {
	n := len(s.Ends) + len(s.Waits)
	if n < 2 {
		return s, nil
	}
	a, b := *s, *s
	e := min(n/2, len(s.Ends))
	w := n/2 - e
	a.Ends, b.Ends = s.Ends[:e], s.Ends[e:]
	a.Waits, b.Waits = s.Waits[:w], s.Waits[w:]
	return &a, &b
}

// recorded looks at what is now on record as parked: its gate may have been opened, or been removed for want of
// anyone waiting, before the record was there to be found.
func (d *Dispatcher) recorded(s *spool.Settled) {
	d.countSettled(s)
	stranded := false
	for i := range s.Waits {
		if w := &s.Waits[i]; w.Room == spool.Park {
			d.gates.parked(key{w.Last.Concern, w.Last.About}, s.ID)
			stranded = stranded || !d.isPaused() && d.mayPass(s.ID, w)
		}
	}
	if stranded {
		d.goOn()
		return
	}
	d.poke()
}
