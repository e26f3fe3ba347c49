package ingress

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// Statistics gives what this ingress has counted since it was made: the same counters as the metrics.
func (in *Ingress) Statistics() adminv1.StatisticsServiceServer { return &statisticsService{in: in} }

type statisticsService struct {
	adminv1.UnimplementedStatisticsServiceServer
	in *Ingress
}

// GetStatistics implements the service.
func (s *statisticsService) GetStatistics(context.Context, *adminv1.GetStatisticsRequest) (*adminv1.GetStatisticsResponse, error) {
	out := s.in.tally.Read()
	out.At, out.Since = timestamppb.New(s.in.now()), timestamppb.New(s.in.started)
	out.Running = s.in.running()
	return out, nil
}

// running is how many messages are on their way through a chain.
func (in *Ingress) running() uint64 {
	n := uint64(0)
	for _, one := range in.shards() {
		n += uint64(max(one.dispatcher.Running(), 0))
	}
	return n
}
