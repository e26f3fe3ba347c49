package cli

import (
	"bytes"
	"context"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noon is when all tests run.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// before is a time so long before noon.
func before(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(noon.Add(-d)) }

// fake is a running Stagecoach: it answers what the test puts there, and keeps what it was asked.
type fake struct {
	adminv1.UnimplementedQueueServiceServer
	adminv1.UnimplementedRouteServiceServer
	adminv1.UnimplementedArchiveServiceServer
	adminv1.UnimplementedTraceServiceServer
	adminv1.UnimplementedPreviewServiceServer
	adminv1.UnimplementedDkimServiceServer
	adminv1.UnimplementedUserServiceServer
	adminv1.UnimplementedConfigServiceServer
	adminv1.UnimplementedStatusServiceServer

	trials

	socket string
	// counting answers for the statistics.
	counting counting
	// access answers for who asks, and the record; nil: unimplemented.
	access adminv1.AccessServiceServer

	mu       sync.Mutex
	asked    []proto.Message
	fails    error
	parts    bool
	messages []*adminv1.WaitingMessage
	content  []byte
	changes  []*adminv1.Change
	routes   []*adminv1.RouteState
	archive  []*adminv1.ArchivedMessage
	traces   []*adminv1.TraceSummary
	trace    *adminv1.Trace
	preview  []*adminv1.PreviewResponse
	keys     []*adminv1.DkimKey
	users    []string
	file     *adminv1.GetConfigResponse
	edit     *adminv1.ConfigChange
	status   *adminv1.GetStatusResponse
}

// newFake starts one on a unix socket.
func newFake(t *testing.T) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f := &fake{socket: filepath.Join(dir, "admin.sock")}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, l)
	return f
}

// serve answers at l as well.
func (f *fake) serve(t *testing.T, l net.Listener, opts ...grpc.ServerOption) {
	t.Helper()
	s := grpc.NewServer(append(opts,
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := f.ask(req.(proto.Message)); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}))...)
	adminv1.RegisterQueueServiceServer(s, f)
	adminv1.RegisterRouteServiceServer(s, f)
	adminv1.RegisterArchiveServiceServer(s, f)
	adminv1.RegisterTraceServiceServer(s, f)
	adminv1.RegisterPreviewServiceServer(s, f)
	adminv1.RegisterDkimServiceServer(s, f)
	adminv1.RegisterUserServiceServer(s, f)
	adminv1.RegisterConfigServiceServer(s, f)
	adminv1.RegisterStatusServiceServer(s, f)
	adminv1.RegisterEventServiceServer(s, f)
	adminv1.RegisterGrantServiceServer(s, f)
	adminv1.RegisterStatisticsServiceServer(s, &f.counting)
	adminv1.RegisterAccessServiceServer(s, laterAccess{f: f})
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
}

func (f *fake) ask(req proto.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, proto.Clone(req))
	return f.fails
}

// last is what was asked last.
func (f *fake) last(t *testing.T) proto.Message {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) == 0 {
		t.Fatal("nothing was asked")
	}
	return f.asked[len(f.asked)-1]
}

// ListMessages gives pages of what is there, of the ids asked for.
func (f *fake) ListMessages(_ context.Context, r *adminv1.ListMessagesRequest) (*adminv1.ListMessagesResponse, error) {
	out := &adminv1.ListMessagesResponse{}
	for _, m := range f.messages {
		switch {
		case m.GetId() <= r.GetPageToken():
		case len(out.Messages) == int(r.GetPageSize()):
			out.NextPageToken = out.Messages[len(out.Messages)-1].GetId()
			return out, nil
		default:
			out.Messages = append(out.Messages, m)
		}
	}
	return out, nil
}

func (f *fake) GetMessage(_ context.Context, r *adminv1.GetMessageRequest) (*adminv1.GetMessageResponse, error) {
	for _, m := range f.messages {
		if m.GetId() == r.GetId() {
			return &adminv1.GetMessageResponse{Message: m}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no message %q waits here", r.GetId())
}

func (f *fake) GetContent(r *adminv1.GetContentRequest, s grpc.ServerStreamingServer[adminv1.GetContentResponse]) error {
	if err := f.ask(r); err != nil {
		return err
	}
	for part := range chunks(f.content) {
		if err := s.Send(&adminv1.GetContentResponse{Chunk: part}); err != nil {
			return err
		}
	}
	return nil
}

// chunks are small, so that lines are split over them.
func chunks(b []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			n := min(7, len(b))
			if !yield(b[:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// RetryMessages answers in as many parts as there are changes, if the test says so.
func (f *fake) RetryMessages(_ context.Context, r *adminv1.RetryMessagesRequest) (*adminv1.RetryMessagesResponse, error) {
	if f.parts {
		i := len(r.GetPageToken())
		if f.changes[i].GetReason() == "break" {
			return nil, status.Error(codes.Unavailable, "it stops")
		}
		out := &adminv1.RetryMessagesResponse{Changes: f.changes[i : i+1]}
		if i+1 < len(f.changes) {
			out.NextPageToken = r.GetPageToken() + "x"
		}
		return out, nil
	}
	return &adminv1.RetryMessagesResponse{Changes: f.changes}, nil
}

func (f *fake) HoldMessages(context.Context, *adminv1.HoldMessagesRequest) (*adminv1.HoldMessagesResponse, error) {
	return &adminv1.HoldMessagesResponse{Changes: f.changes}, nil
}

func (f *fake) ReleaseMessages(context.Context, *adminv1.ReleaseMessagesRequest) (*adminv1.ReleaseMessagesResponse, error) {
	return &adminv1.ReleaseMessagesResponse{Changes: f.changes}, nil
}

func (f *fake) DeleteMessages(context.Context, *adminv1.DeleteMessagesRequest) (*adminv1.DeleteMessagesResponse, error) {
	return &adminv1.DeleteMessagesResponse{Changes: f.changes}, nil
}

func (f *fake) ListRoutes(context.Context, *adminv1.ListRoutesRequest) (*adminv1.ListRoutesResponse, error) {
	return &adminv1.ListRoutesResponse{Routes: f.routes}, nil
}

func (f *fake) PauseRoute(_ context.Context, r *adminv1.PauseRouteRequest) (*adminv1.PauseRouteResponse, error) {
	for _, s := range f.routes {
		if s.GetName() == r.GetName() {
			s := proto.CloneOf(s)
			s.Pause = &adminv1.Pause{By: "alice", Reason: r.GetReason(), At: before(0)}
			return &adminv1.PauseRouteResponse{Route: s}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "there is no route %q", r.GetName())
}

func (f *fake) ResumeRoute(_ context.Context, r *adminv1.ResumeRouteRequest) (*adminv1.ResumeRouteResponse, error) {
	return &adminv1.ResumeRouteResponse{Route: f.routes[0]}, nil
}

func (f *fake) ListArchived(context.Context, *adminv1.ListArchivedRequest) (*adminv1.ListArchivedResponse, error) {
	return &adminv1.ListArchivedResponse{Messages: f.archive}, nil
}

func (f *fake) GetArchived(r *adminv1.GetArchivedRequest, s grpc.ServerStreamingServer[adminv1.GetArchivedResponse]) error {
	if err := f.ask(r); err != nil {
		return err
	}
	for _, m := range f.archive {
		if m.GetId() != r.GetId() {
			continue
		}
		if err := s.Send(&adminv1.GetArchivedResponse{Kind: &adminv1.GetArchivedResponse_Message{Message: m}}); err != nil || r.GetWithoutContent() {
			return err
		}
		for part := range chunks(f.content) {
			if err := s.Send(&adminv1.GetArchivedResponse{Kind: &adminv1.GetArchivedResponse_Chunk{Chunk: part}}); err != nil {
				return err
			}
		}
		if r.GetSha256() == "damaged" {
			return status.Error(codes.DataLoss, "the bytes of it are not those that were archived")
		}
		return nil
	}
	return status.Errorf(codes.NotFound, "no archive has %q", r.GetId())
}

func (f *fake) FindTraces(_ context.Context, r *adminv1.FindTracesRequest) (*adminv1.FindTracesResponse, error) {
	if strings.Contains(r.GetAddress(), "message-id") {
		return &adminv1.FindTracesResponse{}, nil
	}
	return &adminv1.FindTracesResponse{Traces: f.traces}, nil
}

func (f *fake) GetTrace(_ context.Context, r *adminv1.GetTraceRequest) (*adminv1.GetTraceResponse, error) {
	if f.trace.GetId() != r.GetId() {
		return nil, status.Errorf(codes.NotFound, "no trace of %q", r.GetId())
	}
	return &adminv1.GetTraceResponse{Trace: f.trace}, nil
}

func (f *fake) Preview(s grpc.BidiStreamingServer[adminv1.PreviewRequest, adminv1.PreviewResponse]) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		if err := f.ask(r); err != nil {
			return err
		}
		if r.GetEnd() != nil {
			break
		}
	}
	for _, r := range f.preview {
		if err := s.Send(r); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) ListDkimKeys(context.Context, *adminv1.ListDkimKeysRequest) (*adminv1.ListDkimKeysResponse, error) {
	return &adminv1.ListDkimKeysResponse{Keys: f.keys}, nil
}

func (f *fake) CreateDkimKeys(context.Context, *adminv1.CreateDkimKeysRequest) (*adminv1.CreateDkimKeysResponse, error) {
	return &adminv1.CreateDkimKeysResponse{Keys: f.keys}, nil
}

func (f *fake) ListUsers(context.Context, *adminv1.ListUsersRequest) (*adminv1.ListUsersResponse, error) {
	return &adminv1.ListUsersResponse{Names: f.users}, nil
}

func (f *fake) AddUser(context.Context, *adminv1.AddUserRequest) (*adminv1.AddUserResponse, error) {
	return &adminv1.AddUserResponse{}, nil
}

func (f *fake) SetPassword(context.Context, *adminv1.SetPasswordRequest) (*adminv1.SetPasswordResponse, error) {
	return &adminv1.SetPasswordResponse{}, nil
}

func (f *fake) DeleteUser(context.Context, *adminv1.DeleteUserRequest) (*adminv1.DeleteUserResponse, error) {
	return &adminv1.DeleteUserResponse{}, nil
}

func (f *fake) GetStatus(context.Context, *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	return f.status, nil
}

// person is how a command is started, and what it said.
type person struct {
	// terminal: both streams are one, 120 columns wide.
	terminal bool
	env      map[string]string
	stdin    string
	secrets  []string
	ctx      context.Context // nil: the test's

	stdout, stderr string
	err            error
}

// runs executes the commands as main does, and gives the exit code.
func (p *person) runs(t *testing.T, args ...string) int {
	t.Helper()
	var out, errs bytes.Buffer
	root := &cobra.Command{Use: "stagecoach", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(Commands(Options{
		Now: func() time.Time { return noon }, Location: time.FixedZone("CET", 3600),
		Getenv: func(k string) string { return p.env[k] },
		Width:  func(any) (int, bool) { return 120, p.terminal },
		Secret: func(any) ([]byte, error) {
			s := p.secrets[0]
			p.secrets = p.secrets[1:]
			return []byte(s), nil
		},
	})...)
	Prepare(root)
	root.SetArgs(args)
	root.SetIn(strings.NewReader(p.stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	ctx := p.ctx
	if ctx == nil {
		ctx = t.Context()
	}
	p.err = root.ExecuteContext(ctx)
	code := Report(&errs, p.err)
	p.stdout, p.stderr = out.String(), errs.String()
	return code
}

// golden compares with testdata/<name>.txt.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what came (go test -update writes it anew):\n--- want\n%s\n--- got\n%s", file, want, got)
	}
}
