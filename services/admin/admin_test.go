package admin

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// owner is a service behind admin that tells who asked.
type owner struct {
	adminv1.UnimplementedQueueServiceServer
	adminv1.UnimplementedUserServiceServer
}

func (owner) ListMessages(ctx context.Context, _ *adminv1.ListMessagesRequest) (*adminv1.ListMessagesResponse, error) {
	return &adminv1.ListMessagesResponse{NextPageToken: service.Actor(ctx)}, nil
}

func (owner) DeleteMessages(ctx context.Context, r *adminv1.DeleteMessagesRequest) (*adminv1.DeleteMessagesResponse, error) {
	return &adminv1.DeleteMessagesResponse{Changes: []*adminv1.Change{{Reason: service.Actor(ctx)}}}, nil
}

func (owner) GetContent(_ *adminv1.GetContentRequest, s grpc.ServerStreamingServer[adminv1.GetContentResponse]) error {
	return s.Send(&adminv1.GetContentResponse{Chunk: []byte(service.Actor(s.Context()))})
}

func (owner) SetPassword(context.Context, *adminv1.SetPasswordRequest) (*adminv1.SetPasswordResponse, error) {
	return nil, status.Error(codes.NotFound, "there is no user alice")
}

// logged is a log that can be read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T) (*grpc.ClientConn, *logged) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, log := filepath.Join(dir, SocketName), &logged{}
	s, err := Listen(Options{Socket: socket, Services: Services{Queue: owner{}, Users: owner{}}, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, time.Second) }()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conn, log
}

func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// Who asks is who the kernel says, whatever he says of himself.
func TestActor(t *testing.T) {
	conn, _ := start(t)
	c, ctx := adminv1.NewQueueServiceClient(conn), service.WithActor(t.Context(), "somebody-else")
	if r, err := c.ListMessages(ctx, &adminv1.ListMessagesRequest{}); err != nil || r.GetNextPageToken() != me(t) {
		t.Errorf("unary: %q, %v", r.GetNextPageToken(), err)
	}
	s, err := c.GetContent(ctx, &adminv1.GetContentRequest{Id: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := s.Recv(); err != nil || string(r.GetChunk()) != me(t) {
		t.Errorf("stream: %q, %v", r.GetChunk(), err)
	}
}

// Changes, and mail that was given out, are on record; looking is not, and no password ever.
func TestRecord(t *testing.T) {
	conn, log := start(t)
	queue, users, ctx := adminv1.NewQueueServiceClient(conn), adminv1.NewUserServiceClient(conn), t.Context()
	if _, err := queue.ListMessages(ctx, &adminv1.ListMessagesRequest{}); err != nil {
		t.Fatal(err)
	}
	if log.String() != "" {
		t.Errorf("looking is on record: %s", log)
	}
	if _, err := queue.DeleteMessages(ctx, &adminv1.DeleteMessagesRequest{Filter: &adminv1.Filter{Ids: []string{"the-id"}}, Reason: strings.Repeat("long ", 1000)}); err != nil {
		t.Fatal(err)
	}
	if _, err := users.SetPassword(ctx, &adminv1.SetPasswordRequest{Name: "alice", Password: "s3cret-pass"}); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	s, err := queue.GetContent(ctx, &adminv1.GetContentRequest{Id: "shown-id"})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = s.Recv()
	}
	var lines []string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if lines = strings.Split(strings.TrimSpace(log.String()), "\n"); len(lines) == 3 {
			break
		}
	}
	if len(lines) != 3 {
		t.Fatalf("%d lines:\n%s", len(lines), log)
	}
	for i, want := range [][]string{
		{"msg=admin", "by=" + me(t), "method=DeleteMessages", "the-id", "code=OK"},
		{"method=SetPassword", "alice", "code=NotFound", "there is no user alice"},
		{"method=GetContent", "shown-id", "code=OK"},
	} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("%q is not in %s", w, lines[i])
			}
		}
	}
	if strings.Contains(log.String(), "s3cret") {
		t.Errorf("a password is on record: %s", log)
	}
	if len(lines[0]) > 2*maxRequest {
		t.Errorf("a request of %d bytes is on record", len(lines[0]))
	}
}

// Every method of the contract is told apart: what is not known to look is recorded.
func TestRecorded(t *testing.T) {
	for _, d := range []grpc.ServiceDesc{adminv1.QueueService_ServiceDesc, adminv1.RouteService_ServiceDesc, adminv1.UserService_ServiceDesc, adminv1.DkimService_ServiceDesc, adminv1.ConfigService_ServiceDesc} {
		for _, m := range d.Methods {
			looks := strings.HasPrefix(m.MethodName, "Get") || strings.HasPrefix(m.MethodName, "List")
			if recorded("/"+d.ServiceName+"/"+m.MethodName) == looks {
				t.Errorf("%s/%s: recorded %v", d.ServiceName, m.MethodName, !looks)
			}
		}
	}
	if recorded("/grpc.health.v1.Health/Check") {
		t.Error("a health check is recorded")
	}
}

// Only the owner and root get a connection.
func TestPeer(t *testing.T) {
	for _, c := range []struct {
		uid uint32
		ok  bool
	}{{1000, true}, {0, true}, {1001, false}} {
		creds := &peerCredentials{owner: 1000, ask: func(net.Conn) (peer, error) { return peer{uid: c.uid}, nil }}
		if _, _, err := creds.ServerHandshake(nil); (err == nil) != c.ok {
			t.Errorf("uid %d: %v", c.uid, err)
		}
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, err := newPeerCredentials().ServerHandshake(a); err == nil {
		t.Error("a connection of an unknown peer was taken")
	}
}

// Nobody else can even connect, and a part that is not there says so.
func TestSocket(t *testing.T) {
	conn, _ := start(t)
	path := strings.TrimPrefix(conn.Target(), "unix:")
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := adminv1.NewArchiveServiceClient(conn).ListArchived(t.Context(), &adminv1.ListArchivedRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a part that is not there: %v", err)
	}
}
