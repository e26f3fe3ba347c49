package ingress

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/dispatch"
)

const (
	defaultPage = 100
	largestPage = 1000
)

// Queue serves the mail that waits in the shards of this process.
func (in *Ingress) Queue() adminv1.QueueServiceServer { return &queue{in: in} }

type queue struct {
	adminv1.UnimplementedQueueServiceServer
	in *Ingress
}

// ListMessages implements the service.
func (q *queue) ListMessages(_ context.Context, r *adminv1.ListMessagesRequest) (*adminv1.ListMessagesResponse, error) {
	size := int(r.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	if size > largestPage {
		return nil, status.Errorf(codes.InvalidArgument, "page_size is at most %d", largestPage)
	}
	var rooms []depot.Room
	for _, name := range r.GetFilter().GetRooms() {
		room := depot.Room(name)
		if !room.Valid() {
			return nil, status.Errorf(codes.InvalidArgument, "no such room: %q", name)
		}
		rooms = append(rooms, room)
	}
	// Ids are ordered by time, so one cursor serves all shards.
	var all []*depot.Message
	more := false
	for _, s := range q.in.shards() {
		list, next := s.log.Waiting().List(depot.Filter{Rooms: rooms, Chain: r.GetFilter().GetChain(), After: r.GetPageToken(), Limit: size})
		all = append(all, list...)
		more = more || next != ""
	}
	slices.SortFunc(all, func(a, b *depot.Message) int { return strings.Compare(a.ID, b.ID) })
	if len(all) > size {
		all, more = all[:size], true
	}
	resp := &adminv1.ListMessagesResponse{}
	for _, m := range all {
		resp.Messages = append(resp.Messages, waitingProto(m))
	}
	if more {
		resp.NextPageToken = all[len(all)-1].ID
	}
	return resp, nil
}

// GetMessage implements the service.
func (q *queue) GetMessage(ctx context.Context, r *adminv1.GetMessageRequest) (*adminv1.GetMessageResponse, error) {
	for _, s := range q.in.shards() {
		if _, ok := s.log.Waiting().Get(r.GetId()); !ok {
			continue
		}
		m, err := s.log.Load(ctx, r.GetId())
		if err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
		return &adminv1.GetMessageResponse{Message: waitingProto(m)}, nil
	}
	return nil, status.Errorf(codes.NotFound, "no message %q waits here", r.GetId())
}

// RetryMessages implements the service.
func (q *queue) RetryMessages(ctx context.Context, r *adminv1.RetryMessagesRequest) (*adminv1.RetryMessagesResponse, error) {
	c, err := q.each(r.GetFilter(), func(d *dispatch.Dispatcher, id string) (int, error) { return d.Retry(ctx, id) })
	return &adminv1.RetryMessagesResponse{Changes: c}, err
}

// HoldMessages implements the service.
func (q *queue) HoldMessages(ctx context.Context, r *adminv1.HoldMessagesRequest) (*adminv1.HoldMessagesResponse, error) {
	c, err := q.each(r.GetFilter(), func(d *dispatch.Dispatcher, id string) (int, error) { return d.Hold(ctx, id, service.Actor(ctx)) })
	return &adminv1.HoldMessagesResponse{Changes: c}, err
}

// ReleaseMessages implements the service.
func (q *queue) ReleaseMessages(ctx context.Context, r *adminv1.ReleaseMessagesRequest) (*adminv1.ReleaseMessagesResponse, error) {
	c, err := q.each(r.GetFilter(), func(d *dispatch.Dispatcher, id string) (int, error) { return d.Release(ctx, id, service.Actor(ctx)) })
	return &adminv1.ReleaseMessagesResponse{Changes: c}, err
}

// DeleteMessages implements the service.
func (q *queue) DeleteMessages(ctx context.Context, r *adminv1.DeleteMessagesRequest) (*adminv1.DeleteMessagesResponse, error) {
	c, err := q.each(r.GetFilter(), func(d *dispatch.Dispatcher, id string) (int, error) { return d.Delete(ctx, id, service.Actor(ctx)) })
	return &adminv1.DeleteMessagesResponse{Changes: c}, err
}

// each does something to messages, wherever they are.
func (q *queue) each(f *adminv1.Filter, do func(*dispatch.Dispatcher, string) (int, error)) ([]*adminv1.Change, error) {
	var out []*adminv1.Change
	for _, id := range f.GetIds() {
		for _, s := range q.in.shards() {
			if _, ok := s.log.Waiting().Get(id); !ok {
				continue
			}
			n, err := do(s.dispatcher, id)
			if err != nil {
				return out, status.Errorf(codes.Unavailable, "%s: %v", id, err)
			}
			out = append(out, &adminv1.Change{Id: id, Recipients: uint32(max(n, 0))})
		}
	}
	return out, nil
}

func waitingProto(m *depot.Message) *adminv1.WaitingMessage {
	out := &adminv1.WaitingMessage{Id: m.ID, Received: timestamppb.New(m.Received), Envelope: chain.EnvelopeProto(&m.Envelope), Size: uint64(max(m.Body.Size, 0))}
	for _, g := range m.Groups {
		p := &adminv1.WaitingGroup{Chain: g.Chain, Room: string(g.Room), Attempts: uint32(max(g.Attempts, 0)), Last: chain.FateProto(g.Last)}
		for _, id := range g.Recipients {
			p.Recipients = append(p.Recipients, string(id))
		}
		if !g.Next.IsZero() {
			p.Next = timestamppb.New(g.Next)
		}
		if !g.Since.IsZero() {
			p.Since = timestamppb.New(g.Since)
		}
		for _, r := range g.Done {
			p.Done = append(p.Done, chain.ReportProto(r))
		}
		out.Groups = append(out.Groups, p)
	}
	return out
}
