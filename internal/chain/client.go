package chain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/mail"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/stage"
)

// egressIdentity is the name that egress's certificate bears.
const egressIdentity = "egress"

// A call that took nothing is repeated: with round robin, the other addresses behind the name are tried. A refusal costs
// little, since it comes before the content; the pauses, doubled each time, let connections to other addresses come up.
const (
	attempts = 3
	refusals = 8
	pause    = 5 * time.Millisecond
)

// elsewhere makes a call until some address behind the name takes it.
func (g *GRPC) elsewhere(ctx context.Context, call func() error) error {
	for n := 1; ; n++ {
		err := call()
		not, ok := errors.AsType[*NotHandedOver](err)
		if !ok || ctx.Err() != nil || n >= refusals || !not.Unknown && n >= attempts {
			return err
		}
		if not.Unknown {
			select {
			case <-time.After(cmp.Or(g.pause, pause) << (n - 1)):
			case <-ctx.Done():
				return err
			}
		}
	}
}

// GRPC is the Network.
type GRPC struct {
	// Conn returns the connection to address whose certificate must bear identity. It may be shared.
	Conn func(address, identity string) (grpc.ClientConnInterface, error)
	// Traits are the worst case that the configuration expects of a type of stage; false: not known here.
	Traits func(typ string) (stage.Traits, bool)
	Logger *slog.Logger

	pause     time.Duration // before the first repetition, if not the usual one
	described sync.Map      // address -> true, until a call fails
}

// Relay implements Network.
func (g *GRPC) Relay(ctx context.Context, p *Parcel, s Sink) error {
	address, identity := p.Slip.Route.Address, egressIdentity
	if len(p.Slip.Hops) > 0 {
		h := p.Slip.Hops[0]
		address, identity = h.Address, h.identity()
	}
	err := g.elsewhere(ctx, func() error {
		if len(p.Slip.Hops) > 0 {
			if err := g.describe(ctx, p.Slip.Hops[0]); err != nil {
				return err
			}
		}
		return g.relay(ctx, address, identity, p, s)
	})
	if err != nil {
		g.described.Delete(address) // not in between: two calls each time would meet the same one of two services
	}
	return err
}

func (h Hop) identity() string {
	if h.Identity != "" {
		return h.Identity
	}
	return h.Type
}

// relay makes one call. Up to the End nothing was handed over; after it, what has no fate is unknown.
func (g *GRPC) relay(ctx context.Context, address, identity string, p *Parcel, s Sink) error {
	conn, err := g.Conn(address, identity)
	if err != nil {
		return &NotHandedOver{Cause: err}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := relayv1.NewRelayServiceClient(conn).Relay(ctx)
	if err != nil {
		return notHandedOver(err)
	}
	if err := sendParcel(stream, p); err != nil {
		if errors.Is(err, io.EOF) { // the callee ended the stream: it says why
			err = drain(stream)
		}
		return notHandedOver(err)
	}
	l := newLedger(p.Pending, s)
	err = g.receive(ctx, stream, l)
	if refused(err) && !l.heard() {
		return notHandedOver(err)
	}
	if l.none() {
		return nil
	}
	why := "the callee ended the stream without a fate"
	if err != nil {
		why = err.Error()
		g.described.Delete(address)
	}
	about := EgressHop
	if len(p.Slip.Hops) > 0 {
		about = p.Slip.Hops[0].Instance
	}
	l.settle(Fate{Kind: Unknown, Concern: AboutHop, About: about, Reason: why})
	return nil
}

func notHandedOver(err error) error {
	return &NotHandedOver{Unknown: refused(err), Cause: err}
}

// refused says that the callee took nothing because it does not know the hop.
func refused(err error) bool { return status.Code(err) == codes.FailedPrecondition }

func drain(stream relayv1.RelayService_RelayClient) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

func sendParcel(stream relayv1.RelayService_RelayClient, p *Parcel) error {
	begin := &relayv1.Begin{Id: p.ID, Attempt: uint32(p.Attempt), Envelope: EnvelopeProto(&p.Envelope), Pending: idsProto(p.Pending), Slip: slipProto(p.Slip), Received: timeProto(p.Received)}
	if err := stream.Send(&relayv1.RelayRequest{Kind: &relayv1.RelayRequest_Begin{Begin: begin}}); err != nil {
		return err
	}
	end, err := sendContent(p.Content, func(frame []byte) error {
		return stream.Send(&relayv1.RelayRequest{Kind: &relayv1.RelayRequest_Chunk{Chunk: frame}})
	})
	if err != nil {
		return err
	}
	return stream.Send(&relayv1.RelayRequest{Kind: &relayv1.RelayRequest_End{End: end}})
}

// receive passes on what comes back until the stream ends; nil is a clean end.
func (g *GRPC) receive(ctx context.Context, stream relayv1.RelayService_RelayClient, s Sink) error {
	var mu sync.Mutex // one Send at a time
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel()
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch k := resp.GetKind().(type) {
		case *relayv1.RelayResponse_Report:
			r, err := ReportFrom(k.Report)
			if err != nil {
				return err
			}
			s.Report(r)
		case *relayv1.RelayResponse_Fate:
			s.Fate(FateFrom(k.Fate))
		case *relayv1.RelayResponse_Ready:
			wg.Go(func() {
				if err := s.Ready(ctx, idsFrom(k.Ready.GetRecipients())); err != nil {
					return // no answer is no leave: egress aborts by itself
				}
				mu.Lock()
				defer mu.Unlock()
				leave := &relayv1.RelayRequest{Kind: &relayv1.RelayRequest_Go{Go: &relayv1.Go{N: k.Ready.GetN()}}}
				if err := stream.Send(leave); err != nil {
					g.Logger.Debug("leave not sent", "error", err)
				}
			})
		default:
			return fmt.Errorf("%w: a response of an unknown kind", errWire)
		}
	}
}

// Process implements Network. The error is a NotHandedOver if no service behind the address took the message.
func (g *GRPC) Process(ctx context.Context, h Hop, m *mail.Message) (res stage.Result, err error) {
	err = g.elsewhere(ctx, func() error {
		if err := g.describe(ctx, h); err != nil {
			return err
		}
		res, err = g.process(ctx, h, m)
		return err
	})
	if _, ok := errors.AsType[*NotHandedOver](err); ok {
		g.described.Delete(h.Address)
	}
	return res, err
}

func (g *GRPC) process(ctx context.Context, h Hop, m *mail.Message) (stage.Result, error) {
	conn, err := g.Conn(h.Address, h.identity())
	if err != nil {
		return stage.Result{}, &NotHandedOver{Cause: err}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := stagev1.NewStageServiceClient(conn).Process(ctx)
	if err != nil {
		return stage.Result{}, notHandedOver(err)
	}
	sent := sendMessage(stream, h, m)
	if sent != nil && !errors.Is(sent, io.EOF) {
		return stage.Result{}, notHandedOver(sent)
	}
	resp, err := stream.Recv()
	if err != nil {
		if r, ok := replyFromStatus(err); ok {
			return stage.Result{}, r
		}
		if refused(err) || sent != nil {
			return stage.Result{}, notHandedOver(err)
		}
		return stage.Result{}, fmt.Errorf("stage %s: %w", h.Instance, err)
	}
	return resultFrom(resp.GetResult())
}

func sendMessage(stream stagev1.StageService_ProcessClient, h Hop, m *mail.Message) error {
	begin := &stagev1.ProcessBegin{Id: m.ID, Attempt: uint32(m.Attempt), Envelope: EnvelopeProto(&m.Envelope), Pending: idsProto(m.Pending), Instance: h.Instance, Hash: h.Hash, Received: timeProto(m.Received)}
	if err := stream.Send(&stagev1.ProcessRequest{Kind: &stagev1.ProcessRequest_Begin{Begin: begin}}); err != nil {
		return err
	}
	end, err := sendContent(m.Content, func(frame []byte) error {
		return stream.Send(&stagev1.ProcessRequest{Kind: &stagev1.ProcessRequest_Chunk{Chunk: frame}})
	})
	if err != nil {
		return err
	}
	if err := stream.Send(&stagev1.ProcessRequest{Kind: &stagev1.ProcessRequest_End{End: end}}); err != nil {
		return err
	}
	return stream.CloseSend()
}

// describe compares once per connection what the service says of itself with what the configuration expects.
func (g *GRPC) describe(ctx context.Context, h Hop) error {
	if g.Traits == nil {
		return nil
	}
	if _, ok := g.described.Load(h.Address); ok {
		return nil
	}
	want, ok := g.Traits(h.Type)
	if !ok {
		return nil
	}
	conn, err := g.Conn(h.Address, h.identity())
	if err != nil {
		return &NotHandedOver{Cause: err}
	}
	d, err := stagev1.NewStageServiceClient(conn).Describe(ctx, &stagev1.DescribeRequest{})
	if err != nil {
		return notHandedOver(err)
	}
	if d.GetType() != h.Type {
		return &NotHandedOver{Unknown: true, Cause: fmt.Errorf("%s is a %q, not a %q", h.Address, d.GetType(), h.Type)}
	}
	if have := traitsFrom(d.GetTraits()); !within(have, want) {
		return &NotHandedOver{Unknown: true, Cause: fmt.Errorf("%s does more than the configuration expects of it: %+v", h.Address, have)}
	}
	g.described.Store(h.Address, true)
	return nil
}

func within(have, want stage.Traits) bool {
	return (!have.ReadsBody || want.ReadsBody) && (!have.EditsHeader || want.EditsHeader) && (!have.EditsBody || want.EditsBody) &&
		(!have.EditsEnvelope || want.EditsEnvelope) && (!have.Seals || want.Seals) && (!have.Effects || want.Effects)
}
