package dispatch

import (
	"fmt"
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// rest returns what of the chain is still to be run by a message that has done behind it, and how many of the hops
// done hold: those that equal the head of the chain. At the first difference, and at the first whose edits were
// too large to keep, the rest of them is dropped and run again. A stage in shadow that stands between hops that hold, and
// was not there then, is passed.
func rest(cfg *config.Config, c *config.Chain, done []chain.Report, released []string) (chain.Slip, int) {
	slip := cfg.Slip(c)
	kept, at := 0, 0
	for i := range slip.Hops {
		if kept == len(done) {
			break
		}
		if holds(done[kept], slip.Hops[i]) {
			kept, at = kept+1, i+1
		} else if !slip.Hops[i].Shadow {
			break
		}
	}
	slip.Hops = slices.Clone(slip.Hops[at:])
	for i := range slip.Hops {
		slip.Hops[i].Released = slices.Contains(released, slip.Hops[i].Instance)
	}
	return slip, kept
}

// holds says that a hop done counts for h. One that was skipped counts only where skipping it is still allowed: what
// a chain is configured to scan now does not leave unscanned because it was not, when the message came.
func holds(r chain.Report, h chain.Hop) bool {
	if r.Instance != h.Instance || r.Hash != h.Hash || r.EditsOmitted {
		return false
	}
	switch r.Outcome {
	case chain.Skipped:
		return h.Shadow || h.OnError == chain.OnErrorSkip
	case chain.ByVerdict:
		return r.Verdict == stage.KindContinue && !h.Shadow
	}
	return false
}

// replay makes the message that m is after the hops done. The result's content is retained; the caller releases it.
func replay(m mail.Message, done []chain.Report) (mail.Message, error) {
	m.Content.Retain()
	for _, r := range done {
		next, err := chain.ApplyTo(&m, r.Edits)
		if err != nil {
			m.Content.Release()
			return mail.Message{}, fmt.Errorf("edits of %s: %w", r.Instance, err)
		}
		m.Content.Release()
		m = next
	}
	return m, nil
}

// needs says that a chain, as configured now, leads past k.
func needs(c *config.Chain, k key) bool {
	switch k.concern {
	case chain.AboutRoute:
		return c.Deliver == k.about
	case chain.AboutHop:
		return k.about == chain.EgressHop || slices.ContainsFunc(c.Stages, func(u config.Use) bool { return u.Stage.Name == k.about && !u.Shadow })
	}
	return false
}
