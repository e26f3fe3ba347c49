package admin

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func deletion(reason string) *adminv1.DeleteMessagesRequest {
	return &adminv1.DeleteMessagesRequest{Filter: &adminv1.Filter{Ids: []string{"the-id"}}, Reason: reason}
}

// A change is on stable record before it is carried out, and its outcome after; looking leaves nothing.
func TestAudit(t *testing.T) {
	t.Parallel()
	d := open(t)
	conn := d.dial(t, "", d.ca.person(t, "olga"))
	queue := adminv1.NewQueueServiceClient(conn)
	access := adminv1.NewAccessServiceClient(d.dial(t, aliceToken))
	list := func(r *adminv1.ListAuditRequest) []*adminv1.AuditEntry {
		t.Helper()
		resp, err := access.ListAudit(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetEntries()
	}
	var during []*adminv1.AuditEntry
	d.owner.before = func(context.Context) {
		during = list(&adminv1.ListAuditRequest{})
	}
	if _, err := queue.ListMessages(t.Context(), &adminv1.ListMessagesRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.DeleteMessages(t.Context(), deletion("spam")); err != nil {
		t.Fatal(err)
	}
	if len(during) != 1 || during[0].GetCode() != "BEGUN" || during[0].GetBy() != "olga" || during[0].GetMethod() != "QueueService/DeleteMessages" || !strings.Contains(during[0].GetRequest(), "the-id") {
		t.Errorf("while it was carried out: %v", during)
	}
	if _, err := queue.DeleteMessages(t.Context(), deletion("fails")); status.Code(err) != codes.FailedPrecondition {
		t.Fatal(err)
	}
	users := adminv1.NewUserServiceClient(local(t, d.socket))
	if _, err := users.SetPassword(t.Context(), &adminv1.SetPasswordRequest{Name: "bob", Password: "s3cret-pass"}); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	if _, body := d.ask(t, d.browser(), http.MethodPost, queuePath+"GetContent", `{"id":"shown"}`, nil); !strings.Contains(body, "chunk") {
		t.Fatal(body)
	}
	if _, body := d.ask(t, d.browser(), http.MethodPost, queuePath+"DeleteMessages", `{}`, map[string]string{"Authorization": "Bearer t-victor"}); !strings.Contains(body, "PERMISSION_DENIED") {
		t.Fatal(body)
	}
	all := list(&adminv1.ListAuditRequest{})
	if len(all) != 4 {
		t.Fatalf("%d entries: %v", len(all), all)
	}
	for i, want := range []*adminv1.AuditEntry{
		{By: "alice", Role: admins, Method: "QueueService/GetContent", Request: `"shown"`, Code: "OK"},
		{By: me(t), Role: admins, Method: "UserService/SetPassword", Request: `"bob"`, Code: "NOT_FOUND", Error: "there is no user alice"},
		{By: "olga", Role: operator, Method: "QueueService/DeleteMessages", Request: `"fails"`, Code: "FAILED_PRECONDITION", Error: "it fails"},
		{By: "olga", Role: operator, Method: "QueueService/DeleteMessages", Request: `"spam"`, Code: "OK"},
	} {
		e := all[i]
		if e.GetBy() != want.GetBy() || e.GetRole() != want.GetRole() || e.GetMethod() != want.GetMethod() || !strings.Contains(e.GetRequest(), want.GetRequest()) ||
			e.GetCode() != want.GetCode() || e.GetError() != want.GetError() || e.GetTook() == nil || e.GetSequence() == 0 || time.Since(e.GetAt().AsTime()) > time.Minute {
			t.Errorf("%d: %v", i, e)
		}
		if local := want.GetBy() == me(t); (e.GetFrom() == "") != local {
			t.Errorf("%d came from %q", i, e.GetFrom())
		}
		if strings.Contains(e.GetRequest(), "s3cret") {
			t.Errorf("a password is on record: %s", e.GetRequest())
		}
	}
	for what, r := range map[string]*adminv1.ListAuditRequest{
		"by": {By: "olga"}, "method": {Method: "deletemessages"}, "whole method": {Method: "QueueService/DeleteMessages"}, "until": {Until: all[1].GetAt()}, "last": {Since: all[1].GetAt()},
	} {
		if got := list(r); len(got) != 2 {
			t.Errorf("%s: %v", what, got)
		}
	}
	if got := list(&adminv1.ListAuditRequest{Since: timestamppb.New(time.Now().Add(time.Hour))}); len(got) != 0 {
		t.Errorf("from tomorrow: %v", got)
	}
}

// Pages meet without a gap or a double, also where calls overlap.
func TestAuditPages(t *testing.T) {
	t.Parallel()
	_, nc := natsServer(t)
	a := &audit{conn: nc, replicas: func() int { return 1 }}
	add := func(name string, begun uint64) uint64 {
		e := &adminv1.AuditEntry{At: timestamppb.Now(), By: name, Code: "OK"}
		if begun == 0 {
			e.Code = codeBegun
		}
		seq, err := a.append(t.Context(), e, begun)
		if err != nil {
			t.Fatal(err)
		}
		return seq
	}
	long := add("long", 0)
	open := add("never ended", 0)
	for i := range 100 {
		add(strconv.Itoa(i), add(strconv.Itoa(i), 0))
	}
	add("long", long)
	for _, size := range []int{1, 7, 100, 1000} {
		var names []string
		for p, pages := (auditPlace{}), 0; ; pages++ {
			entries, next, err := a.list(t.Context(), auditFilter{}, p, size)
			if err != nil || len(entries) > size || pages > 200 {
				t.Fatalf("%d entries, page %d, %v", len(entries), pages, err)
			}
			for _, e := range entries {
				names = append(names, e.GetBy()+" "+e.GetCode())
			}
			if next == "" {
				break
			}
			if p, err = parsePlace(next); err != nil {
				t.Fatal(err)
			}
		}
		if len(names) != 102 || names[0] != "long OK" || names[1] != "99 OK" || names[100] != "0 OK" || names[101] != "never ended BEGUN" {
			t.Errorf("pages of %d: %d entries, %v (open is %d)", size, len(names), names, open)
		}
	}
	for _, bad := range []string{"x", "1.x", "-1", "1..2", strings.Repeat("1.", 300) + "1"} {
		if _, err := parsePlace(bad); err == nil {
			t.Errorf("the token %.20s was taken", bad)
		}
	}
}

// Nobody takes entries away, and the stream is bounded.
func TestAuditStays(t *testing.T) {
	t.Parallel()
	_, nc := natsServer(t)
	a := &audit{conn: nc, replicas: func() int { return 1 }}
	if _, err := a.append(t.Context(), &adminv1.AuditEntry{By: "x"}, 0); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "AUDIT")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(t.Context(), 1); err == nil {
		t.Error("an entry was deleted")
	}
	if err := s.Purge(t.Context()); err == nil {
		t.Error("the record was purged")
	}
	c := s.CachedInfo().Config
	if c.MaxAge != 365*24*time.Hour || c.MaxBytes != 256<<20 || c.Storage != jetstream.FileStorage || c.Discard != jetstream.DiscardOld {
		t.Errorf("%+v", c)
	}
	// What another version wrote is not guessed at.
	m := nats.NewMsg(auditSubject)
	m.Header.Set(formatKey, "2")
	if _, err := js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.list(t.Context(), auditFilter{}, auditPlace{}, 10); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("an entry of format 2: %v", err)
	}
}

// What cannot be put on record is not done: neither changed nor shown.
func TestNothingWithoutARecord(t *testing.T) {
	t.Parallel()
	d := open(t)
	queue := adminv1.NewQueueServiceClient(d.dial(t, aliceToken))
	d.ns.Shutdown()
	for what, ctx := range map[string]context.Context{"a change": t.Context(), "with a request id": withID(t, "one")} {
		if _, err := queue.DeleteMessages(ctx, deletion("spam")); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "nothing was done") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := d.owner.deleted.Load(); n != 0 {
		t.Errorf("%d changes were carried out", n)
	}
	s, err := queue.GetContent(t.Context(), &adminv1.GetContentRequest{Id: "x"})
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("mail was shown: %v", err)
	}
	if _, err := queue.ListMessages(t.Context(), &adminv1.ListMessagesRequest{}); err != nil {
		t.Errorf("looking: %v", err)
	}
	if _, err := adminv1.NewAccessServiceClient(d.dial(t, aliceToken)).GetAccess(t.Context(), &adminv1.GetAccessRequest{}); err != nil {
		t.Errorf("looking: %v", err)
	}
}

// The outcome is on record also when the caller has gone.
func TestOutcomeWithoutCaller(t *testing.T) {
	t.Parallel()
	d := open(t)
	queue := adminv1.NewQueueServiceClient(d.dial(t, aliceToken))
	ctx, cancel := context.WithCancel(t.Context())
	d.owner.before = func(ctx context.Context) { cancel(); <-ctx.Done() }
	if _, err := queue.DeleteMessages(ctx, deletion("spam")); status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
	access := adminv1.NewAccessServiceClient(local(t, d.socket))
	wait(t, "the outcome is on record", func() bool {
		r, err := access.ListAudit(t.Context(), &adminv1.ListAuditRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return len(r.GetEntries()) == 1 && r.GetEntries()[0].GetCode() == "OK"
	})
}
