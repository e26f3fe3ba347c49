package main

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"time"
)

const (
	// memoryFloor is what the process may use, in bytes, before the collector works harder than it would by itself.
	memoryFloor = 256 << 20
	// memoryLook is how often the limit is set anew, memoryLooks by how many of the last looks: what comes and goes
	// within a minute does not raise it.
	memoryLook  = 5 * time.Second
	memoryLooks = 12
)

// boundMemory keeps what is garbage from piling up: a NATS server that purges a large message reads through megabytes
// that it drops at once (16 messages of 50 MB: 700 MB instead of 270). The limit follows what is in use for long, so that a
// process that needs more does not starve. GOMEMLIMIT has precedence.
func boundMemory(ctx context.Context) {
	if debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	debug.SetMemoryLimit(memoryFloor)
	go func() {
		var seen [memoryLooks]uint64
		tick := time.NewTicker(memoryLook)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			metrics.Read(live)
			seen[i%memoryLooks] = live[0].Value.Uint64()
			debug.SetMemoryLimit(max(memoryFloor, int64(slices.Min(seen[:])/2*3)))
		}
	}()
}
