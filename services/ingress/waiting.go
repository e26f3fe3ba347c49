package ingress

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	ingressv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/ingress/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/dispatch"
)

const (
	defaultPage = 100
	largestPage = 1000
)

// Waiting serves the mail that waits in the shards of this process.
func (in *Ingress) Waiting() ingressv1.WaitingServiceServer { return &waiting{in: in} }

type waiting struct {
	ingressv1.UnimplementedWaitingServiceServer
	in *Ingress
}

// List pages through the messages of all shards, in the order of their ids within a shard.
func (w *waiting) List(_ context.Context, r *ingressv1.ListRequest) (*ingressv1.ListResponse, error) {
	room := depot.Room(r.GetRoom())
	if room != "" && !room.Valid() {
		return nil, status.Errorf(codes.InvalidArgument, "no such room: %q", r.GetRoom())
	}
	size := int(r.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	if size > largestPage {
		return nil, status.Errorf(codes.InvalidArgument, "page_size is at most %d", largestPage)
	}
	// Ids are ordered by time, so one cursor serves all shards.
	var all []*depot.Message
	more := false
	for _, s := range w.in.shards() {
		list, next := s.log.Waiting().List(depot.Filter{Room: room, Chain: r.GetChain(), After: r.GetPageToken(), Limit: size})
		all = append(all, list...)
		more = more || next != ""
	}
	slices.SortFunc(all, func(a, b *depot.Message) int { return strings.Compare(a.ID, b.ID) })
	if len(all) > size {
		all, more = all[:size], true
	}
	resp := &ingressv1.ListResponse{}
	for _, m := range all {
		resp.Waiting = append(resp.Waiting, waitingProto(m))
	}
	if more {
		resp.NextPageToken = all[len(all)-1].ID
	}
	return resp, nil
}

// Show gives one message with all that is known of it.
func (w *waiting) Show(ctx context.Context, r *ingressv1.ShowRequest) (*ingressv1.ShowResponse, error) {
	for _, s := range w.in.shards() {
		if _, ok := s.log.Waiting().Get(r.GetId()); !ok {
			continue
		}
		m, err := s.log.Load(ctx, r.GetId())
		if err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
		return &ingressv1.ShowResponse{Waiting: waitingProto(m)}, nil
	}
	return nil, status.Errorf(codes.NotFound, "no message %q waits here", r.GetId())
}

// Retry implements the service.
func (w *waiting) Retry(ctx context.Context, r *ingressv1.RetryRequest) (*ingressv1.RetryResponse, error) {
	n, err := w.each(r.GetIds(), func(d *dispatch.Dispatcher, id string) (int, error) { return d.Retry(ctx, id) })
	return &ingressv1.RetryResponse{Changed: n}, err
}

// Hold implements the service.
func (w *waiting) Hold(ctx context.Context, r *ingressv1.HoldRequest) (*ingressv1.HoldResponse, error) {
	n, err := w.each(r.GetIds(), func(d *dispatch.Dispatcher, id string) (int, error) { return d.Hold(ctx, id, r.GetBy()) })
	return &ingressv1.HoldResponse{Changed: n}, err
}

// Release implements the service.
func (w *waiting) Release(ctx context.Context, r *ingressv1.ReleaseRequest) (*ingressv1.ReleaseResponse, error) {
	n, err := w.each(r.GetIds(), func(d *dispatch.Dispatcher, id string) (int, error) { return d.Release(ctx, id, r.GetBy()) })
	return &ingressv1.ReleaseResponse{Changed: n}, err
}

// Delete implements the service.
func (w *waiting) Delete(ctx context.Context, r *ingressv1.DeleteRequest) (*ingressv1.DeleteResponse, error) {
	n, err := w.each(r.GetIds(), func(d *dispatch.Dispatcher, id string) (int, error) { return d.Delete(ctx, id, r.GetBy()) })
	return &ingressv1.DeleteResponse{Changed: n}, err
}

// each does something to messages, wherever they are, and counts those that changed.
func (w *waiting) each(ids []string, do func(*dispatch.Dispatcher, string) (int, error)) (uint32, error) {
	var n uint32
	for _, id := range ids {
		for _, s := range w.in.shards() {
			if _, ok := s.log.Waiting().Get(id); !ok {
				continue
			}
			groups, err := do(s.dispatcher, id)
			if err != nil {
				return n, status.Errorf(codes.Unavailable, "%s: %v", id, err)
			}
			if groups > 0 {
				n++
			}
		}
	}
	return n, nil
}

func waitingProto(m *depot.Message) *ingressv1.Waiting {
	out := &ingressv1.Waiting{Id: m.ID, Received: timestamppb.New(m.Received), Envelope: chain.EnvelopeProto(&m.Envelope), Size: uint64(max(m.Body.Size, 0))}
	for _, g := range m.Groups {
		p := &ingressv1.Group{Chain: g.Chain, Room: string(g.Room), Attempts: uint32(max(g.Attempts, 0)), Last: chain.FateProto(g.Last)}
		for _, id := range g.Recipients {
			p.Recipients = append(p.Recipients, string(id))
		}
		if !g.Next.IsZero() {
			p.Next = timestamppb.New(g.Next)
		}
		if !g.Since.IsZero() {
			p.Age = durationpb.New(time.Since(g.Since))
		}
		for _, r := range g.Done {
			p.Done = append(p.Done, chain.ReportProto(r))
		}
		out.Groups = append(out.Groups, p)
	}
	return out
}
