package dispatch

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/tally"
)

// Log is the shard that a Dispatcher works for. *spool.Shard is one.
type Log interface {
	// Accept makes a message durable, with what is settled of it from the start.
	Accept(ctx context.Context, a *spool.Accepted) error
	// Settle writes what became of recipients, with the reports that this causes, as one record. It fails only when
	// the shard is lost.
	Settle(ctx context.Context, s *spool.Settled, reports ...*spool.Accepted) error
	// Load brings back a message that waits, with the edits of its hops done.
	Load(ctx context.Context, id string) (*depot.Message, error)
	// Content fetches the original bytes of a message; the caller releases them.
	Content(ctx context.Context, id string, body spool.Body) (mail.Content, error)
	// Waiting is the index over what waits.
	Waiting() *depot.View
	// MayGo says that ownership of the shard is certain for long enough to give a final dot.
	MayGo() bool
	// Trail adds what hops said to the way of a message; it may be lost in a crash.
	Trail(e *spool.Event)
	// Done is closed when the shard is lost.
	Done() <-chan struct{}
}

// Options of a Dispatcher.
type Options struct {
	Log    Log
	Runner *chain.Runner
	Policy *policy.Policy
	Logger *slog.Logger
	Now    func() time.Time
	// NotBefore: outcomes that were open when the shard was taken over count as open until then, and nothing that was
	// found runs sooner. Zero: at once.
	NotBefore time.Time
	// UnknownDelay is how long after leave for a final dot an unknown outcome is tried again; 0: 15 s.
	UnknownDelay time.Duration
	// OpenAfter is how long a run may be without a fate before its recipients are settled as waiting; 0: 15 s.
	OpenAfter time.Duration
	// Woken is how many waiting groups run at once; 0: 32.
	Woken int
	// Paused: nothing is run until Resume (`up --hold`).
	Paused bool
	// RoutePaused says that a person has stopped a route; nil: none is. It is asked often, and must not block. When it
	// begins to answer otherwise, RoutesChanged is to be called.
	RoutePaused func(name string) bool
	// Tally counts; nil: nobody does.
	Tally *tally.Tally
	// Tracer makes spans of a part of the messages; nil: of none.
	Tracer *telemetry.Tracer
}

// Dispatcher runs the messages of one shard.
type Dispatcher struct {
	o     Options
	gates *gates
	slots chan struct{} // for woken groups

	ctx      context.Context // of all runs
	cancel   context.CancelFunc
	stopping chan struct{} // closed by Close: nothing is started any more
	runs     sync.WaitGroup
	kick     chan struct{}

	mu      sync.Mutex
	paused  bool
	closing bool
	early   map[string]time.Time // by message: when an unknown outcome may be tried again
	under   map[string]int       // by message: jobs under way
	// flowing: what is parked before open gates is being woken; flow: it is to be, once more. changed: what is retried
	// because a stage failed is woken with it, since the configuration is another one.
	flowing, flow, changed bool
}

// New makes a Dispatcher; Run starts it.
func New(o Options) *Dispatcher {
	if o.UnknownDelay == 0 {
		o.UnknownDelay = 15 * time.Second
	}
	if o.OpenAfter == 0 {
		o.OpenAfter = 15 * time.Second
	}
	if o.Woken == 0 {
		o.Woken = 32
	}
	d := &Dispatcher{o: o, gates: newGates(o.Now, o.NotBefore), slots: make(chan struct{}, o.Woken), stopping: make(chan struct{}),
		kick: make(chan struct{}, 1), paused: o.Paused, early: map[string]time.Time{}, under: map[string]int{}}
	d.gates.stopped = d.stopped
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Accept makes a message durable and lets it run; in is what inline stages said of it, or nil. ended is called when
// its runs are over, however they ended, but not if Accept returns an error. Accept takes its own hold of content.
func (d *Dispatcher) Accept(ctx context.Context, a *spool.Accepted, content mail.Content, in *Inline, ended func()) error {
	ctx, span := d.o.Tracer.Start(ctx, "spool append")
	err := d.o.Log.Accept(ctx, a)
	if err != nil {
		span.Fail("not stored")
	}
	span.End()
	if err != nil {
		return err
	}
	d.countStarts(a)
	d.start(a, content, in, ended)
	return nil
}

// start runs an accepted message along its chains.
func (d *Dispatcher) start(a *spool.Accepted, content mail.Content, in *Inline, ended func()) {
	var left atomic.Int64
	left.Store(int64(len(a.Starts)))
	over := func() {
		if left.Add(-1) == 0 && ended != nil {
			ended()
		}
	}
	for _, s := range a.Starts {
		m := mail.Message{ID: a.ID, Received: a.Received, Envelope: a.Envelope, Content: content.Retain()}
		d.launch(&job{message: m, group: spool.Wait{Recipients: s.Recipients, Chain: s.Chain, Done: s.Done}, inline: in, fresh: true, began: d.o.Now(), ended: over})
	}
}

// launch runs a job in its own goroutine. While the dispatcher is closing the job ends at once: what is in the log and
// not settled runs again at the next start.
func (d *Dispatcher) launch(j *job) {
	started := d.spawn(func() {
		defer j.end()
		d.began(j)
		defer d.over(j)
		d.run(j)
	})
	if !started {
		j.end()
	}
}

// spawn runs f, unless the dispatcher is closing.
func (d *Dispatcher) spawn(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return false
	}
	d.runs.Go(f)
	return true
}

func (d *Dispatcher) isPaused() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.paused
}

// mayGo: runs under way get leave until they are cancelled, also while the dispatcher is closing.
func (d *Dispatcher) mayGo() bool { return d.ctx.Err() == nil && d.o.Log.MayGo() }

// Pause stops running messages; what is under way goes on.
func (d *Dispatcher) Pause() {
	d.mu.Lock()
	d.paused = true
	d.mu.Unlock()
}

// Resume goes on, with what was accepted in between too.
func (d *Dispatcher) Resume() {
	d.mu.Lock()
	d.paused, d.flow = false, true
	d.mu.Unlock()
	d.poke()
}

// ConfigChanged looks again at everything that is parked, and at what a stage failed on: the hop may be another one
// now.
func (d *Dispatcher) ConfigChanged() {
	d.gates.hurry()
	d.mu.Lock()
	d.changed = true
	d.mu.Unlock()
	d.goOn()
}

// goOn wakes what is parked before gates that are open.
func (d *Dispatcher) goOn() {
	d.mu.Lock()
	d.flow = true
	d.mu.Unlock()
	d.poke()
}

func (d *Dispatcher) poke() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// notSooner notes when a message with an unknown outcome may be tried again.
func (d *Dispatcher) notSooner(id string, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at.After(d.early[id]) {
		d.early[id] = at
	}
}

// mayRunFrom is when a message may be run at the earliest, by what is known of outcomes still on their way.
func (d *Dispatcher) mayRunFrom(id string) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at := d.early[id]; at.After(d.o.NotBefore) {
		return at
	}
	return d.o.NotBefore
}

// settledDown forgets outcomes that are not on their way any more: what was parked for their sake goes on. It tells
// when the next one is to be forgotten; false: there is none.
func (d *Dispatcher) settledDown() (next time.Time, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.o.Now()
	for id, at := range d.early {
		switch {
		case !at.After(now):
			delete(d.early, id)
			d.flow = true
		case !more || at.Before(next):
			next, more = at, true
		}
	}
	return next, more
}

// lastWords is how long Close waits for runs that were cancelled.
const lastWords = 3 * time.Second

// Close lets runs finish until ctx ends, then cancels them: before the final dot that aborts, after it nothing does,
// and what has no fate by then is unknown at the next start. It says whether every run came to its fate, so that the
// next owner of the shard need not wait for any.
func (d *Dispatcher) Close(ctx context.Context) (idle bool) {
	d.mu.Lock()
	if !d.closing {
		d.closing = true
		close(d.stopping)
	}
	d.mu.Unlock()
	defer d.cancel()
	done := make(chan struct{})
	go func() { d.runs.Wait(); close(done) }()
	select {
	case <-done:
		_, open := d.settledDown()
		return !open && !d.o.NotBefore.After(d.o.Now())
	case <-ctx.Done():
	}
	d.cancel()
	t := time.NewTimer(lastWords)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
	return false
}
