package chain

import (
	"context"
	"sync"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Sink takes what comes back along a chain, as it arises. It is safe for concurrent use.
type Sink interface {
	// Report tells that a hop was run; it comes before anything that follows from it.
	Report(Report)
	// Fate tells what became of one recipient; there is exactly one for each pending recipient.
	Fate(Fate)
	// Ready asks for leave to give the final dot for these recipients. It blocks until leave is given (nil), or
	// until it is certain that there will be none (an error).
	Ready(ctx context.Context, to []mail.RecipientID) error
}

// Carrier ends a slip: egress. Carry gives each of p.Pending exactly one fate before it returns.
// p.Slip.Hops is empty.
type Carrier interface {
	Carry(ctx context.Context, p *Parcel, s Sink)
}

// ledger passes on to a Sink and sees to it that each recipient gets one fate and no second one.
type ledger struct {
	Sink
	mu   sync.Mutex
	open map[mail.RecipientID]bool
	any  bool
	// shadows are those that judge beside.
	shadows sync.WaitGroup
}

func newLedger(pending []mail.RecipientID, s Sink) *ledger {
	l := &ledger{Sink: s, open: make(map[mail.RecipientID]bool, len(pending))}
	for _, id := range pending {
		l.open[id] = true
	}
	return l
}

// Report passes a report on.
func (l *ledger) Report(r Report) {
	l.mu.Lock()
	l.any = true
	l.mu.Unlock()
	l.Sink.Report(r)
}

// Fate drops a fate for a recipient that has one already, or that nobody asked for: the first answer counts.
func (l *ledger) Fate(f Fate) {
	l.mu.Lock()
	ok := l.open[f.Recipient]
	delete(l.open, f.Recipient)
	l.any = true
	l.mu.Unlock()
	if ok {
		l.Sink.Fate(f)
	}
}

// settle gives every recipient that has none the fate f.
func (l *ledger) settle(f Fate) {
	l.mu.Lock()
	left := make([]mail.RecipientID, 0, len(l.open))
	for id := range l.open {
		left = append(left, id)
	}
	clear(l.open)
	l.mu.Unlock()
	for _, id := range left {
		f.Recipient = id
		l.Sink.Fate(f)
	}
}

// heard says that there was a report or a fate.
func (l *ledger) heard() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.any
}

func (l *ledger) none() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open) == 0
}

// fates gives f to every recipient.
func fates(s Sink, to []mail.RecipientID, f Fate) {
	for _, id := range to {
		f.Recipient = id
		s.Fate(f)
	}
}
