package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func withID(t *testing.T, id string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), service.RequestIDKey, id)
}

// A change with an id is done once, whoever of several admins is asked, over gRPC or HTTP.
func TestRequestIDs(t *testing.T) {
	t.Parallel()
	d := open(t)
	_, second := d.listen(t) // another process
	_ = second
	alice := adminv1.NewQueueServiceClient(d.dial(t, aliceToken))
	delete := func(c adminv1.QueueServiceClient, id, reason string) (string, error) {
		r, err := c.DeleteMessages(withID(t, id), deletion(reason))
		if err != nil {
			return "", err
		}
		return r.GetChanges()[0].GetId(), nil
	}
	for range 3 {
		if n, err := delete(alice, "id-1", "spam"); n != "1" || err != nil {
			t.Errorf("%q, %v", n, err)
		}
	}
	if _, err := delete(alice, "id-1", "another reason"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another request: %v", err)
	}
	if _, err := alice.HoldMessages(withID(t, "id-1"), &adminv1.HoldMessagesRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another method: %v", err)
	}
	if n, err := delete(adminv1.NewQueueServiceClient(d.dial(t, "t-olga")), "id-1", "spam"); n != "2" || err != nil {
		t.Errorf("another person: %q, %v", n, err)
	}
	if n, err := delete(alice, "id-2", "spam"); n != "3" || err != nil {
		t.Errorf("another id: %q, %v", n, err)
	}
	if _, body := d.ask(t, d.browser(), http.MethodPost, queuePath+"DeleteMessages", `{"reason":"spam","filter":{"ids":["the-id"]}}`, map[string]string{"Stagecoach-Request-Id": "id-2"}); !strings.Contains(body, `"id":"3"`) {
		t.Errorf("over HTTP: %s", body)
	}
	// An error is an answer, too.
	for range 2 {
		if _, err := delete(alice, "id-3", "fails"); status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != "it fails" {
			t.Errorf("%v", err)
		}
	}
	if n := d.owner.deleted.Load(); n != 4 {
		t.Errorf("%d deletions", n)
	}
	for _, bad := range []string{"", strings.Repeat("x", 65), "a b", "a.b"} {
		if _, err := delete(alice, bad, "spam"); bad != "" && status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// What only looks needs none, and is not kept.
	if _, err := alice.ListMessages(withID(t, "not an id"), &adminv1.ListMessagesRequest{}); err != nil {
		t.Error(err)
	}
	// An answer that is too large to keep.
	if r, err := alice.RetryMessages(withID(t, "id-4"), &adminv1.RetryMessagesRequest{}); err != nil || len(r.GetNextPageToken()) <= maxAnswer {
		t.Error(err)
	}
	if _, err := alice.RetryMessages(withID(t, "id-4"), &adminv1.RetryMessagesRequest{}); status.Code(err) != codes.AlreadyExists {
		t.Error(err)
	}
}

// While the first call runs the same one is told so, and after a restart the answer is still there.
func TestRequestIDsOfSeveral(t *testing.T) {
	t.Parallel()
	d := open(t)
	_, socket := d.listen(t)
	conns := []*grpc.ClientConn{local(t, d.socket), local(t, socket)}
	entered, go_ := make(chan struct{}), make(chan struct{})
	d.owner.before = func(context.Context) { close(entered); <-go_ }
	type result struct {
		id  string
		err error
	}
	first := make(chan result, 1)
	call := func(conn *grpc.ClientConn) result {
		r, err := adminv1.NewQueueServiceClient(conn).DeleteMessages(withID(t, "one"), deletion("spam"))
		if err != nil {
			return result{err: err}
		}
		return result{r.GetChanges()[0].GetId(), nil}
	}
	go func() { first <- call(conns[0]) }()
	<-entered
	for _, c := range conns {
		if r := call(c); status.Code(r.err) != codes.Aborted {
			t.Errorf("meanwhile: %+v", r)
		}
	}
	close(go_)
	if r := <-first; r.id != "1" {
		t.Errorf("the first: %+v", r)
	}
	if r := call(conns[1]); r.id != "1" || r.err != nil {
		t.Errorf("at another process, after: %+v", r)
	}
}

// What was not begun leaves the id free, and no password can be read or quickly guessed from what is kept.
func TestRequestIDsKeepNoSecrets(t *testing.T) {
	t.Parallel()
	_, nc := natsServer(t)
	r := &requests{conn: nc, replicas: func() int { return 1 }, log: quietLog, now: time.Now}
	info := &grpc.UnaryServerInfo{FullMethod: adminv1.UserService_SetPassword_FullMethodName}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(service.RequestIDKey, "one"))
	req := &adminv1.SetPasswordRequest{Name: "bob", Password: "s3cret-pass"}
	ran := 0
	call := func(answer error) error {
		_, err := r.unary(ctx, req, info, func(context.Context, any) (any, error) {
			ran++
			if answer != nil {
				return nil, answer
			}
			return &adminv1.SetPasswordResponse{}, nil
		})
		return err
	}
	if err := call(notBegunError{status.New(codes.Unavailable, "no record")}); status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	if err := call(nil); err != nil || ran != 2 {
		t.Fatalf("after one that was not begun: %v, ran %d times", err, ran)
	}
	if err := call(nil); err != nil || ran != 2 {
		t.Fatalf("again: %v, ran %d times", err, ran)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), requestsBucket)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := kv.Status(t.Context()); err != nil || st.TTL() != 24*time.Hour {
		t.Errorf("kept for %v, %v", st.TTL(), err)
	}
	keys, err := kv.Keys(t.Context())
	if err != nil || len(keys) != 1 {
		t.Fatalf("%v, %v", keys, err)
	}
	e, err := kv.Get(t.Context(), keys[0])
	if err != nil || strings.Contains(string(e.Value()), "s3cret") || strings.Contains(keys[0], "one") {
		t.Errorf("%s: %s, %v", keys[0], e.Value(), err)
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	quick := sha256.Sum256(data)
	if sum, err := sumOf(req, "one"); err != nil || bytes.Equal(sum, quick[:]) {
		t.Errorf("a request with a password can be guessed quickly: %x, %v", sum, err)
	}
	other, err := sumOf(&adminv1.SetPasswordRequest{Name: "bob", Password: "another"}, "one")
	if sum, _ := sumOf(req, "one"); err != nil || bytes.Equal(sum, other) {
		t.Errorf("another password is the same request: %v", err)
	}
}
