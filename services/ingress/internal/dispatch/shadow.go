package dispatch

import (
	"context"
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// withoutTroubled leaves out the stages in shadow that are down, or that suspects are tried at: those have to be alone
// there, and the message need not wait for a stage without effect.
func (d *Dispatcher) withoutTroubled(slip chain.Slip) chain.Slip {
	slip.Hops = slices.DeleteFunc(slices.Clone(slip.Hops), func(h chain.Hop) bool {
		k := key{chain.AboutHop, h.Instance}
		return h.Shadow && (d.gates.isDown(k) || d.gates.suspects(k))
	})
	return slip
}

// inShadow says that a stage of the run is in shadow.
func (r *run) inShadow(instance string) bool {
	return slices.ContainsFunc(r.slip.Hops, func(h chain.Hop) bool { return h.Instance == instance && h.Shadow })
}

// overheard takes what a stage in shadow said: it is for the trail alone.
func (r *run) overheard(rep chain.Report) {
	rep.Shadow = true
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard = append(r.heard, spool.Hop{Report: rep, At: r.d.o.Now()})
}

// passedShadows are the hops done, with the stages in shadow that the message has gone past, and need not go past again
// when it wakes. What they said comes when it comes.
func (r *run) passedShadows(done []chain.Report) []chain.Report {
	fresh := done
	if n := len(r.kept); n <= len(done) {
		fresh = done[n:]
	}
	out := slices.Clone(done[:len(done)-len(fresh)])
	for _, h := range r.slip.Hops {
		switch {
		case h.Shadow:
			out = append(out, chain.Report{Instance: h.Instance, Hash: h.Hash, Outcome: chain.Skipped, Shadow: true})
		case len(fresh) > 0 && fresh[0].Instance == h.Instance:
			out, fresh = append(out, fresh[0]), fresh[1:]
		default:
			return append(out, fresh...)
		}
	}
	return append(out, fresh...)
}

// await lets the stages in shadow of a run that is settled finish, for the trail, unless the dispatcher closes.
func (d *Dispatcher) await(r *run, cancel context.CancelFunc) {
	if !d.spawn(func() {
		select {
		case <-r.finished:
		case <-d.stopping:
			cancel()
			<-r.finished
		}
		r.tell()
	}) {
		cancel()
	}
}

// settled says that nothing is left to settle.
func (r *run) settled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open) == 0 && len(r.fresh) == 0
}
