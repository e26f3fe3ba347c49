// Package admin is the operator's API: it knows who asks, keeps the record of what was changed, and passes calls on to
// the services that own what they are about. What it serves is stagecoach.admin.v1.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/config"
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
	// Config is the configuration in force, asked anew at each call: the people, and at the start the port.
	Config func() *config.Config
	// Conn is NATS, where the record of changes and the request ids are kept. It may come and go: without it nothing is
	// changed.
	Conn   *nats.Conn
	Logger *slog.Logger
}

// Server serves the API on a unix socket: only the user that this process runs as, and root, may call there; the socket's
// mode says so, and the kernel is asked who it is. And it serves it at admin.address, if the configuration has one, to the
// people that it names.
type Server struct {
	server *service.Server
	port   *port
	stop   func() // ends what is endless
}

// Listen opens the socket, and the port. Calls are answered once Run is running. Services.Access is its own.
func Listen(o Options) (*Server, error) {
	if o.Config == nil {
		o.Config = func() *config.Config { return new(config.Config) }
	}
	replicas := func() int { return max(o.Config().NATS.Replicas, 1) }
	stopping, stop := context.WithCancel(context.Background())
	who := &access{config: o.Config, attempts: newAttempts(time.Now), log: o.Logger, now: time.Now, stopping: stopping}
	audit := &audit{conn: o.Conn, replicas: replicas}
	record := &record{log: o.Logger, audit: audit, now: time.Now}
	requests := &requests{conn: o.Conn, replicas: replicas, log: o.Logger, now: time.Now}
	o.Services.Access = &accessService{access: who, audit: audit}
	unary := chainUnary(who.unary, requests.unary, record.unary)
	stream := chainStream(who.stream, record.stream)
	every := []grpc.ServerOption{grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream),
		// It goes through the same doors, so that who is not known learns nothing.
		grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			name, _ := grpc.MethodFromServerStream(s)
			return status.Errorf(codes.Unimplemented, "%s is not served here", shortMethod(name))
		})}

	s, err := service.Listen("unix:"+o.Socket, nil, nil, o.Logger, append(every, grpc.Creds(newPeerCredentials()))...)
	if err != nil {
		stop()
		return nil, fmt.Errorf("admin: %w", err)
	}
	o.Services.register(s.Server)
	network := &front{access: who, methods: map[string]jsonMethod{}, unary: unary, stream: stream,
		grpc: grpc.NewServer(append(every, grpc.MaxRecvMsgSize(maxBody), grpc.WaitForHandlers(true))...)}
	o.Services.register(network)
	healthv1.RegisterHealthServer(network.grpc, s.Health)
	reflection.Register(network.grpc)
	p := &port{handler: network, grpc: network.grpc, log: o.Logger, now: time.Now, failed: make(chan error, 1)}
	if err := p.use(o.Config()); err != nil {
		stop()
		return nil, errors.Join(err, s.Close())
	}
	return &Server{s, p, stop}, nil
}

// chainUnary runs interceptors one inside of the other.
func chainUnary(all ...grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		for _, outer := range slices.Backward(all) {
			inner := next
			next = func(ctx context.Context, req any) (any, error) { return outer(ctx, req, info, inner) }
		}
		return next(ctx, req)
	}
}

// chainStream runs interceptors one inside of the other.
func chainStream(all ...grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		for _, outer := range slices.Backward(all) {
			inner := next
			next = func(srv any, s grpc.ServerStream) error { return outer(srv, s, info, inner) }
		}
		return next(srv, s)
	}
}

// Run answers calls until ctx ends, then lets those that run finish for up to grace.
func (s *Server) Run(ctx context.Context, grace time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, s.stop)()
	ended := make(chan error, 1)
	go func() {
		err := s.port.run(ctx, grace)
		cancel()
		ended <- err
	}()
	err := s.server.Run(ctx, grace)
	cancel()
	return errors.Join(err, <-ended)
}

// Update moves the port to where c has it, and takes up its certificate; on an error everything is as before. Who puts
// a configuration in force calls it, before Options.Config gives c.
func (s *Server) Update(c *config.Config) error { return s.port.use(c) }

// Addr is the address of the open port; nil without one.
func (s *Server) Addr() net.Addr { return s.port.addr() }
