package fleet

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

const (
	// nodeWithin is how soon a process has to say how it is.
	nodeWithin = 3 * time.Second
	// reloadWithin is how long one may take to take up the file: an ingress asks the others first.
	reloadWithin = 13 * time.Second
)

// Nodes shows and operates all processes.
func (f *Fleet) Nodes() adminv1.NodeServiceServer { return &nodes{f: f} }

type nodes struct {
	adminv1.UnimplementedNodeServiceServer
	f *Fleet
}

// ListNodes implements the service.
func (n *nodes) ListNodes(ctx context.Context, r *adminv1.ListNodesRequest) (*adminv1.ListNodesResponse, error) {
	return &adminv1.ListNodesResponse{Nodes: n.f.states(ctx, r.GetService()), Revision: n.f.fileRevision(ctx)}, nil
}

// fileRevision is that of the file as this process reads it.
func (f *Fleet) fileRevision(ctx context.Context) string {
	for _, self := range f.self(ctx, "") {
		return self.GetFileRevision()
	}
	return ""
}

// self is this process.
func (f *Fleet) self(ctx context.Context, of string) []*adminv1.Node {
	if f.o.Self == nil {
		return nil
	}
	resp, err := f.o.Self.ListNodes(ctx, &adminv1.ListNodesRequest{Service: of})
	if err != nil {
		return nil
	}
	for _, node := range resp.GetNodes() {
		node.Name = node.GetService() + "@" + node.GetInstance()
	}
	return resp.GetNodes()
}

// states are all processes of a service, or of all services, as they are now.
func (f *Fleet) states(ctx context.Context, of string) []*adminv1.Node {
	var out []*adminv1.Node
	for _, a := range all(ctx, f.find(ctx, of), nodeWithin, f.state) {
		if a.err != nil {
			a.value = &adminv1.Node{Name: a.from.name(), Service: a.from.service, Unreachable: why(a.err)}
		}
		out = append(out, a.value)
	}
	return append(out, f.self(ctx, of)...)
}

// state asks one process how it is.
func (f *Fleet) state(ctx context.Context, p *process) (*adminv1.Node, error) {
	start := f.now()
	resp, err := adminv1.NewNodeServiceClient(p.conn).ListNodes(ctx, &adminv1.ListNodesRequest{})
	var node *adminv1.Node
	switch {
	case status.Code(err) == codes.Unimplemented && !builtin(p.service):
		if node, err = f.foreign(ctx, p); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case len(resp.GetNodes()) != 1:
		return nil, errors.New("it does not say what it is")
	default:
		node = resp.GetNodes()[0]
	}
	node.Name, node.Service, node.Answered = p.name(), p.service, f.now().Sub(start).Seconds()
	return node, nil
}

func builtin(of string) bool {
	_, ok := config.Builtin()[of]
	return ok || of == ingress || of == egress
}

// foreign is a stage in another language: it says only what it runs.
func (f *Fleet) foreign(ctx context.Context, p *process) (*adminv1.Node, error) {
	d, err := stagev1.NewStageServiceClient(p.conn).Describe(ctx, &stagev1.DescribeRequest{})
	if err != nil {
		return nil, err
	}
	node := &adminv1.Node{Version: d.GetVersion()}
	for _, in := range d.GetInstances() {
		node.Stages = append(node.Stages, &adminv1.NodeStage{Name: in.GetName(), Type: d.GetType(), Hash: in.GetHash()})
	}
	return node, nil
}

// named finds a process by its name; nil and the service for this process itself.
func (f *Fleet) named(ctx context.Context, name string) (*process, adminv1.NodeServiceServer, error) {
	if name == "" {
		return nil, nil, status.Error(codes.InvalidArgument, "name a node: ListNodes gives the names")
	}
	var names []string
	for _, p := range f.find(ctx, "") {
		if p.name() == name {
			if p.err != nil {
				return nil, nil, status.Errorf(codes.Unavailable, "%s: %s", name, why(p.err))
			}
			return p, nil, nil
		}
		names = append(names, p.name())
	}
	for _, self := range f.self(ctx, "") {
		if self.GetName() == name {
			return nil, f.o.Self, nil
		}
		names = append(names, self.GetName())
	}
	return nil, nil, status.Errorf(codes.NotFound, "there is no node %.128q%s", name, config.Suggest(name, names, "nodes"))
}

// ReloadNode implements the service.
func (n *nodes) ReloadNode(ctx context.Context, r *adminv1.ReloadNodeRequest) (*adminv1.ReloadNodeResponse, error) {
	p, self, err := n.f.named(ctx, r.GetNode())
	if err != nil {
		return nil, err
	}
	if self != nil {
		resp, err := self.ReloadNode(ctx, r)
		return resp, rename(resp.GetNode(), r.GetNode(), err)
	}
	ctx, cancel := context.WithTimeout(service.WithActor(ctx, service.Actor(ctx)), reloadWithin)
	defer cancel()
	resp, err := adminv1.NewNodeServiceClient(p.conn).ReloadNode(ctx, r)
	return resp, rename(resp.GetNode(), r.GetNode(), err)
}

// rename gives a node the name that it was asked for by.
func rename(n *adminv1.Node, name string, err error) error {
	if n != nil {
		n.Name = name
	}
	return err
}

// DrainNode implements the service. The last of its place is not taken out of service but by force.
func (n *nodes) DrainNode(ctx context.Context, r *adminv1.DrainNodeRequest) (*adminv1.DrainNodeResponse, error) {
	p, self, err := n.f.named(ctx, r.GetNode())
	if err != nil {
		return nil, err
	}
	if self != nil {
		return nil, status.Error(codes.FailedPrecondition, "admin takes no mail: there is nothing to drain")
	}
	n.f.drains.Lock()
	defer n.f.drains.Unlock()
	if r.GetDrain() && !r.GetForce() && !n.f.others(ctx, p) {
		return nil, status.Errorf(codes.FailedPrecondition, "nobody else serves what %s serves: with force its mail waits until somebody does", p.name())
	}
	ctx, cancel := context.WithTimeout(service.WithActor(ctx, service.Actor(ctx)), nodeWithin)
	defer cancel()
	resp, err := adminv1.NewNodeServiceClient(p.conn).DrainNode(ctx, r)
	return resp, rename(resp.GetNode(), r.GetNode(), err)
}

// others says whether another process of the same place is there and in service.
func (f *Fleet) others(ctx context.Context, but *process) bool {
	beside := slices.DeleteFunc(f.behind(ctx, but.place), func(p *process) bool { return p.at == but.at })
	for _, a := range all(ctx, beside, nodeWithin, f.state) {
		if a.err == nil && !a.value.GetDraining() {
			return true
		}
	}
	return false
}

// GetProfile implements the service.
func (n *nodes) GetProfile(r *adminv1.GetProfileRequest, stream grpc.ServerStreamingServer[adminv1.GetProfileResponse]) error {
	p, self, err := n.f.named(stream.Context(), r.GetNode())
	if err != nil {
		return err
	}
	if self != nil {
		return self.GetProfile(r, stream)
	}
	ctx, cancel := context.WithCancel(service.WithActor(stream.Context(), service.Actor(stream.Context())))
	defer cancel()
	from, err := adminv1.NewNodeServiceClient(p.conn).GetProfile(ctx, r)
	return pass(from, err, stream.Send)
}

// pass gives on what comes from a stream.
func pass[A any](from interface{ Recv() (*A, error) }, err error, send func(*A) error) error {
	for err == nil {
		var one *A
		if one, err = from.Recv(); err == nil {
			err = send(one)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
