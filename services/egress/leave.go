package egress

import (
	"context"
	"fmt"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// petition is one question for leave to give the final dot.
type petition struct {
	asked  time.Time
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// ask puts the question in the background, while the body is still being sent.
func (d *delivery) ask(ctx context.Context, to []mail.RecipientID) *petition {
	ctx, cancel := context.WithTimeout(ctx, d.limits.leave)
	p := &petition{asked: d.now(), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = d.sink.Ready(ctx, to)
	}()
	return p
}

// withdraw ends the question and waits until the sink has let go of it.
func (p *petition) withdraw() {
	if p != nil {
		p.cancel()
		<-p.done
	}
}

// leaveFor waits for leave that is young enough to be used now, and asks again where the answer, or we ourselves, were too
// slow. It returns how long the leave still holds. p is the question asked before, or nil.
//
// Only a round trip proves that nobody was paused or cut off: the age is counted from before the question, not from the
// answer, by the monotonic clock and by the wall clock (a suspended machine stops the first one).
func (d *delivery) leaveFor(ctx context.Context, p *petition, to []mail.RecipientID) (time.Duration, error) {
	defer func() { p.withdraw() }()
	for n := 0; ; n++ {
		if p == nil {
			p = d.ask(ctx, to)
		}
		<-p.done
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		age := elapsed(p.asked, d.now())
		if p.err == nil && age < d.limits.leave {
			return d.limits.leave - age, nil
		}
		if p.err != nil && age < d.limits.leave && !timedOut(p.err) {
			return 0, fmt.Errorf("%w: %w", errNoLeave, p.err)
		}
		if n+1 >= d.limits.asks {
			return 0, errLate
		}
		p.withdraw()
		p = nil
	}
}

func elapsed(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)))
}
