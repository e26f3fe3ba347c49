package chain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/mail"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/stage"
)

// RelayServer serves RelayService from a Runner: a stage's, or egress's.
type RelayServer struct {
	relayv1.UnimplementedRelayServiceServer
	Runner  *Runner
	TempDir string
	// Callers gives the names of those that may hand messages over; nil: that is not said.
	Callers func() []string
}

var errUnexpected = fmt.Errorf("%w: expected a chunk or the end", errWire)

// Relay takes one message, runs its first hop here, and streams back what becomes of it.
func (s *RelayServer) Relay(stream grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]) error {
	p, err := s.receive(stream)
	if err != nil {
		return err
	}
	defer p.Content.Release()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	back := &backchannel{stream: stream, asked: map[uint64]chan struct{}{}, deaf: make(chan struct{})}
	go back.listen(cancel)
	err = s.Runner.RunHere(ctx, p, back)
	if not, ok := errors.AsType[*NotHandedOver](err); ok {
		return status.Error(codes.FailedPrecondition, text(not.Cause.Error()))
	}
	return err
}

func (s *RelayServer) receive(stream grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]) (*Parcel, error) {
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	begin := first.GetBegin()
	if begin == nil {
		return nil, status.Error(codes.InvalidArgument, "a Relay starts with begin")
	}
	env, err := EnvelopeFrom(begin.GetEnvelope())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, text(err.Error()))
	}
	p := &Parcel{Message: mail.Message{ID: begin.GetId(), Attempt: int(begin.GetAttempt()), Received: timeFrom(begin.GetReceived()), Envelope: env, Pending: idsFrom(begin.GetPending())}, Slip: slipFrom(begin.GetSlip())}
	for _, id := range p.Pending {
		if _, ok := env.Recipient(id); !ok {
			return nil, status.Errorf(codes.InvalidArgument, "pending recipient %q is not in the envelope", id)
		}
	}
	if !s.knows(p.Slip) {
		return nil, status.Errorf(codes.FailedPrecondition, "%s is not run here with this configuration", s.Runner.name(p))
	}
	c := newCollector(s.TempDir)
	for {
		req, err := stream.Recv()
		if err != nil {
			c.discard()
			return nil, err // io.EOF too: without an End the message is not whole
		}
		switch k := req.GetKind().(type) {
		case *relayv1.RelayRequest_Chunk:
			err = c.add(k.Chunk)
		case *relayv1.RelayRequest_End:
			p.Content, err = c.end(k.End)
			if err == nil {
				return p, nil
			}
		default:
			err = errUnexpected
		}
		if err != nil {
			c.discard()
			return nil, contentStatus(err)
		}
	}
}

// contentStatus tells a peer that breaks the protocol from a disk of ours that is full.
func contentStatus(err error) error {
	if errors.Is(err, errWire) {
		return status.Error(codes.InvalidArgument, text(err.Error()))
	}
	return status.Error(codes.Unavailable, text(err.Error()))
}

func (s *RelayServer) knows(slip Slip) bool {
	if len(slip.Hops) == 0 {
		return s.Runner.Egress != nil
	}
	e, ok := s.Runner.Stages.acquire(slip.Hops[0].Instance, slip.Hops[0].Hash)
	if ok {
		e.release()
	}
	return ok
}

// Knows tells which routes a message could not go by.
func (s *RelayServer) Knows(_ context.Context, r *relayv1.KnowsRequest) (*relayv1.KnowsResponse, error) {
	way, ok := s.Runner.Egress.(interface{ Knows(route, hash string) bool })
	if !ok {
		return nil, status.Error(codes.Unimplemented, "no slip ends here")
	}
	resp := &relayv1.KnowsResponse{}
	if s.Callers != nil {
		resp.Callers = s.Callers()
	}
	for _, route := range r.GetRoutes() {
		if !way.Knows(route.GetName(), route.GetHash()) {
			resp.Unknown = append(resp.Unknown, route.GetName())
		}
	}
	return resp, nil
}

// backchannel is the Sink that leads back to the caller.
type backchannel struct {
	stream grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]
	send   sync.Mutex

	mu    sync.Mutex
	n     uint64
	asked map[uint64]chan struct{}
	deaf  chan struct{} // closed when no more leaves can come
}

// listen takes the leaves that come down. A caller that is gone cancels the run: before the dot that aborts, after
// it nothing does.
func (b *backchannel) listen(gone context.CancelFunc) {
	defer close(b.deaf)
	for {
		req, err := b.stream.Recv()
		if err != nil {
			if b.stream.Context().Err() != nil {
				gone()
			}
			return
		}
		if leave := req.GetGo(); leave != nil {
			b.mu.Lock()
			if ch, ok := b.asked[leave.GetN()]; ok {
				close(ch)
				delete(b.asked, leave.GetN())
			}
			b.mu.Unlock()
		}
	}
}

// respond sends; a caller that does not hear it counts the outcome as unknown.
func (b *backchannel) respond(r *relayv1.RelayResponse) {
	b.send.Lock()
	defer b.send.Unlock()
	_ = b.stream.Send(r) //nolint:errcheck // see above
}

func (b *backchannel) Report(r Report) {
	b.respond(&relayv1.RelayResponse{Kind: &relayv1.RelayResponse_Report{Report: ReportProto(r)}})
}

func (b *backchannel) Fate(f Fate) {
	b.respond(&relayv1.RelayResponse{Kind: &relayv1.RelayResponse_Fate{Fate: FateProto(f)}})
}

func (b *backchannel) Ready(ctx context.Context, to []mail.RecipientID) error {
	b.mu.Lock()
	b.n++
	n, leave := b.n, make(chan struct{})
	b.asked[n] = leave
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.asked, n)
		b.mu.Unlock()
	}()
	b.respond(&relayv1.RelayResponse{Kind: &relayv1.RelayResponse_Ready{Ready: &relayv1.Ready{N: n, Recipients: idsProto(to)}}})
	select {
	case <-leave:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.deaf:
		return errors.New("the caller gives no leave any more")
	}
}

// StageServer serves StageService: judging, and no more.
type StageServer struct {
	stagev1.UnimplementedStageServiceServer
	Runner  *Runner
	Type    string
	Traits  stage.Traits
	Version string
	TempDir string
	// Callers gives the names of those that may hand messages over; nil: that is not said.
	Callers func() []string
}

// Describe tells what runs here.
func (s *StageServer) Describe(context.Context, *stagev1.DescribeRequest) (*stagev1.DescribeResponse, error) {
	d := &stagev1.DescribeResponse{Type: s.Type, Traits: traitsProto(s.Traits), Version: s.Version}
	for _, r := range s.Runner.Stages.List() {
		d.Instances = append(d.Instances, &stagev1.Instance{Name: r.Instance, Hash: r.Hash})
	}
	if s.Callers != nil {
		d.Callers = s.Callers()
	}
	return d, nil
}

// Process judges one message.
func (s *StageServer) Process(stream grpc.BidiStreamingServer[stagev1.ProcessRequest, stagev1.ProcessResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	begin := first.GetBegin()
	if begin == nil {
		return status.Error(codes.InvalidArgument, "a Process starts with begin")
	}
	env, err := EnvelopeFrom(begin.GetEnvelope())
	if err != nil {
		return status.Error(codes.InvalidArgument, text(err.Error()))
	}
	local, ok := s.Runner.Stages.acquire(begin.GetInstance(), begin.GetHash())
	if !ok {
		return status.Errorf(codes.FailedPrecondition, "%s is not run here with this configuration", begin.GetInstance())
	}
	defer local.release()
	content, err := s.receive(stream)
	if err != nil {
		return err
	}
	defer content.Release()
	m := mail.Message{ID: begin.GetId(), Attempt: int(begin.GetAttempt()), Received: timeFrom(begin.GetReceived()), Envelope: env, Pending: idsFrom(begin.GetPending()), Content: content}
	res, err := s.Runner.observed(s.Runner.Observer.message(stream.Context(), m.ID), local, local.traits, Hop{Instance: begin.GetInstance()}, &m)
	if err != nil {
		s.Runner.Logger.LogAttrs(stream.Context(), slog.LevelWarn, "stage failed", slog.String("id", m.ID), slog.String("stage", begin.GetInstance()), slog.String("error", err.Error()))
		return replyStatus(err)
	}
	return stream.Send(&stagev1.ProcessResponse{Result: resultProto(res)})
}

func (s *StageServer) receive(stream grpc.BidiStreamingServer[stagev1.ProcessRequest, stagev1.ProcessResponse]) (mail.Content, error) {
	c := newCollector(s.TempDir)
	for {
		req, err := stream.Recv()
		if err != nil {
			c.discard()
			return nil, err
		}
		var content mail.Content
		switch k := req.GetKind().(type) {
		case *stagev1.ProcessRequest_Chunk:
			err = c.add(k.Chunk)
		case *stagev1.ProcessRequest_End:
			if content, err = c.end(k.End); err == nil {
				return content, nil
			}
		default:
			err = errUnexpected
		}
		if err != nil {
			c.discard()
			return nil, contentStatus(err)
		}
	}
}

// replyStatus carries an SMTP reply over gRPC as a status detail.
func replyStatus(err error) error {
	st := status.New(codes.Internal, text(err.Error()))
	if r, ok := mail.AsReply(err); ok {
		if with, e := st.WithDetails(replyProto(r)); e == nil {
			st = with
		}
	}
	return st.Err()
}

// replyFromStatus finds the SMTP reply in a status.
func replyFromStatus(err error) (*mail.Reply, bool) {
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*stagev1.Reply); ok {
			return replyFrom(r), true
		}
	}
	return nil, false
}
