package spool_test

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// BenchmarkAccept is a message's whole life in the log, accepted and delivered, with many sessions at once.
func BenchmarkAccept(b *testing.B) {
	for _, c := range []struct{ size, sessions int }{{2 << 10, 1}, {2 << 10, 64}, {2 << 10, 256}, {20 << 10, 64}, {200 << 10, 64}} {
		b.Run(fmt.Sprintf("%dKB/%d", c.size>>10, c.sessions), func(b *testing.B) {
			nc := connect(b, newServer(b))
			s, _ := open(b, options(nc, "mx"))
			body := bytes.Repeat([]byte{'x'}, c.size)
			w := s.NewBody(b.Context(), "x")
			_, err := w.Write(body)
			must(b, err)
			finished, err := w.Finish()
			must(b, err)
			var n atomic.Int64
			b.SetParallelism((c.sessions + 1) / 2)
			b.SetBytes(int64(c.size))
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					id := fmt.Sprintf("m%d", n.Add(1))
					if err := s.Accept(b.Context(), accepted(id, finished, "r")); err != nil {
						b.Error(err)
						return
					}
					if err := s.Settle(b.Context(), &spool.Settled{ID: id, Ends: delivered(id, "r").Ends}); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
