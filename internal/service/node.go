package service

import (
	"context"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// NodeFile is the configuration file as a process follows it; a config.Watcher is one.
type NodeFile interface {
	// Reload takes up the file as it stands now, and says why not.
	Reload() error
	// Err is why the file is not in force; nil when it is, or was not looked at yet.
	Err() error
	// FileRevision is that of the file as it stands now; empty: it cannot be read.
	FileRevision() string
}

// NodeOptions say what a process is, for NodeService.
type NodeOptions struct {
	// Service is ingress, egress, admin, the type of a stage, or up.
	Service string
	// Instance is the name of the machine if empty.
	Instance string
	// Revision is that of the configuration in force.
	Revision func() string
	// File is nil where there is none.
	File NodeFile
	// Stages are those that run here; nil: none.
	Stages func() []*adminv1.NodeStage
	// PKI is nil where there is none.
	PKI *PKI
	// Server is the one whose health says whether this process serves, and whose calls are counted; nil: none.
	Server *Server
	// Drain is told of it beside Server's health; nil: nobody.
	Drain func(drain bool)
	// Sessions are counted beside the calls; nil: there are none.
	Sessions func() int
	// Alone: there is never another process that serves what this one does.
	Alone  bool
	Logger *slog.Logger
}

// NodeService shows this process and operates it. It is for admin alone: see Only.
func NodeService(o NodeOptions) adminv1.NodeServiceServer {
	if o.Instance == "" {
		if name, err := os.Hostname(); err == nil {
			o.Instance = name
		}
	}
	return &node{o: o, started: timestamppb.New(time.Now())}
}

type node struct {
	adminv1.UnimplementedNodeServiceServer
	o        NodeOptions
	started  *timestamppb.Timestamp
	draining atomic.Bool
}

// ListNodes implements the service: this process is all that there is to it.
func (n *node) ListNodes(_ context.Context, r *adminv1.ListNodesRequest) (*adminv1.ListNodesResponse, error) {
	if r.GetService() != "" && r.GetService() != n.o.Service {
		return &adminv1.ListNodesResponse{}, nil
	}
	return &adminv1.ListNodesResponse{Nodes: []*adminv1.Node{n.state()}}, nil
}

func (n *node) state() *adminv1.Node {
	out := &adminv1.Node{Service: n.o.Service, Instance: n.o.Instance, Version: Version(), Started: n.started, Revision: n.o.Revision(), Draining: n.draining.Load()}
	if f := n.o.File; f != nil {
		out.FileRevision = f.FileRevision()
		if err := f.Err(); err != nil {
			out.Refused = err.Error()
		}
	}
	if n.o.Stages != nil {
		out.Stages = n.o.Stages()
	}
	if n.o.PKI != nil {
		if ends := n.o.PKI.Ends(); !ends.IsZero() {
			out.CertificateEnds = timestamppb.New(ends)
		}
	}
	if n.o.Server != nil {
		out.Calls = uint64(max(n.o.Server.Calls(), 0))
	}
	if n.o.Sessions != nil {
		out.Calls += uint64(max(n.o.Sessions(), 0))
	}
	return out
}

// ReloadNode implements the service. What was refused stands in the answer.
func (n *node) ReloadNode(ctx context.Context, _ *adminv1.ReloadNodeRequest) (*adminv1.ReloadNodeResponse, error) {
	if n.o.File == nil {
		return nil, status.Error(codes.FailedPrecondition, "there is no configuration file: what is built in runs")
	}
	n.o.Logger.Info("configuration: taken up by command", "by", Actor(ctx))
	_ = n.o.File.Reload() //nolint:errcheck // shown by Err
	return &adminv1.ReloadNodeResponse{Node: n.state()}, nil
}

// DrainNode implements the service. Whether somebody else serves is for admin to know.
func (n *node) DrainNode(ctx context.Context, r *adminv1.DrainNodeRequest) (*adminv1.DrainNodeResponse, error) {
	if r.GetDrain() && n.o.Alone && !r.GetForce() {
		return nil, status.Errorf(codes.FailedPrecondition, "nobody else serves what %s serves: with force it takes no new mail", n.o.Service)
	}
	if n.draining.Swap(r.GetDrain()) == r.GetDrain() {
		return &adminv1.DrainNodeResponse{Node: n.state()}, nil
	}
	if n.o.Server != nil {
		serves := healthv1.HealthCheckResponse_SERVING
		if r.GetDrain() {
			serves = healthv1.HealthCheckResponse_NOT_SERVING
		}
		n.o.Server.Health.SetServingStatus("", serves)
	}
	if n.o.Drain != nil {
		n.o.Drain(r.GetDrain())
	}
	if r.GetDrain() {
		n.o.Logger.Warn("drained: nothing new is taken, what has begun is finished", "by", Actor(ctx))
	} else {
		n.o.Logger.Info("in service again", "by", Actor(ctx))
	}
	return &adminv1.DrainNodeResponse{Node: n.state()}, nil
}
