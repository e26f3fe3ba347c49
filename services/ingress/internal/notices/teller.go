package notices

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// mostPerHour is how many notices one ingress sends in an hour; the next one says how many were held back.
	mostPerHour = 20
	// mostQueued bounds what waits for its mail, mostTogether what stands in one.
	mostQueued   = 500
	mostTogether = 100
	// slowly is how often certificates and what can be full are looked at.
	slowly = 5 * time.Minute
	// stampEvery is how often a stop that was told is noted to be there still.
	stampEvery = 20 * time.Second
)

// Options of a Teller.
type Options struct {
	Conn *nats.Conn
	// Replicas of the bucket.
	Replicas int
	// Instance is the ingress, Process this process of it.
	Instance, Process string
	Logger            *slog.Logger
	Now               func() time.Time
	// Location is where the morning is; nil: the machine's.
	Location *time.Location
	Times    Times
}

// Teller tells the postmaster. Make one with New, and run it.
type Teller struct {
	o      Options
	claims *claims

	queue    []*item
	queued   map[string]bool
	known    map[string]time.Time // told, by whomever; until when to remember
	stops    map[string]*tracked
	sent     []time.Time
	withheld []string
	held     int // of which withheld has the titles of the first
	slow     time.Time
	ends     time.Time // when the ends of stops were looked for
	morning  string
	growth   *growth
	failing  string

	mu       sync.Mutex
	loops    map[[2]string]*loops
	loopDay  string
	loopsNow int // told of on that day
}

// item is something to be told.
type item struct {
	key   string
	title string
	lines []string
	// alone: it has a mail of its own.
	alone bool
	// stop is set in the item of a stop; ended says that it is over: this is the only notice of it, or, with end, the
	// second one.
	stop       *Stop
	ended, end bool
	at         time.Time
	record     *record
	// after is called when it has been told, by whomever.
	after func()
}

// New opens the bucket that the ingresses share.
func New(ctx context.Context, o Options) (*Teller, error) {
	o.Times.complete()
	if o.Location == nil {
		o.Location = time.Local
	}
	c, err := openClaims(ctx, o.Conn, o.Replicas, o.Process)
	if err != nil {
		return nil, err
	}
	return &Teller{o: o, claims: c, queued: map[string]bool{}, known: map[string]time.Time{}, stops: map[string]*tracked{}, loops: map[[2]string]*loops{}}, nil
}

// Run looks at s from time to time until ctx ends.
func (t *Teller) Run(ctx context.Context, s Source) {
	if to, _ := s.Postmaster(); to.IsNull() {
		t.o.Logger.Warn("nobody is told what waits: set postmaster")
	}
	tick := time.NewTicker(t.o.Times.Look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.Look(ctx, s)
		}
	}
}

// Look looks once, and sends what is due.
func (t *Teller) Look(ctx context.Context, s Source) {
	to, hostname := s.Postmaster()
	if to.IsNull() {
		return
	}
	now := t.o.Now()
	t.lookAtStops(s, now)
	t.lookAtLoops(now)
	if !t.claims.here() {
		return // what was seen waits
	}
	if now.Sub(t.slow) >= slowly {
		t.slow = now
		t.lookAtCertificates(s, now)
		t.failed(t.lookAtFills(ctx, s, now))
	}
	t.failed(t.lookAtEnds(ctx, now))
	t.failed(t.stampStops(ctx, now))
	t.failed(t.lookAtMorning(ctx, s, now))
	t.failed(t.flush(ctx, s, envelope{to, hostname}, now))
	for k, until := range t.known {
		if until.Before(now) {
			delete(t.known, k)
		}
	}
}

// failed logs an error, once for as long as it stays the same.
func (t *Teller) failed(err error) {
	switch {
	case err == nil:
	case err.Error() != t.failing:
		t.failing = err.Error()
		t.o.Logger.Warn("the postmaster cannot be told now; it is tried again", "error", err)
	}
}

// add queues an item, unless it is there or was told already.
func (t *Teller) add(i *item) {
	if t.queued[i.key] || len(t.queue) >= mostQueued {
		return
	}
	if _, ok := t.known[i.key]; ok {
		return
	}
	i.at = t.o.Now()
	t.queued[i.key] = true
	t.queue = append(t.queue, i)
}

func (t *Teller) remove(i *item) {
	delete(t.queued, i.key)
	for n, q := range t.queue {
		if q == i {
			t.queue = append(t.queue[:n], t.queue[n+1:]...)
			return
		}
	}
}

// over notes that an item has been told.
func (t *Teller) over(i *item, now time.Time) {
	t.remove(i)
	if i.stop == nil {
		t.known[i.key] = now.Add(keepFor)
	}
	if i.after != nil {
		i.after()
	}
}

// flush sends what was collected for long enough.
func (t *Teller) flush(ctx context.Context, s Source, e envelope, now time.Time) error {
	if t.held > 0 && t.room(now) {
		text := fmt.Sprintf("%d notices were held back, since more than %d in an hour are not sent", t.held, mostPerHour)
		more := &item{title: text, lines: t.withheld}
		if err := t.send(ctx, s, e, []*item{more}, now); err != nil {
			return err
		}
		t.held, t.withheld = 0, nil
	}
	due := false
	for _, i := range t.queue {
		due = due || now.Sub(i.at) >= t.o.Times.Collect
	}
	if !due {
		return nil
	}
	var together []*item
	for _, i := range append([]*item(nil), t.queue...) {
		got, err := t.take(ctx, i, now)
		switch {
		case err != nil:
			return err
		case got == done:
			t.over(i, now)
		case got == others: // until it is told, or its lease has run out
		case i.alone:
			if err := t.tell(ctx, s, e, []*item{i}, now); err != nil {
				return err
			}
		default:
			if together = append(together, i); len(together) == mostTogether {
				return t.tell(ctx, s, e, together, now) // the rest at the next look
			}
		}
	}
	if len(together) == 0 {
		return nil
	}
	return t.tell(ctx, s, e, together, now)
}

// take claims an item.
func (t *Teller) take(ctx context.Context, i *item, now time.Time) (got outcome, err error) {
	if i.end {
		i.record, got, err = t.claims.claimEnd(ctx, i.key, now, t.o.Times.Lease, t.o.Times.Over)
	} else {
		i.record, got, err = t.claims.claim(ctx, i.key, now, t.o.Times.Lease, i.stop)
	}
	return got, err
}

// tell sends claimed items in one mail, or holds them back, and notes that they were told.
func (t *Teller) tell(ctx context.Context, s Source, e envelope, items []*item, now time.Time) error {
	if t.room(now) {
		if err := t.send(ctx, s, e, items, now); err != nil {
			return err
		}
	} else {
		for _, i := range items {
			if t.held++; len(t.withheld) < mostHeldBack {
				t.withheld = append(t.withheld, i.title)
			}
		}
	}
	var failed error
	for _, i := range items {
		// After an error here the claim runs out, and it may be told twice.
		if i.ended || i.end {
			failed = keep(failed, t.claims.drop(ctx, i.key, i.record))
		} else {
			i.record.State, i.record.By, i.record.Until = told, "", time.Time{}
			_, err := t.claims.put(ctx, i.key, i.record)
			failed = keep(failed, err)
		}
		t.over(i, now)
	}
	return failed
}

func keep(first, err error) error {
	if first != nil {
		return first
	}
	return err
}

// room says that another notice may be sent in this hour.
func (t *Teller) room(now time.Time) bool {
	for len(t.sent) > 0 && now.Sub(t.sent[0]) >= time.Hour {
		t.sent = t.sent[1:]
	}
	return len(t.sent) < mostPerHour
}

func (t *Teller) send(ctx context.Context, s Source, e envelope, items []*item, now time.Time) error {
	subject := subjectOf(items)
	err := s.Send(ctx, e.to, func(id string, at time.Time) []byte {
		return e.message(id, at.In(t.o.Location), subject, items)
	})
	if err != nil {
		return fmt.Errorf("notices: %w", err)
	}
	t.failing = ""
	t.sent = append(t.sent, now)
	t.o.Logger.Info("the postmaster is told", "subject", subject, "notices", len(items))
	return nil
}
