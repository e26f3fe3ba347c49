package dispatch

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
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
	// UnknownDelay is how long after leave for a final dot an unknown outcome is tried again; 0: 15 s.
	UnknownDelay time.Duration
	// OpenAfter is how long a run may be without a fate before its recipients are settled as waiting; 0: 15 s.
	OpenAfter time.Duration
	// Woken is how many waiting groups run at once; 0: 32.
	Woken int
	// Paused: nothing is run until Resume (`up --hold`).
	Paused bool
}

// Dispatcher runs the messages of one shard.
type Dispatcher struct {
	o     Options
	gates *gates
	slots chan struct{} // for woken groups

	ctx    context.Context // of all runs
	cancel context.CancelFunc
	runs   sync.WaitGroup
	kick   chan struct{}

	mu        sync.Mutex
	paused    bool
	closing   bool
	notBefore map[string]time.Time // by message, for unknown outcomes
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
	d := &Dispatcher{o: o, gates: newGates(o.Now), slots: make(chan struct{}, o.Woken), kick: make(chan struct{}, 1), paused: o.Paused, notBefore: map[string]time.Time{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Accept makes a message durable and lets it run; in is what inline stages said of it, or nil. ended is called when
// its runs are over, however they ended, but not if Accept returns an error. Accept takes its own hold of content.
func (d *Dispatcher) Accept(ctx context.Context, a *spool.Accepted, content mail.Content, in *Inline, ended func()) error {
	if err := d.o.Log.Accept(ctx, a); err != nil {
		return err
	}
	d.start(a, content, in, ended)
	return nil
}

// start runs an accepted message along its chains.
func (d *Dispatcher) start(a *spool.Accepted, content mail.Content, in *Inline, ended func()) {
	var left sync.WaitGroup
	left.Add(len(a.Starts))
	for _, s := range a.Starts {
		m := mail.Message{ID: a.ID, Received: a.Received, Envelope: a.Envelope, Content: content.Retain()}
		d.fresh(&job{message: m, group: spool.Wait{Recipients: s.Recipients, Chain: s.Chain, Done: s.Done}, inline: in, ended: left.Done})
	}
	if ended != nil {
		go func() { left.Wait(); ended() }()
	}
}

// fresh runs a job at once, or keeps it while the dispatcher is paused.
func (d *Dispatcher) fresh(j *job) {
	d.mu.Lock()
	if d.paused && !d.closing {
		d.mu.Unlock()
		d.park(j, chain.Fate{Kind: chain.Refused, Concern: chain.AboutRecipient, Reason: "held until resume"})
		j.end()
		return
	}
	d.mu.Unlock()
	d.launch(j)
}

func (d *Dispatcher) launch(j *job) {
	started := d.spawn(func() {
		defer j.end()
		d.run(j)
	})
	if !started {
		// What is in the log and not settled runs again at the next start.
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

func (j *job) end() {
	j.message.Content.Release()
	if j.ended != nil {
		j.ended()
	}
}

// run brings a job on its way by the configuration of now.
func (d *Dispatcher) run(j *job) {
	if j.inline != nil {
		if j.group.Recipients = d.carryOut(j, j.inline); len(j.group.Recipients) == 0 {
			return
		}
	}
	cfg := d.o.Policy.View().Config()
	c := cfg.ChainNamed(j.group.Chain)
	if c == nil {
		d.rematch(j)
		return
	}
	slip, kept := rest(cfg, c, j.group.Done, j.group.Released)
	done := j.group.Done[:kept]
	if k, down := d.blockedBy(slip, j.probe); down {
		j.group.Done = done
		d.park(j, chain.Fate{Kind: chain.Refused, Concern: k.concern, About: k.about, Reason: "known to be down"})
		if j.probe != nil { // it did not get there, and waits for something else now: the next one probes
			d.gates.postpone(*j.probe, probeWait(0))
			d.poke()
		}
		return
	}
	m, err := replay(j.message, done)
	if err != nil { // edits that do not fit the original: run the chain from its start
		d.o.Logger.Error("hops done do not fit their message: they are run again", "id", j.message.ID, "error", err)
		slip, _ = rest(cfg, c, nil, j.group.Released)
		done = nil
		if m, err = replay(j.message, nil); err != nil {
			return
		}
	}
	defer m.Content.Release()
	m.Envelope.Origin.Direction = d.direction(m.Envelope, j.group.Recipients)
	r := d.carry(d.ctx, j, m, slip, done)
	if len(r.reports) > 0 {
		d.o.Log.Trail(&spool.Event{ID: j.message.ID, At: d.o.Now(), Revision: slip.Revision, Chain: slip.Chain, Hops: r.reports})
	}
	if j.probe != nil {
		d.probed(*j.probe, j.message.ID, !r.blocked)
	}
}

// direction is that of the recipients: one message may have some here and some elsewhere, in chains of their own.
func (d *Dispatcher) direction(e mail.Envelope, to []mail.RecipientID) mail.Direction {
	if rcpt, ok := e.Recipient(to[0]); ok {
		return d.o.Policy.View().Direction(e.Origin, rcpt.Address)
	}
	return e.Origin.Direction
}

// rematch finds new chains for recipients whose chain is gone.
func (d *Dispatcher) rematch(j *job) {
	if j.probe != nil {
		d.probed(*j.probe, j.message.ID, true)
	}
	to := map[*config.Chain][]mail.RecipientID{}
	var nobody []mail.RecipientID
	for _, id := range j.group.Recipients {
		rcpt, ok := j.message.Envelope.Recipient(id)
		if !ok {
			nobody = append(nobody, id)
			continue
		}
		if c, ok := d.o.Policy.Match(&j.message.Envelope, rcpt); ok {
			to[c] = append(to[c], id)
		} else {
			nobody = append(nobody, id)
		}
	}
	if len(nobody) > 0 {
		w := j.group
		w.Recipients, w.Room, w.Next = nobody, spool.Dead, time.Time{}
		w.Last = chain.Fate{Kind: chain.Refused, Concern: chain.AboutRecipient, Reason: "chain " + j.group.Chain + " is gone and no other takes this recipient"}
		d.write(&spool.Settled{ID: j.message.ID, Waits: []spool.Wait{w}})
	}
	for c, ids := range to {
		next := &job{message: j.message, group: j.group}
		next.group.Chain, next.group.Recipients = c.Name, ids
		next.message.Content = j.message.Content.Retain()
		d.launch(next)
	}
}

// blockedBy finds the gate that keeps a slip from running now.
func (d *Dispatcher) blockedBy(slip chain.Slip, probe *key) (key, bool) {
	try := func(k key) bool { return (probe == nil || *probe != k) && d.gates.isDown(k) }
	for _, h := range slip.Hops {
		if k := (key{chain.AboutHop, h.Instance}); h.OnError == chain.OnErrorDefer && !h.Shadow && try(k) {
			return k, true
		}
	}
	for _, k := range []key{{chain.AboutHop, chain.EgressHop}, {chain.AboutRoute, slip.Route.Name}} {
		if try(k) {
			return k, true
		}
	}
	return key{}, false
}

// park lets a job wait for what fate f concerns, without having run it.
func (d *Dispatcher) park(j *job, f chain.Fate) {
	w := j.group
	w.Room, w.Next, w.Last = spool.Park, time.Time{}, f
	if w.Since.IsZero() {
		w.Since = d.o.Now()
	}
	d.write(&spool.Settled{ID: j.message.ID, Waits: []spool.Wait{w}})
}

func (d *Dispatcher) mayGo() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.closing && d.o.Log.MayGo()
}

// Pause stops running messages; what is under way goes on.
func (d *Dispatcher) Pause() {
	d.mu.Lock()
	d.paused = true
	d.mu.Unlock()
}

// Resume goes on.
func (d *Dispatcher) Resume() {
	d.mu.Lock()
	d.paused = false
	d.mu.Unlock()
	d.letGo()
	d.poke()
}

// letGo runs what was accepted while the dispatcher was paused.
func (d *Dispatcher) letGo() {
	d.wakeNow(depot.Filter{Room: spool.Park, Concern: chain.AboutRecipient}, func(w *spool.Wait) bool {
		return w.Room == spool.Park && w.Last.Concern == chain.AboutRecipient
	})
}

// ConfigChanged looks again at everything that is parked: its hop may be another one now.
func (d *Dispatcher) ConfigChanged() {
	d.gates.hurry()
	d.poke()
}

func (d *Dispatcher) poke() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// Close lets runs finish until ctx ends, then cancels them: before the final dot that aborts, after it nothing does,
// and what has no fate by then is unknown at the next start. It says whether every run came to its fate.
func (d *Dispatcher) Close(ctx context.Context) (idle bool) {
	d.mu.Lock()
	d.closing = true
	d.mu.Unlock()
	done := make(chan struct{})
	go func() { d.runs.Wait(); close(done) }()
	select {
	case <-done:
		idle = true
	case <-ctx.Done():
		d.cancel()
		<-done
	}
	d.cancel()
	return idle
}

// write puts a settlement into the log and waits until it is durable; false: the shard is lost, and its next owner
// treats the recipients as unknown.
func (d *Dispatcher) write(s *spool.Settled, reports ...*spool.Accepted) bool {
	if err := d.o.Log.Settle(context.WithoutCancel(d.ctx), s, reports...); err != nil {
		d.o.Logger.Error("a fate could not be recorded", "id", s.ID, "error", err)
		return false
	}
	d.poke()
	return true
}
