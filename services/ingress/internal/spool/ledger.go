package spool

import (
	"sync"

	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

// ledger is what the log says: every message that is not over, where each of its recipients stands, and which
// records are still needed. The same apply makes it, live and when the log is replayed.
type ledger struct {
	mu       sync.Mutex
	messages map[string]*tracked
	pins     pins
	view     *depot.View

	// store wants the message's value in the depot written or, when it is over, deleted. Called with mu held.
	store func(t *tracked)
	// over wants a message that the depot does not hold to be forgotten: its chunks, if any, deleted. Called with mu
	// held.
	over func(t *tracked)
	// ended tells the trail. The record stays pinned until unpin is called. Called with mu held.
	ended func(seq uint64, s *Settled, took []End, waits []Wait, unpin func())
}

// tracked is one message of the ledger.
type tracked struct {
	msg *depot.Message
	// accepted is the sequence of its accepted entry; 0 when that is below the floor. It is where the bytes are
	// read back from until they are stored beside the depot's value.
	accepted uint64
	// inline are the bytes, while they are in memory.
	inline []byte
	// needs are the records that hold what the depot does not reflect yet.
	needs []uint64
	// stored is the log sequence that the depot's acknowledged value reflects; 0: the depot holds nothing.
	stored uint64
	// bytesStored: the bytes stand beside the depot's value.
	bytesStored bool
	// queued: waits for the depot's writer, or is being written; again: changed since.
	queued, again bool
	voided        bool
}

func newLedger(view *depot.View) *ledger {
	return &ledger{messages: make(map[string]*tracked), view: view}
}

// apply enters one record.
func (l *ledger) apply(seq uint64, entries []entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pins.append(seq)
	for i := range entries {
		switch e := &entries[i]; {
		case e.accepted != nil:
			l.accept(seq, e.accepted)
		case e.settled != nil:
			l.settle(seq, e.settled)
		case e.void != "":
			l.void(seq, e.void)
		}
	}
}

func (l *ledger) accept(seq uint64, a *Accepted) {
	if t := l.messages[a.ID]; t != nil {
		// Replayed over the depot's value, which knows more. While a recipient is unsettled the bytes may stand here
		// alone.
		if t.accepted == 0 {
			t.accepted = seq
			if len(t.msg.Running) > 0 {
				l.need(t, seq)
			}
		}
		return
	}
	body := a.Body
	body.Inline = nil
	t := &tracked{
		msg: &depot.Message{
			ID: a.ID, Received: a.Received, Envelope: a.Envelope, Reports: a.Reports, Body: body, Seq: seq,
			Running: a.Starts,
		},
		accepted: seq, inline: a.Body.Inline,
	}
	l.messages[a.ID] = t
	l.need(t, seq)
}

func (l *ledger) settle(seq uint64, s *Settled) {
	t := l.messages[s.ID]
	if t == nil {
		// Replayed after its message was over and deleted everywhere; the trail may not have its ends.
		l.trail(seq, s, s.Ends, s.Waits)
		return
	}
	if seq <= t.stored {
		// Replayed over a value that reflects it.
		l.trail(seq, s, s.Ends, s.Waits)
		return
	}
	next, took, changed := t.msg.Settle(seq, s.Ends, s.Waits)
	l.trail(seq, s, took, s.Waits)
	t.msg = next
	l.need(t, seq)
	l.view.Put(next, changed...)
	l.changed(t)
}

func (l *ledger) void(seq uint64, id string) {
	t := l.messages[id]
	if t == nil {
		return
	}
	t.msg = t.msg.End(seq)
	t.voided = true
	l.need(t, seq)
	l.view.Remove(id)
	l.changed(t)
}

func (l *ledger) trail(seq uint64, s *Settled, took []End, waits []Wait) {
	if len(took)+len(waits) == 0 {
		return
	}
	l.pins.pin(seq)
	l.ended(seq, s, took, waits, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.pins.unpin(seq)
	})
}

// changed does what the depot needs after a change. A message that only runs, or whose recipients ended while
// others run, needs nothing: its accepted entry is kept.
func (l *ledger) changed(t *tracked) {
	switch {
	case t.queued:
		t.again = true
	case t.msg.Over() && t.stored == 0:
		l.forget(t)
		l.over(t)
	case t.msg.Over() || len(t.msg.Groups) > 0 || t.stored > 0:
		t.queued, t.again = true, false
		l.store(t)
	}
}

// written: the depot's value that reflects the log up to seq is durable. It says whether there is an older one.
func (l *ledger) written(t *tracked, seq uint64) (older bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	older = t.stored > 0
	t.stored = max(t.stored, seq)
	t.queued = false
	if len(t.msg.Running) == 0 {
		l.release(t, seq)
		t.inline = nil
		if t.msg.Seq == seq && !t.msg.Over() {
			t.msg = t.msg.Trim()
			l.view.Put(t.msg)
		}
	}
	if t.again {
		l.changed(t)
	}
	return older
}

// deleted: the depot holds nothing of the message any more.
func (l *ledger) deleted(t *tracked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.queued, t.stored = false, 0
	l.forget(t)
	l.over(t)
}

func (l *ledger) forget(t *tracked) {
	l.release(t, t.msg.Seq)
	delete(l.messages, t.msg.ID)
	l.view.Remove(t.msg.ID)
	t.inline = nil
}

func (l *ledger) need(t *tracked, seq uint64) {
	if n := len(t.needs); n > 0 && t.needs[n-1] == seq {
		return
	}
	t.needs = append(t.needs, seq)
	l.pins.pin(seq)
}

// release lets go of the records up to seq.
func (l *ledger) release(t *tracked, seq uint64) {
	n := 0
	for n < len(t.needs) && t.needs[n] <= seq {
		l.pins.unpin(t.needs[n])
		n++
	}
	t.needs = t.needs[n:]
	if len(t.needs) == 0 {
		t.needs = nil
	}
}

func (l *ledger) floor() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pins.floor()
}

func (l *ledger) get(id string) *tracked {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.messages[id]
}

func (l *ledger) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.messages)
}
