package ingress

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/dispatch"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

const (
	defaultPage = 100
	largestPage = 1000
	// pageBytes bounds a page: a client of gRPC takes 4 MiB.
	pageBytes = 2 << 20
	// contentFrame is the most of a message's bytes in one response.
	contentFrame = 256 << 10
)

// Queue serves the mail that waits in the shards of this process.
func (in *Ingress) Queue() adminv1.QueueServiceServer { return &queue{in: in} }

type queue struct {
	adminv1.UnimplementedQueueServiceServer
	in *Ingress
}

// owned are the shards of this process. While it has lost its own it cannot say what waits.
func (q *queue) owned() ([]*shard, error) {
	if q.in.shard() == nil {
		return nil, status.Errorf(codes.Unavailable, "ingress %s has not got its shard now: its mail cannot be seen until it is back; see the status", q.in.o.Instance)
	}
	return q.in.shards(), nil
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
	shards, err := q.owned()
	if err != nil {
		return nil, err
	}
	cfg := q.in.policy.View().Config()
	p, err := pickerOf(cfg, r.GetFilter())
	if err != nil {
		return nil, err
	}
	resp := &adminv1.ListMessagesResponse{}
	bytes := 0
	for after := r.GetPageToken(); ; {
		found, next := p.find(shards, after, size-len(resp.Messages))
		for _, f := range found {
			m, ok := f.message()
			if !ok || !p.meansMessage(m) {
				continue
			}
			w := waitingProto(m.Trim(), f.shard.log.Instance(), cfg)
			if bytes += proto.Size(w); bytes > pageBytes && len(resp.Messages) > 0 {
				resp.NextPageToken = after
				return resp, nil
			}
			resp.Messages = append(resp.Messages, w)
			after = m.ID
		}
		if resp.NextPageToken = next; next == "" || len(resp.Messages) == size {
			return resp, nil
		}
		after = next // ids that do not wait here took the places
	}
}

// GetMessage implements the service.
func (q *queue) GetMessage(ctx context.Context, r *adminv1.GetMessageRequest) (*adminv1.GetMessageResponse, error) {
	s, m, err := q.load(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	return &adminv1.GetMessageResponse{Message: waitingProto(m, s.log.Instance(), q.in.policy.View().Config())}, nil
}

// load finds a message that waits, with all that is known of it.
func (q *queue) load(ctx context.Context, id string) (*shard, *depot.Message, error) {
	shards, err := q.owned()
	if err != nil {
		return nil, nil, err
	}
	for _, s := range shards {
		if _, ok := s.log.Waiting().Get(id); !ok {
			continue
		}
		m, err := s.log.Load(ctx, id)
		switch {
		case errors.Is(err, spool.ErrUnknownMessage):
		case err != nil:
			return nil, nil, status.Errorf(codes.Unavailable, "%s cannot be read now: %v", id, err)
		default:
			return s, m, nil
		}
	}
	return nil, nil, status.Errorf(codes.NotFound, "%.128q: %s", id, dispatch.NotHere)
}

// GetContent implements the service.
func (q *queue) GetContent(r *adminv1.GetContentRequest, stream grpc.ServerStreamingServer[adminv1.GetContentResponse]) error {
	s, m, err := q.load(stream.Context(), r.GetId())
	if err != nil {
		return err
	}
	err = s.log.OpenBody(stream.Context(), m.ID, m.Body, frames{stream})
	switch _, waits := s.log.Waiting().Get(m.ID); {
	case err == nil:
		return nil
	case stream.Context().Err() != nil:
		return status.FromContextError(stream.Context().Err()).Err()
	case !waits:
		return status.Errorf(codes.Aborted, "%s does not wait any more: it was delivered or deleted meanwhile", m.ID)
	case errors.Is(err, spool.ErrCorrupt):
		return status.Errorf(codes.DataLoss, "do not use these bytes: %v", err)
	default:
		return status.Errorf(codes.Unavailable, "%s cannot be read now: %v", m.ID, err)
	}
}

// frames divides what is written into responses.
type frames struct {
	stream grpc.ServerStreamingServer[adminv1.GetContentResponse]
}

// Write implements io.Writer.
func (f frames) Write(p []byte) (int, error) {
	for at := 0; at < len(p); at += contentFrame {
		if err := f.stream.Send(&adminv1.GetContentResponse{Chunk: p[at:min(at+contentFrame, len(p))]}); err != nil {
			return at, err
		}
	}
	return len(p), nil
}

func waitingProto(m *depot.Message, shard string, cfg *config.Config) *adminv1.WaitingMessage {
	out := &adminv1.WaitingMessage{Id: m.ID, Received: timestamppb.New(m.Received), Envelope: chain.EnvelopeProto(&m.Envelope), Size: uint64(max(m.Body.Size, 0)), Shard: shard}
	for _, g := range m.Groups {
		p := &adminv1.WaitingGroup{Chain: g.Chain, Room: string(g.Room), Attempts: uint32(max(g.Attempts, 0)), Last: chain.FateProto(g.Last), Released: g.Released}
		if c := cfg.ChainNamed(g.Chain); c != nil {
			p.Route = c.Deliver
		}
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
