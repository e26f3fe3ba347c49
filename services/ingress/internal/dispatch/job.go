package dispatch

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// job is some recipients of one message that are to be run along one chain.
type job struct {
	// message is the original; its content is retained for the job.
	message mail.Message
	group   spool.Wait
	// inline is what stages said before the 250, to be carried out first; or nil.
	inline *Inline
	// fresh: it comes from the log's accepted entry, not out of a room.
	fresh bool
	// began is when the message was durable, of a fresh one.
	began time.Time
	// probe is the gate that this job probes, if any.
	probe *key
	// over: the probe has shown what it could; others may be where the message is.
	over atomic.Bool
	// ended is called when the run is over.
	ended func()
}

func (j *job) end() {
	j.message.Content.Release()
	if j.ended != nil {
		j.ended()
	}
}

// probes says that the job is alone behind the gate k.
func (j *job) probes(k key) bool { return j.probe != nil && *j.probe == k && !j.over.Load() }

// run brings a job on its way by the configuration of now.
func (d *Dispatcher) run(j *job) {
	defer d.probeOver(j, unclear) // if nothing else was learned
	if j.inline != nil {
		d.tellInline(j.inline, j.message.ID, j.group.Chain, j.group.Recipients)
		if j.group.Recipients = d.carryOut(j, j.inline); len(j.group.Recipients) == 0 {
			return
		}
	}
	if j.fresh && d.isPaused() {
		d.park(j, j.group.Done, chain.Fate{Kind: chain.Refused, Concern: chain.AboutRecipient, Reason: "held until resume"})
		return
	}
	cfg := d.o.Policy.View().Config()
	c := cfg.ChainNamed(j.group.Chain)
	if c == nil {
		d.rematch(j)
		return
	}
	slip, kept := rest(cfg, c, j.group.Done, j.group.Released)
	done := j.group.Done[:kept]
	if d.routePaused(slip.Route.Name) { // a probe of a hop too: it would go out
		d.park(j, done, pausedFate(slip.Route.Name))
		return
	}
	if k, down := d.blockedBy(slip, j); down {
		d.park(j, done, chain.Fate{Kind: chain.Refused, Concern: k.concern, About: k.about, Reason: reasonKnown})
		return
	}
	m, err := replay(j.message, done)
	if err != nil { // edits that do not fit the original: run the chain from its start
		d.o.Logger.Error("hops done do not fit their message: they are run again", "id", j.message.ID, "error", err)
		slip, _ = rest(cfg, c, nil, j.group.Released)
		done = nil
		if m, err = replay(j.message, nil); err != nil {
			return // without edits there is nothing to fail
		}
	}
	defer m.Content.Release()
	m.Envelope.Origin.Direction = d.direction(m.Envelope, j.group.Recipients)
	r := d.carry(d.ctx, j, m, d.withoutTroubled(slip), done)
	if r.passed {
		d.probeOver(j, well)
	}
}

// direction is that of the recipients: one message may have some here and some elsewhere, in chains of their own.
func (d *Dispatcher) direction(e mail.Envelope, to []mail.RecipientID) mail.Direction {
	if rcpt, ok := e.Recipient(to[0]); ok {
		return d.o.Policy.View().Direction(e.Origin, rcpt.Address)
	}
	return e.Origin.Direction
}

// rematch finds new chains for recipients whose chain is gone, and runs them there.
func (d *Dispatcher) rematch(j *job) {
	view := d.o.Policy.View()
	var order []*config.Chain
	to := map[*config.Chain][]mail.RecipientID{}
	var nobody []mail.RecipientID
	for _, id := range j.group.Recipients {
		rcpt, ok := j.message.Envelope.Recipient(id)
		var c *config.Chain
		if ok {
			c, ok = view.Match(&j.message.Envelope, rcpt)
		}
		if !ok {
			nobody = append(nobody, id)
			continue
		}
		if to[c] == nil {
			order = append(order, c)
		}
		to[c] = append(to[c], id)
	}
	if len(nobody) > 0 {
		d.o.Logger.Error("no chain takes these recipients any more: they are held", "id", j.message.ID, "chain", j.group.Chain, "recipients", len(nobody))
		w := waiting(j.group, j.group.Done)
		w.Recipients, w.Room = nobody, spool.Dead
		w.Last = chain.Fate{Kind: chain.Refused, Concern: chain.AboutRecipient, Reason: "chain " + j.group.Chain + " is gone and no other takes this recipient"}
		if w.Since.IsZero() {
			w.Since = d.o.Now()
		}
		d.write(&spool.Settled{ID: j.message.ID, Revision: view.Config().Revision, Waits: []spool.Wait{w}})
	}
	var all sync.WaitGroup
	for _, c := range order {
		next := &job{message: j.message, group: j.group, fresh: j.fresh}
		next.group.Chain, next.group.Recipients = c.Name, to[c]
		all.Go(func() { d.run(next) })
	}
	all.Wait() // the content, the slot and the room of this job are theirs
}

// blockedBy finds the gate that keeps a job from running along its slip now. A chain that does not wait for a stage by its
// on_error is not kept by that stage's gate, unless there are suspects: these have to be alone. One that has it in shadow is
// never kept by it. A probe is not kept by what lies behind the gate that it probes: else a message with two gates before it would be
// sent from the one to the other for ever.
func (d *Dispatcher) blockedBy(slip chain.Slip, j *job) (key, bool) {
	way := make([]key, 0, len(slip.Hops)+2)
	for _, h := range slip.Hops {
		k := key{chain.AboutHop, h.Instance}
		if !h.Shadow && (h.OnError == chain.OnErrorDefer || d.gates.suspects(k)) || j.probe != nil && *j.probe == k {
			way = append(way, k)
		}
	}
	way = append(way, key{chain.AboutHop, chain.EgressHop}, key{chain.AboutRoute, slip.Route.Name})
	for _, k := range way {
		if j.probe != nil && *j.probe == k {
			break
		}
		if d.gates.isDown(k) {
			return k, true
		}
	}
	return key{}, false
}

// park lets a job wait for what fate f concerns, without having run it.
func (d *Dispatcher) park(j *job, done []chain.Report, f chain.Fate) {
	w := waiting(j.group, done)
	w.Room, w.Last = spool.Park, f
	if w.Since.IsZero() || j.group.Room != w.Room {
		w.Since = d.o.Now()
	}
	d.write(&spool.Settled{ID: j.message.ID, Waits: []spool.Wait{w}})
}

// waiting is a group as it waits next: without room, time and fate, and with the hops done that hold.
func waiting(g spool.Wait, done []chain.Report) spool.Wait {
	w := spool.Wait{Recipients: g.Recipients, Chain: g.Chain, Attempts: g.Attempts, Since: g.Since, Released: g.Released}
	for _, r := range done {
		r.Recipients = nil // the group says whose they are
		w.Done = append(w.Done, r)
	}
	return w
}

// write puts a settlement into the log and waits until it is durable; false: the shard is lost, and its next owner
// treats the recipients as unknown.
func (d *Dispatcher) write(s *spool.Settled, reports ...*spool.Accepted) bool {
	if err := d.record(s, reports...); err != nil {
		d.o.Logger.LogAttrs(d.ctx, slog.LevelError, "a fate could not be recorded", slog.String("id", s.ID), slog.Any("error", err))
		return false
	}
	return true
}
