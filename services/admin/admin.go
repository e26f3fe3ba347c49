// Package admin is the operator's API: it knows who asks, keeps the record of what was changed, and passes calls on to
// the services that own what they are about. What it serves is stagecoach.admin.v1.
package admin

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// Services are the parts of the API, each served by who owns what it is about. One that is nil is answered with
// UNIMPLEMENTED.
type Services struct {
	Queue   adminv1.QueueServiceServer
	Trace   adminv1.TraceServiceServer
	Preview adminv1.PreviewServiceServer
	Routes  adminv1.RouteServiceServer
	Status  adminv1.StatusServiceServer
	Archive adminv1.ArchiveServiceServer
	Dkim    adminv1.DkimServiceServer
	Users   adminv1.UserServiceServer
	Config  adminv1.ConfigServiceServer
	Nodes   adminv1.NodeServiceServer
	Events  adminv1.EventServiceServer
	Counted adminv1.StatisticsServiceServer
	Grants  adminv1.GrantServiceServer
	Access  adminv1.AccessServiceServer
}

// register adds the services that are there.
func (s *Services) register(r grpc.ServiceRegistrar) {
	add(r, adminv1.RegisterQueueServiceServer, s.Queue)
	add(r, adminv1.RegisterTraceServiceServer, s.Trace)
	add(r, adminv1.RegisterPreviewServiceServer, s.Preview)
	add(r, adminv1.RegisterRouteServiceServer, s.Routes)
	add(r, adminv1.RegisterStatusServiceServer, s.Status)
	add(r, adminv1.RegisterArchiveServiceServer, s.Archive)
	add(r, adminv1.RegisterDkimServiceServer, s.Dkim)
	add(r, adminv1.RegisterUserServiceServer, s.Users)
	add(r, adminv1.RegisterConfigServiceServer, s.Config)
	add(r, adminv1.RegisterNodeServiceServer, s.Nodes)
	add(r, adminv1.RegisterEventServiceServer, s.Events)
	add(r, adminv1.RegisterStatisticsServiceServer, s.Counted)
	add(r, adminv1.RegisterGrantServiceServer, s.Grants)
	add(r, adminv1.RegisterAccessServiceServer, s.Access)
}

func add[S comparable](r grpc.ServiceRegistrar, register func(grpc.ServiceRegistrar, S), s S) {
	var none S
	if s != none {
		register(r, s)
	}
}

// SocketName is the name of the unix socket in the data folder.
const SocketName = "admin.sock"

// Options of a Server.
type Options struct {
	// Socket is the path of the unix socket to listen on, at most 107 bytes long. One that a killed process left behind
	// is replaced; any other file of that name is an error.
	Socket   string
	Services Services
	Logger   *slog.Logger
}

// Server serves the API on a unix socket. Only the user that this process runs as, and root, may call: the socket's
// mode says so, and the kernel is asked who it is.
type Server struct{ server *service.Server }

// Listen opens the socket. Calls are answered once Run is running.
func Listen(o Options) (*Server, error) {
	record := &record{log: o.Logger, now: time.Now}
	s, err := service.Listen("unix:"+o.Socket, nil, nil, o.Logger,
		grpc.Creds(newPeerCredentials()),
		grpc.ChainUnaryInterceptor(identifyUnary, record.unary),
		grpc.ChainStreamInterceptor(identifyStream, record.stream))
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	o.Services.register(s.Server)
	return &Server{s}, nil
}

// Run answers calls until ctx ends, then lets those that run finish for up to grace.
func (s *Server) Run(ctx context.Context, grace time.Duration) error { return s.server.Run(ctx, grace) }
