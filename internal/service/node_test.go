package service

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

// nodeFile is a configuration file that is refused.
type nodeFile struct{ reloads int }

func (f *nodeFile) Reload() error        { f.reloads++; return f.Err() }
func (*nodeFile) Err() error             { return errors.New("line 1: no") }
func (*nodeFile) FileRevision() string   { return "new" }
func (*nodeFile) revision() string       { return "old" }
func nodeStages() []*adminv1.NodeStage   { return []*adminv1.NodeStage{{Name: "signer", Hash: "x"}} }
func (f *nodeFile) options() NodeOptions { return NodeOptions{Revision: f.revision, File: f} }

// node runs a process with a NodeService until the test ends.
func runNode(t *testing.T, o NodeOptions, busy func(context.Context) error) grpc.ClientConnInterface {
	t.Helper()
	s, err := Listen("127.0.0.1:0", nil, nil, quiet)
	if err != nil {
		t.Fatal(err)
	}
	o.Service, o.Server, o.Logger = "signer", s, quiet
	adminv1.RegisterNodeServiceServer(s.Server, NodeService(o))
	stagev1.RegisterStageServiceServer(s.Server, waiting{f: busy})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	conn, err := connections(t, nil).Direct(s.Addr().String(), "signer")
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestNode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newAuthority(t).issue(t, dir, "signer", 2, nil, "signer")
	pki := open(t, dir, "signer")
	file, drained := &nodeFile{}, []bool{}
	o := file.options()
	o.Instance, o.PKI, o.Stages, o.Sessions, o.Drain = "one", pki, nodeStages, func() int { return 2 }, func(d bool) { drained = append(drained, d) }
	called, goOn := make(chan struct{}), make(chan struct{})
	conn := runNode(t, o, func(context.Context) error { close(called); <-goOn; return nil })
	client := adminv1.NewNodeServiceClient(conn)
	under := make(chan error, 1)
	go func() {
		_, err := stagev1.NewStageServiceClient(conn).Describe(context.Background(), &stagev1.DescribeRequest{})
		under <- err
	}()
	<-called
	list, err := client.ListNodes(t.Context(), &adminv1.ListNodesRequest{})
	if err != nil || len(list.GetNodes()) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	n := list.GetNodes()[0]
	if n.GetService() != "signer" || n.GetInstance() != "one" || n.GetRevision() != "old" || n.GetFileRevision() != "new" || n.GetRefused() != "line 1: no" || n.GetDraining() ||
		n.GetCalls() != 3 || len(n.GetStages()) != 1 || !n.GetCertificateEnds().AsTime().Equal(pki.Ends()) || time.Since(n.GetStarted().AsTime()) > time.Minute {
		t.Errorf("%v", n)
	}
	close(goOn)
	if err := <-under; err != nil {
		t.Fatal(err)
	}
	if list, err := client.ListNodes(t.Context(), &adminv1.ListNodesRequest{Service: "egress"}); err != nil || len(list.GetNodes()) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if r, err := client.ReloadNode(t.Context(), &adminv1.ReloadNodeRequest{}); err != nil || r.GetNode().GetRefused() == "" || file.reloads != 1 || r.GetNode().GetCalls() != 2 {
		t.Errorf("%v, %v", r, err)
	}
	for _, drain := range []bool{true, true, false} {
		r, err := client.DrainNode(t.Context(), &adminv1.DrainNodeRequest{Drain: drain})
		if err != nil || r.GetNode().GetDraining() != drain {
			t.Errorf("%v, %v", r, err)
		}
		want := healthv1.HealthCheckResponse_SERVING
		if drain {
			want = healthv1.HealthCheckResponse_NOT_SERVING
		}
		if h, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil || h.GetStatus() != want {
			t.Errorf("drain %v: %v, %v", drain, h, err)
		}
	}
	if len(drained) != 2 || !drained[0] || drained[1] {
		t.Errorf("told of it: %v", drained)
	}
}

// Everything in one process is drained by force only, and has no file if there is none.
func TestNodeAlone(t *testing.T) {
	t.Parallel()
	client := adminv1.NewNodeServiceClient(runNode(t, NodeOptions{Revision: func() string { return "" }, Alone: true}, nil))
	if _, err := client.DrainNode(t.Context(), &adminv1.DrainNodeRequest{Drain: true}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("%v", err)
	}
	if r, err := client.DrainNode(t.Context(), &adminv1.DrainNodeRequest{Drain: true, Force: true}); err != nil || !r.GetNode().GetDraining() {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := client.ReloadNode(t.Context(), &adminv1.ReloadNodeRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("%v", err)
	}
}

func profile(ctx context.Context, client adminv1.NodeServiceClient, kind string, seconds uint32) ([]byte, error) {
	stream, err := client.GetProfile(ctx, &adminv1.GetProfileRequest{Kind: kind, Seconds: seconds})
	if err != nil {
		return nil, err
	}
	var all []byte
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		if len(r.GetChunk()) > profileChunk {
			return nil, errors.New("a chunk is too large")
		}
		all = append(all, r.GetChunk()...)
	}
}

// Not parallel: the runtime makes one profile at a time.
func TestProfile(t *testing.T) {
	client := adminv1.NewNodeServiceClient(runNode(t, NodeOptions{Revision: func() string { return "" }}, nil))
	gzip := []byte("\x1f\x8b")
	for _, kind := range []string{"heap", "allocs", "goroutine"} {
		if p, err := profile(t.Context(), client, kind, 0); err != nil || !bytes.HasPrefix(p, gzip) {
			t.Errorf("%s: %.10q, %v", kind, p, err)
		}
	}
	for kind, want := range map[string]codes.Code{"": codes.InvalidArgument, "secrets": codes.InvalidArgument} {
		if _, err := profile(t.Context(), client, kind, 1); status.Code(err) != want {
			t.Errorf("%q: %v", kind, err)
		}
	}
	if _, err := profile(t.Context(), client, "cpu", 61); status.Code(err) != codes.InvalidArgument {
		t.Errorf("61 seconds: %v", err)
	}
	// While one is made there is no other; who goes away ends it.
	if !profiling.TryLock() {
		t.Fatal("a profile is being made")
	}
	if _, err := profile(t.Context(), client, "cpu", 1); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v", err)
	}
	profiling.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := profile(ctx, client, "trace", 60); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v", err)
	}
	profiling.Lock() // once it has ended
	took := time.Since(start)
	profiling.Unlock()
	if took > 20*time.Second {
		t.Errorf("it went on for %v", took)
	}
	if p, err := profile(t.Context(), client, "mutex", 1); err != nil || !bytes.HasPrefix(p, gzip) {
		t.Errorf("%.10q, %v", p, err)
	}
}
