package service

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// AdminServices is the package of the operator's API.
const AdminServices = "stagecoach.admin.v1"

// The packages of the contracts between services.
const (
	relayServices = "stagecoach.relay.v1"
	stageServices = "stagecoach.stage.v1"
)

// keepFormer is how long a caller that is in no rule any more may go on, after its last call: messages are under way
// whose slips were made before.
const keepFormer = time.Hour

// Rules say who may call a service, as the configuration in force does; who was allowed before goes on until it has not
// called for an hour. Admin alone calls the operator's API; health and reflection are for all that may call anything, and
// for the service itself. Where there is no pki there are no names, and everybody on this machine may call everything.
type Rules struct {
	now func() time.Time

	mu      sync.Mutex
	relay   permits
	process permits
}

// permits are names, each with when it was last used if it is a former one, else zero.
type permits map[string]time.Time

// NewRules makes rules that let nobody in but admin, and the service itself.
func NewRules() *Rules {
	return &Rules{now: time.Now, relay: permits{}, process: permits{}}
}

// Use puts in force who may hand messages over, and who may have them judged.
func (r *Rules) Use(relay, process []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.relay.use(relay, r.now())
	r.process.use(process, r.now())
}

func (p permits) use(names []string, now time.Time) {
	for name, used := range p {
		if used.IsZero() && !slices.Contains(names, name) {
			p[name] = now
		}
	}
	for _, name := range names {
		p[name] = time.Time{}
	}
}

func (p permits) sweep(now time.Time) {
	maps.DeleteFunc(p, func(_ string, used time.Time) bool { return !used.IsZero() && now.Sub(used) >= keepFormer })
}

// Relay are the names that may hand messages over, sorted.
func (r *Rules) Relay() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.relay.sweep(r.now())
	return slices.Sorted(maps.Keys(r.relay))
}

// names are all that may connect to a service with these names of its own.
func (r *Rules) names(own []string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.relay.sweep(r.now())
	r.process.sweep(r.now())
	return slices.Concat(own, []string{"admin"}, slices.Collect(maps.Keys(r.relay)), slices.Collect(maps.Keys(r.process)))
}

// check is nil if somebody with these names may call the method.
func (r *Rules) check(method string, names []string) error {
	switch {
	case strings.HasPrefix(method, "/"+AdminServices+"."):
		if slices.Contains(names, "admin") {
			return nil
		}
	case method == "/"+relayServices+".RelayService/Relay":
		if r.permit(r.relay, names) {
			return nil
		}
	case method == "/"+stageServices+".StageService/Process":
		if r.permit(r.process, names) {
			return nil
		}
	default: // what a service is and how it is
		return nil
	}
	return status.Errorf(codes.PermissionDenied, "%s may not be called with a certificate for %s", method, strings.Join(names, ", "))
}

func (r *Rules) permit(p permits, names []string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	p.sweep(now)
	for _, name := range names {
		if used, ok := p[name]; ok {
			if !used.IsZero() {
				p[name] = now
			}
			return true
		}
	}
	return false
}

// Listen is Listen for the callers that the rules let in.
func (r *Rules) Listen(address string, pki *PKI, log *slog.Logger, more ...grpc.ServerOption) (*Server, error) {
	if pki == nil {
		return listenFor(address, nil, nil, log, more...)
	}
	return listenFor(address, pki, func() []string { return r.names(pki.names()) }, log, append([]grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := r.check(info.FullMethod, namesOf(ctx)); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := r.check(info.FullMethod, namesOf(s.Context())); err != nil {
				return err
			}
			return next(srv, s)
		})}, more...)...)
}

// namesOf are the names that the certificate at the other end of a call bears. It was verified in the handshake.
func namesOf(ctx context.Context) []string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	return info.State.PeerCertificates[0].DNSNames
}
