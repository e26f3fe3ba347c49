package cli

import (
	"math"
	"time"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// topSample is how it was at one moment.
type topSample struct {
	stats  *adminv1.GetStatisticsResponse
	status *adminv1.GetStatusResponse
}

// topSpan is what happened between two samples.
type topSpan struct {
	from, to *adminv1.GetStatisticsResponse
	seconds  float64
}

// spanOf compares two samples. A process that was started anew in between counts from 0.
func spanOf(from, to *adminv1.GetStatisticsResponse) topSpan {
	s := topSpan{from: from, to: to}
	if !from.GetSince().AsTime().Equal(to.GetSince().AsTime()) {
		s.from = &adminv1.GetStatisticsResponse{At: to.GetSince()}
	}
	s.seconds = max(to.GetAt().AsTime().Sub(s.from.GetAt().AsTime()).Seconds(), 1e-3)
	return s
}

// rate is how many there were in a second.
func (s topSpan) rate(from, to uint64) float64 {
	if to < from {
		from = 0
	}
	return float64(to-from) / s.seconds
}

// named finds an entry by name; nil if there is none.
func named[T interface{ GetName() string }](list []T, name string) (found T) {
	for _, one := range list {
		if one.GetName() == name {
			return one
		}
	}
	return found
}

// topRates are the rates of the whole, per second.
type topRates struct {
	Accepted  float64 `json:"accepted"`
	Bytes     float64 `json:"accepted_bytes"`
	Delivered float64 `json:"delivered"`
	Waited    float64 `json:"waited"`
	Refused   float64 `json:"refused"`
}

func (s topSpan) rates() topRates {
	sum := func(of func(*adminv1.ChainStatistics) uint64) (from, to uint64) {
		for _, c := range s.to.GetChains() {
			from += of(named(s.from.GetChains(), c.GetName()))
			to += of(c)
		}
		return from, to
	}
	return topRates{
		Accepted:  s.rate(s.from.GetAccepted(), s.to.GetAccepted()),
		Bytes:     s.rate(s.from.GetAcceptedBytes(), s.to.GetAcceptedBytes()),
		Delivered: s.rate(sum((*adminv1.ChainStatistics).GetDelivered)),
		Waited:    s.rate(sum((*adminv1.ChainStatistics).GetWaits)),
		Refused:   s.rate(s.from.GetRefusedForGood()+s.from.GetRefusedForNow(), s.to.GetRefusedForGood()+s.to.GetRefusedForNow()),
	}
}

// latencyBetween gives the mean and the 95th percentile of what was measured between two samples; false: nothing was.
func latencyBetween(from, to *adminv1.Latency) (mean, p95 time.Duration, ok bool) {
	n := to.GetCount() - from.GetCount()
	if to.GetCount() < from.GetCount() {
		n, from = to.GetCount(), nil
	}
	if n == 0 {
		return 0, 0, false
	}
	mean = (to.GetTotal().AsDuration() - from.GetTotal().AsDuration()) / time.Duration(n)
	counts := make([]uint64, len(to.GetBuckets()))
	for i, b := range to.GetBuckets() {
		counts[i] = b.GetCount()
		if i < len(from.GetBuckets()) {
			counts[i] -= min(from.GetBuckets()[i].GetCount(), counts[i])
		}
	}
	return mean, quantile(to.GetBuckets(), counts, 0.95), true
}

// quantile is taken as lying evenly within its bucket; what is beyond the last bound counts as that.
func quantile(buckets []*adminv1.LatencyBucket, counts []uint64, part float64) time.Duration {
	total := uint64(0)
	for _, n := range counts {
		total += n
	}
	rank, seen, below := uint64(math.Ceil(part*float64(total))), uint64(0), time.Duration(0)
	for i, n := range counts {
		if buckets[i].GetMost() == nil {
			break
		}
		most := buckets[i].GetMost().AsDuration()
		if seen+n >= rank && n > 0 {
			return below + time.Duration(float64(most-below)*float64(rank-seen)/float64(n))
		}
		seen, below = seen+n, most
	}
	return below
}
