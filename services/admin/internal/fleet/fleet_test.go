package fleet

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Pages of several ingresses are one list in the order of ids, whole, whatever the size of the pages.
func TestListMessages(t *testing.T) {
	t.Parallel()
	one, two := &fake{messages: []string{"a", "d", "e", "h"}, page: 2}, &fake{messages: []string{"b", "c", "d", "f", "g", "i"}}
	f := install(t, map[string][]*fake{ingress: {one, two, nil}})
	for _, size := range []uint32{1, 2, 3, 100} {
		client := adminv1.NewQueueServiceClient(api(t, f.Fleet))
		var got []string
		for token, pages := "", 0; ; pages++ {
			var md metadata.MD
			resp, err := client.ListMessages(t.Context(), &adminv1.ListMessagesRequest{PageSize: size, PageToken: token}, grpc.Trailer(&md))
			if err != nil || pages > 20 || len(resp.GetMessages()) > int(size) {
				t.Fatalf("%v, %v", resp, err)
			}
			if gone := trailer(md); !strings.HasPrefix(gone, "ingress@127.0.0.3:") || !strings.Contains(gone, "connection refused") {
				t.Errorf("missing: %q", gone)
			}
			for _, m := range resp.GetMessages() {
				got = append(got, m.GetId())
			}
			if token = resp.GetNextPageToken(); token == "" {
				break
			}
		}
		if strings.Join(got, "") != "abcdefghi" {
			t.Errorf("pages of %d: %v", size, got)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	f := install(t, map[string][]*fake{ingress: {nil, nil}})
	_, err := adminv1.NewQueueServiceClient(api(t, f.Fleet)).ListMessages(t.Context(), &adminv1.ListMessagesRequest{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "ingress@127.0.0.") {
		t.Errorf("%v", err)
	}
	if _, err := adminv1.NewDkimServiceClient(api(t, f.Fleet)).ListDkimKeys(t.Context(), &adminv1.ListDkimKeysRequest{}); status.Code(err) != codes.NotFound {
		t.Errorf("without a signer: %v", err)
	}
}

// A message is found where it waits; where one ingress does not answer, nobody can say that it does not wait.
func TestGetMessage(t *testing.T) {
	t.Parallel()
	two := &fake{messages: []string{"b"}, node: &adminv1.Node{Instance: "two"}}
	f := install(t, map[string][]*fake{ingress: {{messages: []string{"a"}}, two}})
	client := adminv1.NewQueueServiceClient(api(t, f.Fleet))
	if m, err := client.GetMessage(t.Context(), &adminv1.GetMessageRequest{Id: "b"}); err != nil || m.GetMessage().GetShard() != "two" {
		t.Errorf("%v, %v", m, err)
	}
	content, err := client.GetContent(t.Context(), &adminv1.GetContentRequest{Id: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := content.Recv(); err != nil || string(c.GetChunk()) != "b" {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := content.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	get := func(client adminv1.QueueServiceClient, want codes.Code) {
		t.Helper()
		if _, err := client.GetMessage(t.Context(), &adminv1.GetMessageRequest{Id: "c"}); status.Code(err) != want {
			t.Errorf("%v", err)
		}
		s, err := client.GetContent(t.Context(), &adminv1.GetContentRequest{Id: "c"})
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != want {
			t.Errorf("content: %v", err)
		}
	}
	get(client, codes.NotFound)
	get(adminv1.NewQueueServiceClient(api(t, install(t, map[string][]*fake{ingress: {{}, nil}}).Fleet)), codes.Unavailable)
}

// Each ingress changes what it has, in the name of the person; what one cannot do is said, and what was done is too.
func TestChanges(t *testing.T) {
	t.Parallel()
	one, two := &fake{messages: []string{"a", "c", "xe"}, most: 1, refuses: "x"}, &fake{messages: []string{"b", "d"}}
	f := install(t, map[string][]*fake{ingress: {two, one}})
	as := service.AsActor(t.Context(), "alice")
	var got []string
	for token, pages := "", 0; ; pages++ {
		resp, err := f.Queue().ReleaseMessages(as, &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Rooms: []string{"dead"}}, PageToken: token})
		if err != nil || pages > 5 {
			t.Fatalf("%v, %v", resp, err)
		}
		for _, c := range resp.GetChanges() {
			got = append(got, c.GetId()+c.GetReason())
		}
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	if want := []string{"a", "b", "d", "c", "xeit is not held"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if !slices.Equal(one.changed, []string{"a by alice", "c by alice"}) || !slices.Equal(two.changed, []string{"b by alice", "d by alice"}) {
		t.Errorf("%v, %v", one.changed, two.changed)
	}
	one.most = 0
	resp, err := f.Queue().ReleaseMessages(as, &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Ids: []string{"b", "q", "xe"}}})
	if c := resp.GetChanges(); err != nil || len(c) != 3 || c[0].GetRecipients() != 1 || !c[1].GetAbsent() || c[2].GetReason() != "it is not held" {
		t.Errorf("%v, %v", resp, err)
	}
	if _, err := f.Queue().ReleaseMessages(as, &adminv1.ReleaseMessagesRequest{PageToken: "x"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("%v", err)
	}

	half := install(t, map[string][]*fake{ingress: {{messages: []string{"a"}}, nil}})
	resp, err = half.Queue().ReleaseMessages(as, &adminv1.ReleaseMessagesRequest{Filter: &adminv1.Filter{Ids: []string{"a", "b"}}})
	if c := resp.GetChanges(); err != nil || len(c) != 2 || c[0].GetRecipients() != 1 || c[1].GetAbsent() || !strings.Contains(c[1].GetReason(), "ingress@127.0.0.2:") {
		t.Errorf("%v, %v", resp, err)
	}
}

// One that answers is enough; what changes something is not tried a second time.
func TestAny(t *testing.T) {
	t.Parallel()
	drained, broken, well := &fake{}, &fake{traces: status.Error(codes.Unavailable, "NATS is away")}, &fake{node: &adminv1.Node{Instance: "well"}}
	f := install(t, map[string][]*fake{ingress: {nil, broken, well}})
	if r, err := f.Trace().GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: "a"}); err != nil || r.GetTrace().GetSubject() != "well" {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := f.Users().AddUser(t.Context(), &adminv1.AddUserRequest{Name: "bob"}); status.Code(err) != codes.Unavailable || len(broken.users) != 1 || len(well.users) != 0 {
		t.Errorf("%v: %v, %v", err, broken.users, well.users)
	}
	f = install(t, map[string][]*fake{ingress: {drained, well}})
	drained.health.Shutdown() // it says that it does not serve
	if r, err := f.Trace().GetTrace(t.Context(), &adminv1.GetTraceRequest{Id: "a"}); err != nil || r.GetTrace().GetSubject() != "well" {
		t.Errorf("%v, %v", r, err)
	}
	stream, err := adminv1.NewPreviewServiceClient(api(t, f.Fleet)).Preview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*adminv1.PreviewRequest{{Kind: &adminv1.PreviewRequest_Chunk{Chunk: make([]byte, 3)}}, {Kind: &adminv1.PreviewRequest_End{End: &stagev1.End{}}}} {
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := stream.Recv(); err != nil || r.GetOutcome().GetSize() != 3 {
		t.Errorf("%v, %v", r, err)
	}
}

func TestNodes(t *testing.T) {
	t.Parallel()
	one, two, sole := &fake{}, &fake{}, &fake{}
	f := install(t, map[string][]*fake{ingress: {one, two, nil}, signer: {sole}})
	self := service.NodeService(service.NodeOptions{Service: admin, Instance: "here", Revision: func() string { return "rev" }})
	f.o.Self = self
	nodes := f.Nodes()
	list, err := nodes.ListNodes(t.Context(), &adminv1.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range list.GetNodes() {
		state := ""
		if n.GetUnreachable() != "" {
			state = " gone"
		}
		names = append(names, n.GetName()+state)
	}
	name := func(of, host string) string { return of + "@" + host + ":" + f.ports[of] }
	if want := []string{name(ingress, "127.0.0.1"), name(ingress, "127.0.0.2"), name(ingress, "127.0.0.3") + " gone", name(signer, "127.0.0.1"), "admin@here"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	if list, err := nodes.ListNodes(t.Context(), &adminv1.ListNodesRequest{Service: signer}); err != nil || len(list.GetNodes()) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	drain := func(who string, drain, force bool, want codes.Code) {
		t.Helper()
		r, err := nodes.DrainNode(t.Context(), &adminv1.DrainNodeRequest{Node: who, Drain: drain, Force: force})
		if status.Code(err) != want || err == nil && (r.GetNode().GetName() != who || r.GetNode().GetDraining() != drain) {
			t.Errorf("%v, %v", r, err)
		}
	}
	drain(name(signer, "127.0.0.1"), true, false, codes.FailedPrecondition)
	drain(name(signer, "127.0.0.1"), true, true, codes.OK)
	drain(name(ingress, "127.0.0.1"), true, false, codes.OK)
	drain(name(ingress, "127.0.0.2"), true, false, codes.FailedPrecondition) // the third is not there
	drain(name(ingress, "127.0.0.1"), false, false, codes.OK)
	drain(name(ingress, "127.0.0.2"), true, false, codes.OK)
	drain(name(ingress, "127.0.0.3"), true, true, codes.Unavailable)
	drain("ingress@nowhere", true, true, codes.NotFound)
	drain("", true, true, codes.InvalidArgument)
	drain("admin@here", true, true, codes.FailedPrecondition)

	stream, err := adminv1.NewNodeServiceClient(api(t, f.Fleet)).GetProfile(t.Context(), &adminv1.GetProfileRequest{Node: name(signer, "127.0.0.1"), Kind: "heap"})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for {
		r, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
		got += string(r.GetChunk())
	}
	if got != "heapheapheap" {
		t.Errorf("%q", got)
	}
}

// A change is taken up by all; who lags or refuses is named.
func TestTakeUp(t *testing.T) {
	t.Parallel()
	follower, other, refuser := &fake{file: "new"}, &fake{node: &adminv1.Node{Revision: "rev", FileRevision: "theirs"}}, &fake{node: &adminv1.Node{Revision: "rev", FileRevision: "new", Refused: "line 7"}}
	f := install(t, map[string][]*fake{ingress: {follower}, egress: {{file: "new"}}})
	if err := f.TakeUp(t.Context(), "new"); err != nil {
		t.Error(err)
	}
	if got := f.InForce(t.Context(), "new"); got != "new" || !f.Has(t.Context(), "new") || f.Has(t.Context(), "rev") {
		t.Errorf("in force: %s", got)
	}
	f = install(t, map[string][]*fake{ingress: {follower, refuser, nil}, egress: {other}})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := f.TakeUp(ctx, "new")
	for _, want := range []string{"ingress@127.0.0.2:" + f.ports[ingress] + " refuses it: line 7", "ingress@127.0.0.3:" + f.ports[ingress] + " does not answer", "egress@127.0.0.1:" + f.ports[egress] + " reads another file, revision theirs"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	if got := f.InForce(t.Context(), "new"); got != "rev" || f.Has(t.Context(), "new") {
		t.Errorf("in force: %s", got)
	}
	if err := f.Refused(t.Context()); err == nil || !strings.Contains(err.Error(), "line 7") {
		t.Errorf("%v", err)
	}
}

func problemsOf(s *adminv1.GetStatusResponse) string {
	var out []string
	for _, p := range s.GetProblems() {
		word := "warning "
		if p.GetSeverity() == adminv1.Severity_SEVERITY_CRITICAL {
			word = "critical "
		}
		out = append(out, word+p.GetText())
	}
	return strings.Join(out, "\n")
}

func TestStatus(t *testing.T) {
	t.Parallel()
	same := &adminv1.Problem{Severity: adminv1.Severity_SEVERITY_WARNING, Text: "started with --hold"}
	state := func(shard string, n uint64, own string) *adminv1.GetStatusResponse {
		return &adminv1.GetStatusResponse{Hostname: "relay", Started: in(-time.Hour), Revision: "rev", Running: n, Shards: []*adminv1.Shard{{Name: shard}},
			Rooms:     []*adminv1.Room{{Name: "park", Messages: n, Recipients: n, Bytes: n, Oldest: in(-time.Duration(n) * time.Minute)}},
			Barriers:  []*adminv1.Barrier{{Kind: "route", Name: "provider", Since: in(-time.Duration(n) * time.Minute), Waiting: n}, {Kind: "destination", Name: shard + ".example", Waiting: n}},
			Listeners: []*adminv1.Listener{{Name: "mx", Address: ":25"}}, Durability: "sync", Problems: []*adminv1.Problem{same, {Severity: adminv1.Severity_SEVERITY_CRITICAL, Text: own}}}
	}
	one, two := &fake{status: state("one", 2, "full")}, &fake{status: state("two", 3, "lost"), node: &adminv1.Node{Revision: "old", FileRevision: "rev", Refused: "line 1\nx", CertificateEnds: in(24 * time.Hour)}}
	f := install(t, map[string][]*fake{ingress: {one, two, nil}, egress: {nil}, signer: {{node: &adminv1.Node{Revision: "rev", Draining: true}}}})
	s, err := f.Status().GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.GetShards()) != 2 || s.GetRunning() != 5 || len(s.GetRooms()) != 1 || s.GetRooms()[0].GetMessages() != 5 || time.Since(s.GetRooms()[0].GetOldest().AsTime()) < 3*time.Minute ||
		len(s.GetBarriers()) != 3 || s.GetBarriers()[0].GetWaiting() != 5 || s.GetBarriers()[1].GetName() != "two.example" || len(s.GetListeners()) != 1 || s.GetDurability() != "sync" {
		t.Errorf("%v", s)
	}
	got := problemsOf(s)
	for _, want := range []string{
		"critical ingress@127.0.0.1:" + f.ports[ingress] + ": full", "critical ingress@127.0.0.2:" + f.ports[ingress] + ": lost", "warning started with --hold",
		"warning ingress@127.0.0.3:" + f.ports[ingress] + " does not answer", "critical egress@127.0.0.1:" + f.ports[egress] + " does not answer",
		"critical signer@127.0.0.1:" + f.ports[signer] + " is out of service", "refuses the configuration file and runs revision old: line 1\n", "critical the certificate of ingress@127.0.0.2",
		"run different revisions of the configuration: old at ingress@127.0.0.2:" + f.ports[ingress] + "; rev at ",
	} {
		if !strings.Contains(got+"\n", want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Count(got, "--hold") != 1 {
		t.Errorf("said twice:\n%s", got)
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	f := install(t, map[string][]*fake{ingress: {
		{routes: []*adminv1.RouteState{{Name: "b", Kind: "mx", Waiting: 2, Chains: []string{"x"}}, {Name: "a"}}},
		{routes: []*adminv1.RouteState{{Name: "b", Kind: "mx", Waiting: 3, Down: "refused", Chains: []string{"x", "y"}}}},
	}})
	r, err := f.Routes().ListRoutes(t.Context(), &adminv1.ListRoutesRequest{})
	if l := r.GetRoutes(); err != nil || len(l) != 2 || l[0].GetName() != "a" || l[1].GetWaiting() != 5 || l[1].GetDown() != "refused" || len(l[1].GetChains()) != 2 {
		t.Errorf("%v, %v", r, err)
	}
	p, err := f.Routes().PauseRoute(service.AsActor(t.Context(), "alice"), &adminv1.PauseRouteRequest{Name: "b"})
	if got := p.GetRoute(); err != nil || got.GetPause().GetBy() != "alice" || got.GetWaiting() != 5 {
		t.Errorf("%v, %v", p, err)
	}
}

func TestStatistics(t *testing.T) {
	t.Parallel()
	ms := func(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }
	latency := func(n uint64, most ...int) *adminv1.Latency {
		l := &adminv1.Latency{Count: n, Total: ms(int(n))}
		for _, m := range most {
			l.Buckets = append(l.Buckets, &adminv1.LatencyBucket{Most: ms(m), Count: n})
		}
		l.Buckets = append(l.Buckets, &adminv1.LatencyBucket{Count: n})
		return l
	}
	to := &adminv1.GetStatisticsResponse{}
	addStatistics(to, &adminv1.GetStatisticsResponse{Since: in(-time.Hour), Accepted: 1, Stages: []*adminv1.StageStatistics{{Name: "a", Failed: 1, Latency: latency(1, 5, 10)}}, Chains: []*adminv1.ChainStatistics{{Name: "c", Held: 1}}, Latency: latency(1, 5)})
	addStatistics(to, &adminv1.GetStatisticsResponse{Since: in(-time.Minute), Accepted: 2, Stages: []*adminv1.StageStatistics{{Name: "b"}, {Name: "a", Failed: 2, Latency: latency(2, 5, 20)}}, Chains: []*adminv1.ChainStatistics{{Name: "c", Held: 2}}, Latency: latency(2, 5)})
	a := to.GetStages()[0]
	if to.GetAccepted() != 3 || time.Since(to.GetSince().AsTime()) > 2*time.Minute || len(to.GetStages()) != 2 || a.GetFailed() != 3 || to.GetChains()[0].GetHeld() != 3 || to.GetLatency().GetCount() != 3 {
		t.Errorf("%v", to)
	}
	var buckets []uint64
	for _, b := range a.GetLatency().GetBuckets() {
		buckets = append(buckets, b.GetCount())
	}
	if !slices.Equal(buckets, []uint64{3, 1, 2, 3}) || a.GetLatency().GetBuckets()[3].GetMost() != nil {
		t.Errorf("%v", a.GetLatency())
	}
}

// Events of all ingresses come in one stream, which says whose are missing.
func TestTail(t *testing.T) {
	t.Parallel()
	one, two := &fake{}, &fake{}
	f := install(t, map[string][]*fake{ingress: {one, two, nil}})
	client := adminv1.NewEventServiceClient(api(t, f.Fleet))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := client.TailEvents(ctx, &adminv1.TailEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := stream.Recv()
	if err != nil || gone.GetId() != "" || !strings.HasPrefix(gone.GetEvent().GetText(), "ingress@127.0.0.3:") {
		t.Errorf("%v, %v", gone, err)
	}
	for id, from := range map[string]*fake{"a": one, "b": two} {
		from.events <- &adminv1.TailEventsResponse{Id: id}
		if e, err := stream.Recv(); err != nil || e.GetId() != id {
			t.Errorf("%v, %v", e, err)
		}
	}
	bad, err := client.TailEvents(ctx, &adminv1.TailEventsRequest{Address: "bad"})
	if err == nil {
		for err == nil { // that one is missing may be told first
			_, err = bad.Recv()
		}
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("%v", err)
	}
}

// Every method of the API that belongs to a service is passed on: none is forgotten when one is added.
func TestEveryMethod(t *testing.T) {
	t.Parallel()
	f := install(t, map[string][]*fake{})
	s := grpc.NewServer()
	serveAll(s, f.Fleet)
	conn := serving(t, s)
	n := 0
	for name, info := range s.GetServiceInfo() {
		for _, m := range info.Methods {
			n++
			method := "/" + name + "/" + m.Name
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: m.IsClientStream, ServerStreams: m.IsServerStream}, method)
			if err == nil {
				if err = stream.SendMsg(&emptypb.Empty{}); err == nil {
					err = stream.CloseSend()
				}
			}
			if err == nil {
				err = stream.RecvMsg(&emptypb.Empty{})
			}
			if status.Code(err) == codes.Unimplemented {
				t.Errorf("%s: %v", method, err)
			}
			cancel()
		}
	}
	if n < 30 {
		t.Errorf("only %d methods", n)
	}
}
