package dispatch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

const (
	// gather is how long fates are gathered into one settlement: one log entry, one DSN.
	gather = 5 * time.Millisecond
	// deliveryTime is what the end of a slip may take beyond the timeouts of its stages: a direct delivery with the
	// deadlines of RFC 5321, section 4.5.3.2, over several hosts.
	deliveryTime = 40 * time.Minute
)

var errNoLeave = errors.New("no leave for the final dot: the lease is not certain, the route is paused, or the run is ending")

// run is a job under way, and the Sink of its Relay. broke is of the settling goroutine alone.
type run struct {
	d        *Dispatcher
	job      *job
	slip     chain.Slip
	received time.Time

	mu       sync.Mutex
	done     map[mail.RecipientID][]chain.Report
	went     map[mail.RecipientID]time.Time // when leave for a final dot was given
	fresh    []chain.Fate                   // not settled yet
	open     map[mail.RecipientID]bool      // without fate
	passed   bool                           // it got through the gate that it probes
	broke    map[key]bool                   // hops that broke under this message, and whether it is to blame
	heard    []spool.Hop                    // not told to the trail yet
	kept     []string                       // stages that are not run again
	last     time.Time                      // of the deliveries
	arrivals int                            // deliveries
	arrived  chan struct{}
	finished chan struct{}
}

// carry runs the job's parcel and settles its recipients; it returns when all are settled, or when the log is lost.
func (d *Dispatcher) carry(ctx context.Context, j *job, m mail.Message, slip chain.Slip, kept []chain.Report) *run {
	r := newRun(d, j, slip)
	for _, id := range j.group.Recipients {
		r.done[id] = slices.Clip(kept)
		r.open[id] = true
	}
	r.kept = instances(kept)
	limit := deliveryTime
	for _, h := range slip.Hops {
		limit += h.Timeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	m.Pending = j.group.Recipients
	m.Attempt = j.group.Attempts + 1
	ctx, span := d.traceRun(ctx, r, &m)
	content := m.Content.Retain() // what is in shadow may need it for longer than the job
	go func() {
		defer cancel()
		defer close(r.finished)
		defer content.Release()
		d.o.Runner.Run(ctx, &chain.Parcel{Message: m, Slip: slip}, r)
	}()
	if early := r.settle(); early {
		d.await(r, cancel)
	}
	r.countDelivered()
	r.traceEnd(span)
	return r
}

func newRun(d *Dispatcher, j *job, slip chain.Slip) *run {
	return &run{d: d, job: j, slip: slip, received: j.message.Received, done: map[mail.RecipientID][]chain.Report{},
		went: map[mail.RecipientID]time.Time{}, open: map[mail.RecipientID]bool{}, broke: map[key]bool{},
		arrived: make(chan struct{}, 1), finished: make(chan struct{})}
}

// settle writes fates to the log as they arrive, until all have. early: what is in shadow has not finished yet.
func (r *run) settle() (early bool) {
	shadows := slices.ContainsFunc(r.slip.Hops, func(h chain.Hop) bool { return h.Shadow })
	openAfter := time.NewTimer(r.d.o.OpenAfter)
	defer openAfter.Stop()
	for over := false; !over; {
		select {
		case <-r.finished:
			over = true
		case <-r.arrived:
			select { // the other recipients of the same transaction come right behind
			case <-r.finished:
				over = true
			case <-time.After(gather):
			}
		case <-openAfter.C:
			r.tell()
			r.markOpen()
		}
		r.mu.Lock()
		fresh := r.fresh
		r.fresh = nil
		r.mu.Unlock()
		r.tell()
		if len(fresh) > 0 {
			r.d.settle(r, fresh)
		}
		if !over && shadows && r.settled() {
			return true
		}
	}
	return false
}

// markOpen settles what has no fate yet as waiting, while its Relay goes on.
func (r *run) markOpen() {
	r.mu.Lock()
	var left []mail.RecipientID
	for _, id := range r.job.group.Recipients {
		if r.open[id] {
			left = append(left, id)
		}
	}
	r.mu.Unlock()
	r.d.probeOver(r.job, unclear) // it takes long, wherever it is: the next one probes
	if len(left) == 0 {
		return
	}
	s := &spool.Settled{ID: r.job.message.ID, Revision: r.slip.Revision}
	for _, g := range r.byDone(left) {
		w := r.wait(g, chain.Fate{Kind: chain.Unknown, Concern: chain.AboutRoute, About: r.slip.Route.Name, Reason: "under way"})
		w.Room, w.Open, w.Next = spool.Retry, true, r.d.o.Now()
		s.Waits = append(s.Waits, w)
	}
	r.d.write(s)
}

// wait is the group of recipients that waits after fate f, without room and time.
func (r *run) wait(to []mail.RecipientID, f chain.Fate) spool.Wait {
	r.mu.Lock()
	done := r.done[to[0]]
	r.mu.Unlock()
	w := waiting(r.job.group, r.passedShadows(done))
	w.Recipients, w.Chain, w.Last = to, r.slip.Chain, brief(f)
	if w.Since.IsZero() {
		w.Since = r.d.o.Now()
	}
	return w
}

// byDone groups recipients that have the same hops behind them.
func (r *run) byDone(to []mail.RecipientID) [][]mail.RecipientID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out [][]mail.RecipientID
next:
	for _, id := range to {
		for i := range out {
			if sameHops(r.done[out[i][0]], r.done[id]) {
				out[i] = append(out[i], id)
				continue next
			}
		}
		out = append(out, []mail.RecipientID{id})
	}
	return out
}

// sameHops compares by identity: recipients of one branch share their reports.
func sameHops(a, b []chain.Report) bool {
	return slices.EqualFunc(a, b, func(x, y chain.Report) bool {
		return x.Instance == y.Instance && x.Hash == y.Hash && slices.Equal(x.Recipients, y.Recipients)
	})
}

// Report implements chain.Sink.
func (r *run) Report(rep chain.Report) {
	shadow := r.inShadow(rep.Instance)
	r.d.o.Tally.Report(&rep, shadow)
	if shadow {
		r.overheard(rep)
		return
	}
	r.pass(rep)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard = append(r.heard, spool.Hop{Report: rep, At: r.d.o.Now()})
	if rep.Outcome == chain.Failed || rep.Outcome == chain.ByVerdict && rep.Verdict != stage.KindContinue {
		return
	}
	rep = toKeep(rep)
	for _, id := range rep.Recipients {
		r.done[id] = append(slices.Clip(r.done[id]), rep)
	}
}

// pass notes what a report says of the gate of its hop.
func (r *run) pass(rep chain.Report) {
	k, id := key{chain.AboutHop, rep.Instance}, r.job.message.ID
	switch rep.Outcome {
	case chain.ByVerdict:
		r.d.gates.passed(k, id)
	case chain.Failed, chain.Skipped:
		r.d.o.Logger.Warn("hop failed", "id", id, "stage", rep.Instance, "outcome", string(rep.Outcome), "reason", rep.Reason)
	}
	if rep.Outcome == chain.Failed || r.job.probe == nil || *r.job.probe != k {
		return
	}
	r.mu.Lock()
	r.passed = true
	r.mu.Unlock()
	if !r.d.gates.suspected(k, id) { // a suspect may still break it; the rest need not wait for this one's delivery
		r.d.probeOver(r.job, well)
	}
}

// Fate implements chain.Sink.
func (r *run) Fate(f chain.Fate) {
	r.d.o.Tally.Fate(r.slip.Route.Name, &f)
	r.mu.Lock()
	if f.Kind == chain.Delivered {
		r.arrivals, r.last = r.arrivals+1, r.d.o.Now()
	}
	delete(r.open, f.Recipient)
	r.fresh = append(r.fresh, f)
	r.mu.Unlock()
	select {
	case r.arrived <- struct{}{}:
	default:
	}
}

// Ready implements chain.Sink: leave is given only while the lease is certain.
func (r *run) Ready(ctx context.Context, to []mail.RecipientID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.d.o.Now()
	if ctx.Err() != nil || !r.d.mayGo() || r.d.routePaused(r.slip.Route.Name) {
		return errNoLeave
	}
	for _, id := range to {
		r.went[id] = now
	}
	return nil
}

// notBefore is when recipients whose outcome is unknown may be tried again.
func (r *run) notBefore(to []mail.RecipientID) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	var at time.Time
	for _, id := range to {
		if t, ok := r.went[id]; ok && t.Add(r.d.o.UnknownDelay).After(at) {
			at = t.Add(r.d.o.UnknownDelay)
		}
	}
	return at
}
