package chain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/mail"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/stage"
)

// dial gives a connection to a served runner with one stage "a", whose runs are counted.
func dial(t *testing.T, runs *atomic.Int32, out Carrier) *grpc.ClientConn {
	t.Helper()
	h := spec("a", stage.Traits{}, func(context.Context, *mail.Message) (stage.Result, error) {
		runs.Add(1)
		return stage.Result{}, nil
	})
	address := serve(t, &Runner{Stages: stagesOf(t, h), Egress: out, Logger: quiet, Now: time.Now}, "a", stage.Traits{})
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func begin() *relayv1.RelayRequest {
	p := parcel(nil, Slip{Hops: []Hop{{Instance: "a", Type: "a", Hash: hash}}, Route: Route{Name: "out"}})
	return &relayv1.RelayRequest{Kind: &relayv1.RelayRequest_Begin{Begin: &relayv1.Begin{Id: p.ID, Envelope: EnvelopeProto(&p.Envelope), Pending: idsProto(p.Pending), Slip: slipProto(p.Slip)}}}
}

func chunk(s string) *relayv1.RelayRequest {
	return &relayv1.RelayRequest{Kind: &relayv1.RelayRequest_Chunk{Chunk: []byte(s)}}
}

func end(length uint64, crc uint32) *relayv1.RelayRequest {
	return &relayv1.RelayRequest{Kind: &relayv1.RelayRequest_End{End: &stagev1.End{Length: length, Crc32C: crc}}}
}

// whole is the End of raw.
func whole(t *testing.T) *stagev1.End {
	e, err := sendContent(mail.FromBytes([]byte(raw)), func([]byte) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// A stream that ends without its End never counts as a message: not when it was cancelled and closed at once, which
// the server may see as a clean end, and not when it was just closed.
func TestTruncated(t *testing.T) {
	var runs atomic.Int32
	var out outbox
	conn := dial(t, &runs, &out)
	for i := range 500 {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := relayv1.NewRelayServiceClient(conn).Relay(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, req := range []*relayv1.RelayRequest{begin(), chunk(raw)} {
			if err := stream.Send(req); err != nil {
				t.Fatal(err)
			}
		}
		if i%2 == 0 {
			cancel()
		}
		_ = stream.CloseSend()
		if err := drain(stream); err == nil || errors.Is(err, io.EOF) {
			t.Fatalf("a truncated stream ended with %v", err)
		}
		judging, err := stagev1.NewStageServiceClient(conn).Process(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b := begin().GetBegin()
		_ = judging.Send(&stagev1.ProcessRequest{Kind: &stagev1.ProcessRequest_Begin{Begin: &stagev1.ProcessBegin{Id: "m", Envelope: b.GetEnvelope(), Instance: "a", Hash: hash}}})
		_ = judging.Send(&stagev1.ProcessRequest{Kind: &stagev1.ProcessRequest_Chunk{Chunk: []byte(raw)}})
		_ = judging.CloseSend()
		if _, err := judging.Recv(); err == nil || errors.Is(err, io.EOF) {
			t.Fatalf("a truncated Process ended with %v", err)
		}
		cancel()
	}
	if runs.Load() > 0 || out.count() > 0 {
		t.Fatalf("%d runs, %d deliveries of truncated messages", runs.Load(), out.count())
	}
}

// What breaks the protocol is refused before the stage is run.
func TestBadRequests(t *testing.T) {
	e := whole(t)
	bad := func(change func(*relayv1.Begin)) *relayv1.RelayRequest { b := begin(); change(b.GetBegin()); return b }
	for _, tt := range []struct {
		name string
		send []*relayv1.RelayRequest
		want codes.Code
	}{
		{"nothing wrong", []*relayv1.RelayRequest{begin(), chunk(raw[:5]), chunk(raw[5:]), end(e.Length, e.Crc32C)}, codes.OK},
		{"a wrong CRC", []*relayv1.RelayRequest{begin(), chunk(raw), end(e.Length, e.Crc32C+1)}, codes.InvalidArgument},
		{"a wrong length", []*relayv1.RelayRequest{begin(), chunk(raw), end(e.Length+1, e.Crc32C)}, codes.InvalidArgument},
		{"bytes missing", []*relayv1.RelayRequest{begin(), chunk(raw[1:]), end(e.Length, e.Crc32C)}, codes.InvalidArgument},
		{"frames in another order", []*relayv1.RelayRequest{begin(), chunk(raw[5:]), chunk(raw[:5]), end(e.Length, e.Crc32C)}, codes.InvalidArgument},
		{"no begin", []*relayv1.RelayRequest{chunk(raw), end(e.Length, e.Crc32C)}, codes.InvalidArgument},
		{"two begins", []*relayv1.RelayRequest{begin(), begin(), chunk(raw), end(e.Length, e.Crc32C)}, codes.InvalidArgument},
		{"an empty request", []*relayv1.RelayRequest{begin(), {}, chunk(raw), end(e.Length, e.Crc32C)}, codes.InvalidArgument},
		{"leave before the end", []*relayv1.RelayRequest{begin(), {Kind: &relayv1.RelayRequest_Go{Go: &relayv1.Go{N: 1}}}}, codes.InvalidArgument},
		{"an address that is none", []*relayv1.RelayRequest{bad(func(b *relayv1.Begin) { b.Envelope.Recipients[0].Address = "a b\r\n" }), chunk(raw), end(e.Length, e.Crc32C)}, codes.InvalidArgument},
		{"a pending recipient without an envelope", []*relayv1.RelayRequest{bad(func(b *relayv1.Begin) { b.Pending = []string{"9"} }), chunk(raw), end(e.Length, e.Crc32C)}, codes.InvalidArgument},
		{"a stage that is not here", []*relayv1.RelayRequest{bad(func(b *relayv1.Begin) { b.Slip.Hops[0].Instance = "b" })}, codes.FailedPrecondition},
		{"no slip", []*relayv1.RelayRequest{bad(func(b *relayv1.Begin) { b.Slip = nil }), chunk(raw), end(e.Length, e.Crc32C)}, codes.OK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var runs atomic.Int32
			var out outbox
			stream, err := relayv1.NewRelayServiceClient(dial(t, &runs, &out)).Relay(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, req := range tt.send {
				if err := stream.Send(req); errors.Is(err, io.EOF) {
					break // it has answered
				} else if err != nil {
					t.Fatal(err)
				}
			}
			err = drain(stream)
			if errors.Is(err, io.EOF) {
				err = nil
			}
			if got := status.Code(err); got != tt.want {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if delivered := out.count() > 0; delivered != (tt.want == codes.OK) {
				t.Errorf("%d deliveries", out.count())
			}
		})
	}
}

// Leave is asked for and given through two hops, several at once and in any order.
func TestReady(t *testing.T) {
	const n = 8
	for _, where := range settings {
		t.Run(where.name, func(t *testing.T) {
			out := &outbox{carry: func(ctx context.Context, p *Parcel, s Sink) {
				var wg sync.WaitGroup
				for i := range n {
					wg.Go(func() {
						ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
						defer cancel()
						to := []mail.RecipientID{"1", mail.RecipientID(fmt.Sprint(i))}
						if i == 5 { // no leave for this one
							short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
							defer stop()
							ctx = short
						}
						if err := s.Ready(ctx, to); (err != nil) != (i == 5) {
							t.Errorf("ready %d: %v", i, err)
						}
					})
				}
				wg.Wait()
				fates(s, p.Pending, Fate{Kind: Delivered})
			}}
			runner, slip := where.build(t, []hopSpec{fine, spec("b", stage.Traits{}, says(stage.Continue()))}, out)
			var mu sync.Mutex
			asked := map[string]int{}
			var all sync.WaitGroup
			all.Add(n)
			s := &heard{ready: func(ctx context.Context, to []mail.RecipientID) error {
				mu.Lock()
				asked[string(to[1])]++
				mu.Unlock()
				all.Done()
				all.Wait() // every one is outstanding before the first leave is given
				if to[1] == "5" {
					return errors.New("the lease is not certain")
				}
				return nil
			}}
			runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s)
			if s.fate(t, "1").Kind != Delivered || len(asked) != n {
				t.Errorf("said %q, asked %v", s.said(), asked)
			}
		})
	}
}

// A caller that is gone, or has closed its side, gives no leave: who asks is told so, and does not wait for its time
// to run out.
func TestReadyWithoutCaller(t *testing.T) {
	for _, leave := range []string{"cancels", "closes its side"} {
		t.Run(leave, func(t *testing.T) {
			asked, told := make(chan struct{}), make(chan error, 1)
			out := &outbox{carry: func(ctx context.Context, p *Parcel, s Sink) {
				go func() { <-time.After(time.Millisecond); close(asked) }()
				told <- s.Ready(ctx, p.Pending)
			}}
			var runs atomic.Int32
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream, err := relayv1.NewRelayServiceClient(dial(t, &runs, out)).Relay(ctx)
			if err != nil {
				t.Fatal(err)
			}
			e := whole(t)
			for _, req := range []*relayv1.RelayRequest{begin(), chunk(raw), end(e.Length, e.Crc32C)} {
				if err := stream.Send(req); err != nil {
					t.Fatal(err)
				}
			}
			<-asked
			if leave == "cancels" {
				cancel()
			} else if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-told:
				if err == nil {
					t.Error("leave was given by nobody")
				}
			case <-time.After(3 * time.Second):
				t.Error("nobody is told that there will be no leave")
			}
		})
	}
}

// A leave for another n, or one more, does no harm.
func TestStrayLeave(t *testing.T) {
	out := &outbox{carry: func(ctx context.Context, p *Parcel, s Sink) {
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		if err := s.Ready(short, p.Pending); err == nil {
			t.Error("the leave for 7 was taken for that of 1")
		}
		fates(s, p.Pending, Fate{Kind: Delivered})
	}}
	var runs atomic.Int32
	stream, err := relayv1.NewRelayServiceClient(dial(t, &runs, out)).Relay(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := whole(t)
	leave := &relayv1.RelayRequest{Kind: &relayv1.RelayRequest_Go{Go: &relayv1.Go{N: 7}}}
	for _, req := range []*relayv1.RelayRequest{begin(), chunk(raw), end(e.Length, e.Crc32C), leave, leave} {
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	if err := drain(stream); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
