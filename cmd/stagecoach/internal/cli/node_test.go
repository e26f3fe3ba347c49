package cli

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// fakeNodes is an admin that has nodes.
type fakeNodes struct {
	adminv1.UnimplementedNodeServiceServer
	adminv1.UnimplementedQueueServiceServer
	list  *adminv1.ListNodesResponse
	asked proto.Message
	cut   bool // a profile breaks off
}

func (f *fakeNodes) ListNodes(_ context.Context, r *adminv1.ListNodesRequest) (*adminv1.ListNodesResponse, error) {
	f.asked = r
	out := &adminv1.ListNodesResponse{Revision: f.list.GetRevision()}
	for _, n := range f.list.GetNodes() {
		if r.GetService() == "" || r.GetService() == n.GetService() {
			out.Nodes = append(out.Nodes, n)
		}
	}
	return out, nil
}

func (f *fakeNodes) node(name string) (*adminv1.Node, error) {
	for _, n := range f.list.GetNodes() {
		if n.GetName() == name {
			return proto.CloneOf(n), nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "there is no node %q", name)
}

func (f *fakeNodes) ReloadNode(_ context.Context, r *adminv1.ReloadNodeRequest) (*adminv1.ReloadNodeResponse, error) {
	n, err := f.node(r.GetNode())
	return &adminv1.ReloadNodeResponse{Node: n}, err
}

func (f *fakeNodes) DrainNode(_ context.Context, r *adminv1.DrainNodeRequest) (*adminv1.DrainNodeResponse, error) {
	f.asked = r
	n, err := f.node(r.GetNode())
	if err == nil {
		n.Draining = r.GetDrain()
	}
	return &adminv1.DrainNodeResponse{Node: n}, err
}

func (f *fakeNodes) GetProfile(r *adminv1.GetProfileRequest, s grpc.ServerStreamingServer[adminv1.GetProfileResponse]) error {
	f.asked = r
	for range 2 {
		if err := s.Send(&adminv1.GetProfileResponse{Chunk: []byte("part")}); err != nil || f.cut {
			return status.Error(codes.Unavailable, "it ended")
		}
	}
	return nil
}

func (f *fakeNodes) ListMessages(ctx context.Context, _ *adminv1.ListMessagesRequest) (*adminv1.ListMessagesResponse, error) {
	return &adminv1.ListMessagesResponse{}, grpc.SetTrailer(ctx, metadata.Pairs(missingTrailer, "ingress@10.0.0.2:7001: connection refused"))
}

func newFakeNodes(t *testing.T) (*fakeNodes, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	rev, old := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	f := &fakeNodes{list: &adminv1.ListNodesResponse{Revision: rev, Nodes: []*adminv1.Node{
		{Name: "ingress@10.0.0.1:7001", Service: "ingress", Instance: "one", Version: "v1.0.0", Started: before(3 * time.Hour), Revision: rev, FileRevision: rev, Calls: 7},
		{Name: "ingress@10.0.0.2:7001", Service: "ingress", Unreachable: "connection refused\x1b"},
		{Name: "signer@10.0.0.3:7001", Service: "signer", Instance: "s1", Version: "v1.0.0", Started: before(time.Minute), Revision: old, FileRevision: rev, Refused: "stagecoach.yaml:3: no", CertificateEnds: before(-240 * time.Hour), Answered: 0.0021,
			Stages: []*adminv1.NodeStage{{Name: "signer", Type: "signer", Hash: rev, Traits: []string{"reads_body", "seals"}}, {Name: "signer", Type: "signer", Hash: old, Former: true}}},
		{Name: "egress@10.0.0.4:7001", Service: "egress", Instance: "e1", Started: before(time.Minute), Revision: old, FileRevision: old},
		{Name: "egress@10.0.0.5:7001", Service: "egress", Instance: "e2", Started: before(time.Minute), Revision: rev, FileRevision: rev, Draining: true},
	}}}
	s := grpc.NewServer()
	adminv1.RegisterNodeServiceServer(s, f)
	adminv1.RegisterQueueServiceServer(s, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done; _ = os.RemoveAll(dir) })
	return f, socket
}

func TestNodeOutput(t *testing.T) {
	f, socket := newFakeNodes(t)
	for _, c := range []struct {
		name, args string
		code       int
	}{
		{"node-list", "node list", 1},
		{"node-show", "node show signer@10.0.0.3:7001", 0},
		{"node-reload", "node reload signer@10.0.0.3:7001", 1},
		{"node-drain", "node drain ingress@10.0.0.1:7001", 0},
	} {
		for _, how := range []string{"terminal", "pipe"} {
			p := &person{terminal: how == "terminal"}
			if code := p.runs(t, append(strings.Fields(c.args), "--socket", socket)...); code != c.code {
				t.Errorf("%s: exit code %d, not %d: %s", c.name, code, c.code, p.stderr)
			}
			harmlessOnly(t, how, p.stdout)
			golden(t, c.name+"."+how, visible(p.stdout))
		}
	}
	p := &person{}
	if code := p.runs(t, "node", "list", "--json", "--socket", socket); code != 1 {
		t.Error(p.stderr)
	}
	sameDocument(t, p.stdout, f.list)
	for args, want := range map[string]proto.Message{
		"node list egress":                          &adminv1.ListNodesRequest{Service: "egress"},
		"node drain ingress@10.0.0.1:7001 --force":  &adminv1.DrainNodeRequest{Node: "ingress@10.0.0.1:7001", Drain: true, Force: true},
		"node undrain ingress@10.0.0.1:7001":        &adminv1.DrainNodeRequest{Node: "ingress@10.0.0.1:7001"},
		"node profile x cpu --seconds 3 --output -": &adminv1.GetProfileRequest{Node: "x", Kind: "cpu", Seconds: 3},
		"node list ingress":                         &adminv1.ListNodesRequest{Service: "ingress"},
	} {
		p.runs(t, append(strings.Fields(args), "--socket", socket)...)
		if !proto.Equal(f.asked, want) {
			t.Errorf("%s asks %v, not %v", args, f.asked, want)
		}
	}
	for _, args := range []string{"node show nowhere", "node drain nowhere", "node reload nowhere"} {
		if code := p.runs(t, append(strings.Fields(args), "--socket", socket)...); code != ExitFailed || !strings.Contains(p.stderr, "`stagecoach node list`") {
			t.Errorf("%s: %d, %s", args, code, p.stderr)
		}
	}
}

// A profile is written whole, into a file that was not there, or not at all.
func TestNodeProfile(t *testing.T) {
	f, socket := newFakeNodes(t)
	file := filepath.Join(t.TempDir(), "p")
	run := func() int {
		return (&person{}).runs(t, "node", "profile", "x", "heap", "-o", file, "--socket", socket)
	}
	if code := run(); code != 0 {
		t.Fatal(code)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "partpart" {
		t.Errorf("%q, %v", got, err)
	}
	if code := run(); code != ExitFailed {
		t.Errorf("an older file is written over: %d", code)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	f.cut = true
	if code := run(); code != ExitFailed {
		t.Errorf("%d", code)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("half a profile is left: %v", err)
	}
}

// What is missing in a list is said, and the exit code says that it is not all.
func TestMissing(t *testing.T) {
	_, socket := newFakeNodes(t)
	p := &person{}
	if code := p.runs(t, "queue", "list", "--socket", socket); code != ExitPartly || !strings.Contains(p.stderr, "no answer from ingress@10.0.0.2:7001: connection refused") {
		t.Errorf("%d: %s", code, p.stderr)
	}
	harmlessOnly(t, "stderr", p.stderr)
}
