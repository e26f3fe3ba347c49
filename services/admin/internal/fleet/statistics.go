package fleet

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// Counted adds the counters of all ingresses up, by name.
func (f *Fleet) Counted() adminv1.StatisticsServiceServer { return &statistics{f: f} }

type statistics struct {
	adminv1.UnimplementedStatisticsServiceServer
	f *Fleet
}

// GetStatistics implements the service.
func (s *statistics) GetStatistics(ctx context.Context, r *adminv1.GetStatisticsRequest) (*adminv1.GetStatisticsResponse, error) {
	answers, err := good(ctx, ingress, each(ctx, s.f, ingress, nodeWithin, adminv1.NewStatisticsServiceClient, adminv1.StatisticsServiceClient.GetStatistics, r))
	if err != nil {
		return nil, err
	}
	out := &adminv1.GetStatisticsResponse{Latency: &adminv1.Latency{}}
	for _, a := range answers {
		addStatistics(out, a.value)
	}
	return out, nil
}

func addStatistics(to, s *adminv1.GetStatisticsResponse) {
	if to.At == nil || s.GetAt().AsTime().After(to.At.AsTime()) {
		to.At = s.GetAt()
	}
	if to.Since == nil || s.GetSince().AsTime().After(to.Since.AsTime()) {
		to.Since = s.GetSince()
	}
	to.Accepted += s.GetAccepted()
	to.AcceptedBytes += s.GetAcceptedBytes()
	to.RefusedForGood += s.GetRefusedForGood()
	to.RefusedForNow += s.GetRefusedForNow()
	to.Running += s.GetRunning()
	to.Listeners = byName(to.GetListeners(), s.GetListeners(), func(a, b *adminv1.ListenerStatistics) {
		a.Open += b.GetOpen()
		a.Sessions += b.GetSessions()
		a.FailedLogins += b.GetFailedLogins()
	})
	to.Chains = byName(to.GetChains(), s.GetChains(), func(a, b *adminv1.ChainStatistics) {
		a.Accepted += b.GetAccepted()
		a.Delivered += b.GetDelivered()
		a.Discarded += b.GetDiscarded()
		a.Reported += b.GetReported()
		a.Deleted += b.GetDeleted()
		a.Waits += b.GetWaits()
		a.Held += b.GetHeld()
	})
	to.Stages = byName(to.GetStages(), s.GetStages(), func(a, b *adminv1.StageStatistics) {
		a.Continued += b.GetContinued()
		a.Rejected += b.GetRejected()
		a.Deferred += b.GetDeferred()
		a.Quarantined += b.GetQuarantined()
		a.Discarded += b.GetDiscarded()
		a.Failed += b.GetFailed()
		a.Skipped += b.GetSkipped()
		a.Edited += b.GetEdited()
		a.Shadow += b.GetShadow()
		a.Latency = addLatency(a.GetLatency(), b.GetLatency())
	})
	to.Routes = byName(to.GetRoutes(), s.GetRoutes(), func(a, b *adminv1.RouteStatistics) {
		a.Delivered += b.GetDelivered()
		a.Deferred += b.GetDeferred()
		a.Rejected += b.GetRejected()
		a.Unknown += b.GetUnknown()
	})
	to.Latency = addLatency(to.GetLatency(), s.GetLatency())
}

// byName adds what has the same name, and what has a new one.
func byName[T interface{ GetName() string }](to, more []T, add func(a, b T)) []T {
	for _, one := range more {
		if i := slices.IndexFunc(to, func(have T) bool { return have.GetName() == one.GetName() }); i >= 0 {
			add(to[i], one)
		} else {
			to = append(to, one)
		}
	}
	return to
}

func addLatency(a, b *adminv1.Latency) *adminv1.Latency {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	out := &adminv1.Latency{Count: a.GetCount() + b.GetCount(), Total: durationpb.New(a.GetTotal().AsDuration() + b.GetTotal().AsDuration())}
	for _, bucket := range slices.Concat(a.GetBuckets(), b.GetBuckets()) {
		i := slices.IndexFunc(out.Buckets, func(have *adminv1.LatencyBucket) bool { return bound(have) == bound(bucket) })
		if i < 0 {
			out.Buckets = append(out.Buckets, &adminv1.LatencyBucket{Most: bucket.GetMost(), Count: bucket.GetCount()})
		} else {
			out.Buckets[i].Count += bucket.GetCount()
		}
	}
	slices.SortStableFunc(out.Buckets, func(a, b *adminv1.LatencyBucket) int { return cmp.Compare(bound(a), bound(b)) })
	return out
}

// bound of a bucket in nanoseconds; that of the last one is beyond all others.
func bound(b *adminv1.LatencyBucket) int64 {
	if b.GetMost() == nil {
		return 1<<63 - 1
	}
	return int64(b.GetMost().AsDuration())
}
