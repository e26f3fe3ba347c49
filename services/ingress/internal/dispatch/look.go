package dispatch

import (
	"cmp"
	"slices"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
)

// Barrier is a hop or route that is down.
type Barrier struct {
	Concern chain.Concern
	About   string
	Since   time.Time
	// Why is the fate by which it was found to be down.
	Why chain.Fate
}

// Down are the hops and routes that are down, by name. What a person has stopped is not down by that.
func (d *Dispatcher) Down() []Barrier {
	out := d.gates.shutOnes()
	slices.SortFunc(out, func(a, b Barrier) int {
		return cmp.Or(cmp.Compare(a.Concern, b.Concern), cmp.Compare(a.About, b.About))
	})
	return out
}

// Running is how many messages are on their way through a chain now.
func (d *Dispatcher) Running() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.under)
}

// began and over count a job that is under way; a message may have several.
func (d *Dispatcher) began(j *job) {
	d.mu.Lock()
	d.under[j.message.ID]++
	d.mu.Unlock()
}

func (d *Dispatcher) over(j *job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.under[j.message.ID]--; d.under[j.message.ID] == 0 {
		delete(d.under, j.message.ID)
	}
}

// shutOnes are the gates that are closed because what is behind them is down, and not for the sake of suspects alone.
func (g *gates) shutOnes() []Barrier {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Barrier
	for _, t := range g.m {
		if t.down && !t.testing {
			out = append(out, Barrier{Concern: t.concern, About: t.about, Since: t.since, Why: t.why})
		}
	}
	return out
}

// because notes the fate by which k was found to be down.
func (g *gates) because(k key, f chain.Fate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.get(k).why = brief(f)
}

// found shuts k again after a restart, for a message that was parked before it: down since then at the latest.
func (g *gates) found(k key, since time.Time, f chain.Fate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.get(k)
	t.shut(g.now())
	if !since.IsZero() && since.Before(t.since) {
		t.since = since
	}
	if t.why.Reason == "" || t.why.Reason == reasonKnown {
		t.why = brief(f)
	}
}
