package ledger

import (
	"math"
	"slices"
	"time"
)

// Latency is what many durations look like. All zero if there were none.
type Latency struct{ P50, P95, P99, Max time.Duration }

// Quantiles sorts d and takes the nearest ranks: each figure is a duration that was measured, and no less than the given
// share of all.
func Quantiles(d []time.Duration) Latency {
	if len(d) == 0 {
		return Latency{}
	}
	slices.Sort(d)
	at := func(share float64) time.Duration { return d[max(int(math.Ceil(share*float64(len(d)))), 1)-1] }
	return Latency{P50: at(0.50), P95: at(0.95), P99: at(0.99), Max: d[len(d)-1]}
}
