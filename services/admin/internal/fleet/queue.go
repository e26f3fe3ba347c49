package fleet

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	defaultPage = 100
	// pageBytes bounds a page: a client of gRPC takes 4 MiB.
	pageBytes = 2 << 20
)

// Queue is the mail that waits at all ingresses.
func (f *Fleet) Queue() adminv1.QueueServiceServer { return &queue{f: f} }

type queue struct {
	adminv1.UnimplementedQueueServiceServer
	f *Fleet
}

// ListMessages implements the service. A page token is an id, the same for every ingress: what one of them takes over from
// another between two pages is neither missed nor shown twice.
func (q *queue) ListMessages(ctx context.Context, r *adminv1.ListMessagesRequest) (*adminv1.ListMessagesResponse, error) {
	answers, err := good(ctx, ingress, each(ctx, q.f, ingress, lookWithin, adminv1.NewQueueServiceClient, adminv1.QueueServiceClient.ListMessages, r))
	if err != nil {
		return nil, err
	}
	var pages []*adminv1.ListMessagesResponse
	for _, a := range answers {
		pages = append(pages, a.value)
	}
	return merge(pages, int(cmp.Or(r.GetPageSize(), defaultPage))), nil
}

// merge makes one page of several, in the order of ids. A page that is not the last says nothing about what comes after its
// token: what others have beyond it stays for the next.
func merge(pages []*adminv1.ListMessagesResponse, size int) *adminv1.ListMessagesResponse {
	out := &adminv1.ListMessagesResponse{}
	for _, p := range pages {
		out.Messages = append(out.Messages, p.GetMessages()...)
		if t := p.GetNextPageToken(); t != "" && (out.NextPageToken == "" || t < out.NextPageToken) {
			out.NextPageToken = t
		}
	}
	slices.SortStableFunc(out.Messages, func(a, b *adminv1.WaitingMessage) int { return strings.Compare(a.GetId(), b.GetId()) })
	out.Messages = slices.CompactFunc(out.Messages, func(a, b *adminv1.WaitingMessage) bool { return a.GetId() == b.GetId() })
	if end := out.GetNextPageToken(); end != "" {
		out.Messages = slices.DeleteFunc(out.Messages, func(m *adminv1.WaitingMessage) bool { return m.GetId() > end })
	}
	bytes := 0
	for i, m := range out.GetMessages() {
		if bytes += proto.Size(m); i > 0 && (i >= size || bytes > pageBytes) {
			out.Messages, out.NextPageToken = out.Messages[:i], out.Messages[i-1].GetId()
			break
		}
	}
	return out
}

// GetMessage implements the service.
func (q *queue) GetMessage(ctx context.Context, r *adminv1.GetMessageRequest) (*adminv1.GetMessageResponse, error) {
	var gone error
	for _, a := range each(ctx, q.f, ingress, lookWithin, adminv1.NewQueueServiceClient, adminv1.QueueServiceClient.GetMessage, r) {
		switch {
		case a.err == nil:
			return a.value, nil
		case gone == nil || status.Code(a.err) != codes.NotFound:
			gone = at(a.from, a.err)
		}
	}
	if gone == nil {
		gone = none(ingress)
	}
	return nil, gone
}

// at is an error of one ingress among several: what does not wait at those that answer may wait at the one that does not.
func at(p *process, err error) error {
	if status.Code(err) == codes.NotFound {
		return err
	}
	return named(p, err)
}

// GetContent implements the service.
func (q *queue) GetContent(r *adminv1.GetContentRequest, stream grpc.ServerStreamingServer[adminv1.GetContentResponse]) error {
	p, err := q.holder(stream.Context(), r.GetId())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(service.WithActor(stream.Context(), service.Actor(stream.Context())))
	defer cancel()
	from, err := adminv1.NewQueueServiceClient(p.conn).GetContent(ctx, r)
	return pass(from, err, stream.Send)
}

// holder is the ingress where a message waits.
func (q *queue) holder(ctx context.Context, id string) (*process, error) {
	list := &adminv1.ListMessagesRequest{Filter: &adminv1.Filter{Ids: []string{id}}, PageSize: 1}
	var gone error
	for _, a := range each(ctx, q.f, ingress, lookWithin, adminv1.NewQueueServiceClient, adminv1.QueueServiceClient.ListMessages, list) {
		switch {
		case a.err != nil:
			gone = named(a.from, a.err)
		case len(a.value.GetMessages()) > 0:
			return a.from, nil
		}
	}
	if gone != nil {
		return nil, gone
	}
	return nil, status.Errorf(codes.NotFound, "%.128q: it does not wait at any ingress", id)
}
