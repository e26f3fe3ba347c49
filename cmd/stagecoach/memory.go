package main

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// memoryFloor is what the process may use, in bytes, before the collector works harder than it would by itself.
	memoryFloor = 256 << 20
	// memoryLook is how often the limit is set anew.
	memoryLook = 5 * time.Second
)

// boundMemory keeps what is garbage from piling up: a NATS server that purges a large message reads through megabytes
// that it drops at once (16 messages of 50 MB: 700 MB instead of 270). The limit follows what is in use, so that a
// process that needs more does not starve. GOMEMLIMIT has precedence.
func boundMemory(ctx context.Context) {
	if debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := func() {
		metrics.Read(live)
		debug.SetMemoryLimit(max(memoryFloor, int64(live[0].Value.Uint64())/2*3))
	}
	set()
	go func() {
		tick := time.NewTicker(memoryLook)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				set()
			}
		}
	}()
}
