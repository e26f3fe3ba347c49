package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// fake is one process: it answers what the test puts there.
type fake struct {
	adminv1.UnimplementedQueueServiceServer
	adminv1.UnimplementedNodeServiceServer
	adminv1.UnimplementedStatusServiceServer
	adminv1.UnimplementedRouteServiceServer
	adminv1.UnimplementedTraceServiceServer
	adminv1.UnimplementedUserServiceServer
	adminv1.UnimplementedEventServiceServer
	adminv1.UnimplementedStatisticsServiceServer
	adminv1.UnimplementedPreviewServiceServer

	health *health.Server

	mu       sync.Mutex
	node     *adminv1.Node
	messages []string // ids that wait here
	page     int      // the most of one page; 0: as asked
	changed  []string // ids that were released, "id by person"
	most     int      // changes in one answer; 0: all
	refuses  string   // ids with this prefix are not changed
	status   *adminv1.GetStatusResponse
	routes   []*adminv1.RouteState
	traces   error
	users    []string
	events   chan *adminv1.TailEventsResponse
	file     string // the revision that a reload takes up
}

// installation is fakes behind the names of a configuration.
type installation struct {
	*Fleet
	ports map[string]string
	names map[string][]string
}

// install makes a fleet of processes: for each service its fakes, on 127.0.0.1, 127.0.0.2 and so on with one port. A nil
// one is not there.
func install(t *testing.T, services map[string][]*fake) *installation {
	t.Helper()
	in := &installation{ports: map[string]string{}, names: map[string][]string{}}
	c := &config.Config{Hostname: "relay.example.com", Revision: "rev", Stages: map[string]*config.Stage{}}
	for of, fakes := range services {
		port := ""
		for i, f := range fakes {
			host := fmt.Sprintf("127.0.0.%d", i+1)
			in.names[of] = append(in.names[of], host)
			l := listen(t, host, &port)
			if f == nil {
				_ = l.Close()
				continue
			}
			f.serve(t, l, of)
		}
		in.ports[of] = port
		switch of {
		case ingress:
			c.Ingress.Address = "ingress:" + port
		case egress:
			c.Egress.Address = "egress:" + port
		default:
			c.Stages[of] = &config.Stage{Name: of, Type: of, Address: of + ":" + port}
		}
	}
	conns := service.NewConnections(nil)
	t.Cleanup(conns.Close)
	in.Fleet = New(Options{Config: func() *config.Config { return c }, Conns: conns, Lookup: in.lookup, Logger: slog.New(slog.DiscardHandler)})
	return in
}

// listen opens a port on host: the same on each, so that they are behind one address.
func listen(t *testing.T, host string, port *string) net.Listener {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", net.JoinHostPort(host, cmp.Or(*port, "0")))
		if err == nil {
			_, *port, _ = net.SplitHostPort(l.Addr().String())
			return l
		}
		if *port != "" {
			t.Skipf("port %s is taken on %s", *port, host)
		}
	}
	t.Fatal("no port")
	return nil
}

func (f *fake) serve(t *testing.T, l net.Listener, of string) {
	t.Helper()
	f.health, f.events = health.NewServer(), make(chan *adminv1.TailEventsResponse)
	server := grpc.NewServer()
	if f.node == nil {
		f.node = &adminv1.Node{Revision: "rev", FileRevision: "rev"}
	}
	f.node.Service = of
	healthv1.RegisterHealthServer(server, f.health)
	adminv1.RegisterQueueServiceServer(server, f)
	adminv1.RegisterNodeServiceServer(server, f)
	adminv1.RegisterStatusServiceServer(server, f)
	adminv1.RegisterRouteServiceServer(server, f)
	adminv1.RegisterTraceServiceServer(server, f)
	adminv1.RegisterUserServiceServer(server, f)
	adminv1.RegisterEventServiceServer(server, f)
	adminv1.RegisterPreviewServiceServer(server, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
}

func (f *fake) ListMessages(_ context.Context, r *adminv1.ListMessagesRequest) (*adminv1.ListMessagesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out, size := &adminv1.ListMessagesResponse{}, int(cmp.Or(r.GetPageSize(), 100))
	if f.page > 0 {
		size = min(size, f.page)
	}
	for _, id := range f.messages {
		switch {
		case id <= r.GetPageToken(), len(r.GetFilter().GetIds()) > 0 && r.GetFilter().GetIds()[0] != id:
		case len(out.Messages) == size:
			out.NextPageToken = out.Messages[size-1].GetId()
			return out, nil
		default:
			out.Messages = append(out.Messages, &adminv1.WaitingMessage{Id: id})
		}
	}
	return out, nil
}

func (f *fake) GetMessage(_ context.Context, r *adminv1.GetMessageRequest) (*adminv1.GetMessageResponse, error) {
	for _, id := range f.messages {
		if id == r.GetId() {
			return &adminv1.GetMessageResponse{Message: &adminv1.WaitingMessage{Id: id, Shard: f.node.GetInstance()}}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "it does not wait here")
}

func (f *fake) GetContent(r *adminv1.GetContentRequest, s grpc.ServerStreamingServer[adminv1.GetContentResponse]) error {
	if _, err := f.GetMessage(s.Context(), &adminv1.GetMessageRequest{Id: r.GetId()}); err != nil {
		return err
	}
	return s.Send(&adminv1.GetContentResponse{Chunk: []byte(r.GetId())})
}

func (f *fake) ReleaseMessages(ctx context.Context, r *adminv1.ReleaseMessagesRequest) (*adminv1.ReleaseMessagesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &adminv1.ReleaseMessagesResponse{}
	ids := r.GetFilter().GetIds()
	if len(ids) == 0 {
		ids = f.messages
	}
	for _, id := range ids {
		if id <= r.GetPageToken() {
			continue
		}
		if f.most > 0 && len(out.Changes) == f.most {
			out.NextPageToken = out.Changes[f.most-1].GetId()
			break
		}
		c := &adminv1.Change{Id: id, Reason: "it does not wait here", Absent: true}
		for _, have := range f.messages {
			switch {
			case have != id:
			case f.refuses != "" && strings.HasPrefix(id, f.refuses):
				c = &adminv1.Change{Id: id, Reason: "it is not held"}
			default:
				c = &adminv1.Change{Id: id, Recipients: 1}
				f.changed = append(f.changed, id+" by "+service.Actor(ctx))
			}
		}
		out.Changes = append(out.Changes, c)
	}
	return out, nil
}

func (f *fake) ListNodes(context.Context, *adminv1.ListNodesRequest) (*adminv1.ListNodesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := &adminv1.Node{Service: f.node.GetService(), Instance: f.node.GetInstance(), Revision: f.node.GetRevision(), FileRevision: f.node.GetFileRevision(), Refused: f.node.GetRefused(),
		Draining: f.node.GetDraining(), CertificateEnds: f.node.GetCertificateEnds()}
	return &adminv1.ListNodesResponse{Nodes: []*adminv1.Node{n}}, nil
}

func (f *fake) ReloadNode(ctx context.Context, _ *adminv1.ReloadNodeRequest) (*adminv1.ReloadNodeResponse, error) {
	f.mu.Lock()
	if f.file != "" {
		f.node.Revision, f.node.FileRevision = f.file, f.file
	}
	f.mu.Unlock()
	l, err := f.ListNodes(ctx, nil)
	return &adminv1.ReloadNodeResponse{Node: l.GetNodes()[0]}, err
}

func (f *fake) DrainNode(ctx context.Context, r *adminv1.DrainNodeRequest) (*adminv1.DrainNodeResponse, error) {
	f.mu.Lock()
	f.node.Draining = r.GetDrain()
	f.mu.Unlock()
	l, err := f.ListNodes(ctx, nil)
	return &adminv1.DrainNodeResponse{Node: l.GetNodes()[0]}, err
}

func (f *fake) GetProfile(r *adminv1.GetProfileRequest, s grpc.ServerStreamingServer[adminv1.GetProfileResponse]) error {
	for range 3 {
		if err := s.Send(&adminv1.GetProfileResponse{Chunk: []byte(r.GetKind())}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) GetStatus(context.Context, *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	return cmp.Or(f.status, &adminv1.GetStatusResponse{}), nil
}

func (f *fake) ListRoutes(context.Context, *adminv1.ListRoutesRequest) (*adminv1.ListRoutesResponse, error) {
	return &adminv1.ListRoutesResponse{Routes: f.routes}, nil
}

func (f *fake) PauseRoute(ctx context.Context, r *adminv1.PauseRouteRequest) (*adminv1.PauseRouteResponse, error) {
	return &adminv1.PauseRouteResponse{Route: &adminv1.RouteState{Name: r.GetName(), Pause: &adminv1.Pause{By: service.Actor(ctx)}}}, nil
}

func (f *fake) GetTrace(_ context.Context, r *adminv1.GetTraceRequest) (*adminv1.GetTraceResponse, error) {
	return &adminv1.GetTraceResponse{Trace: &adminv1.Trace{Id: r.GetId(), Subject: f.node.GetInstance()}}, f.traces
}

func (f *fake) AddUser(_ context.Context, r *adminv1.AddUserRequest) (*adminv1.AddUserResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.users = append(f.users, r.GetName())
	return &adminv1.AddUserResponse{}, f.traces
}

func (f *fake) TailEvents(r *adminv1.TailEventsRequest, s grpc.ServerStreamingServer[adminv1.TailEventsResponse]) error {
	if r.GetAddress() == "bad" {
		return status.Error(codes.InvalidArgument, "address: no")
	}
	for {
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case e := <-f.events:
			if err := s.Send(e); err != nil {
				return err
			}
		}
	}
}

func (f *fake) Preview(s grpc.BidiStreamingServer[adminv1.PreviewRequest, adminv1.PreviewResponse]) error {
	size := 0
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		size += len(r.GetChunk())
		if r.GetEnd() != nil {
			return s.Send(&adminv1.PreviewResponse{Kind: &adminv1.PreviewResponse_Outcome{Outcome: &adminv1.PreviewOutcome{Size: uint64(size)}}})
		}
	}
}

// serveAll registers all that a fleet serves.
func serveAll(s *grpc.Server, f *Fleet) {
	adminv1.RegisterQueueServiceServer(s, f.Queue())
	adminv1.RegisterNodeServiceServer(s, f.Nodes())
	adminv1.RegisterStatusServiceServer(s, f.Status())
	adminv1.RegisterRouteServiceServer(s, f.Routes())
	adminv1.RegisterTraceServiceServer(s, f.Trace())
	adminv1.RegisterUserServiceServer(s, f.Users())
	adminv1.RegisterEventServiceServer(s, f.Events())
	adminv1.RegisterPreviewServiceServer(s, f.Preview())
	adminv1.RegisterDkimServiceServer(s, f.Dkim())
	adminv1.RegisterArchiveServiceServer(s, f.Archive())
	adminv1.RegisterGrantServiceServer(s, f.Grants())
	adminv1.RegisterStatisticsServiceServer(s, f.Counted())
}

// api serves a fleet over gRPC, as admin does: streams and trailers are what a caller sees.
func api(t *testing.T, f *Fleet) *grpc.ClientConn {
	t.Helper()
	s := grpc.NewServer()
	serveAll(s, f)
	return serving(t, s)
}

// serving runs a server until the test ends.
func serving(t *testing.T, s *grpc.Server) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); s.Stop(); <-done })
	return conn
}

// trailer is what an answer lacks.
func trailer(md metadata.MD) string { return strings.Join(md.Get(Missing), "; ") }

func in(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(d)) }

// lookup knows the names of the services.
func (in *installation) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, s := range in.names[host] {
		out = append(out, netip.MustParseAddr(s))
	}
	if len(out) == 0 {
		return nil, errors.New("no such host")
	}
	return out, nil
}
