package admin

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/services/admin/internal/fleet"
)

// owner is the services behind admin. They tell who asked, and remember what was changed.
type owner struct {
	adminv1.UnimplementedQueueServiceServer
	adminv1.UnimplementedUserServiceServer
	adminv1.UnimplementedTraceServiceServer
	adminv1.UnimplementedEventServiceServer
	adminv1.UnimplementedPreviewServiceServer
	deleted  atomic.Int64
	before   func(context.Context) // DeleteMessages is carried out
	deadline atomic.Int64          // of the last ListMessages, from now
	tail     chan *adminv1.TailEventsResponse
}

func newOwner() *owner {
	return &owner{before: func(context.Context) {}, tail: make(chan *adminv1.TailEventsResponse)}
}

func (o *owner) services() Services {
	return Services{Queue: o, Users: o, Trace: o, Events: o, Preview: o, Routes: adminv1.UnimplementedRouteServiceServer{}, Status: adminv1.UnimplementedStatusServiceServer{},
		Archive: adminv1.UnimplementedArchiveServiceServer{}, Dkim: adminv1.UnimplementedDkimServiceServer{}, Config: adminv1.UnimplementedConfigServiceServer{},
		Nodes: adminv1.UnimplementedNodeServiceServer{}, Counted: adminv1.UnimplementedStatisticsServiceServer{}, Grants: adminv1.UnimplementedGrantServiceServer{}}
}

func (o *owner) ListMessages(ctx context.Context, _ *adminv1.ListMessagesRequest) (*adminv1.ListMessagesResponse, error) {
	if at, ok := ctx.Deadline(); ok {
		o.deadline.Store(int64(time.Until(at)))
	}
	if len(metadata.ValueFromIncomingContext(ctx, "authorization")) > 0 {
		return nil, status.Error(codes.Internal, "the token came through")
	}
	_ = grpc.SetTrailer(ctx, metadata.Pairs(fleet.Missing, "ingress@192.0.2.9: does not answer"))
	return &adminv1.ListMessagesResponse{NextPageToken: service.Actor(ctx)}, nil
}

func (o *owner) DeleteMessages(ctx context.Context, r *adminv1.DeleteMessagesRequest) (*adminv1.DeleteMessagesResponse, error) {
	o.before(ctx)
	n := o.deleted.Add(1)
	if r.GetReason() == "fails" {
		return nil, status.Error(codes.FailedPrecondition, "it fails")
	}
	return &adminv1.DeleteMessagesResponse{Changes: []*adminv1.Change{{Id: strconv.FormatInt(n, 10), Reason: service.Actor(ctx)}}}, nil
}

func (o *owner) RetryMessages(context.Context, *adminv1.RetryMessagesRequest) (*adminv1.RetryMessagesResponse, error) {
	return &adminv1.RetryMessagesResponse{NextPageToken: strings.Repeat("x", maxAnswer+1)}, nil
}

func (o *owner) GetContent(r *adminv1.GetContentRequest, s grpc.ServerStreamingServer[adminv1.GetContentResponse]) error {
	if err := s.Send(&adminv1.GetContentResponse{Chunk: []byte(service.Actor(s.Context()))}); err != nil {
		return err
	}
	if r.GetId() == "broken" {
		return status.Error(codes.DataLoss, "the rest is gone")
	}
	return s.Send(&adminv1.GetContentResponse{Chunk: []byte("more")})
}

func (o *owner) GetTrace(context.Context, *adminv1.GetTraceRequest) (*adminv1.GetTraceResponse, error) {
	hop := &adminv1.HopStep{Report: &relayv1.HopReport{Edits: &stagev1.Edits{Splices: []*stagev1.Splice{{Offset: 5, Insert: []byte("secret")}}}},
		Diff: &adminv1.Diff{Hunks: []*adminv1.Hunk{{Offset: 7, Removed: []byte("secret"), Inserted: []byte("secret"), Before: []byte("secret"), After: []byte("secret")}}}}
	return &adminv1.GetTraceResponse{Trace: &adminv1.Trace{Subject: "hello", Events: []*adminv1.TraceEvent{{Hops: []*adminv1.HopStep{hop}}}}}, nil
}

func (o *owner) TailEvents(_ *adminv1.TailEventsRequest, s grpc.ServerStreamingServer[adminv1.TailEventsResponse]) error {
	for {
		select {
		case e := <-o.tail:
			if err := s.Send(e); err != nil {
				return err
			}
		case <-s.Context().Done():
			return status.FromContextError(s.Context().Err()).Err()
		}
	}
}

func (o *owner) Preview(s grpc.BidiStreamingServer[adminv1.PreviewRequest, adminv1.PreviewResponse]) error {
	for {
		r, err := s.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&adminv1.PreviewResponse{Kind: &adminv1.PreviewResponse_Chunk{Chunk: r.GetChunk()}}); err != nil {
			return err
		}
	}
}

func (o *owner) SetPassword(context.Context, *adminv1.SetPasswordRequest) (*adminv1.SetPasswordResponse, error) {
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

func (l *logged) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T) (*grpc.ClientConn, *logged) {
	t.Helper()
	d := open(t)
	conn := local(t, d.socket)
	wait(t, "the port is open", func() bool { return strings.Contains(d.log.String(), "listening") })
	d.log.reset()
	return conn, d.log
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
