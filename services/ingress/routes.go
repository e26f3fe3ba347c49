package ingress

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/dispatch"
)

// Routes serves the ways out.
func (in *Ingress) Routes() adminv1.RouteServiceServer { return &routes{in: in} }

type routes struct {
	adminv1.UnimplementedRouteServiceServer
	in *Ingress
}

// ListRoutes implements the service.
func (r *routes) ListRoutes(context.Context, *adminv1.ListRoutesRequest) (*adminv1.ListRoutesResponse, error) {
	cfg, paused, down := r.in.policy.View().Config(), r.in.pauses.all(), r.in.down()
	names := map[string]bool{}
	for name := range cfg.Routes {
		names[name] = true
	}
	for name := range paused { // also what has left the configuration
		names[name] = true
	}
	resp := &adminv1.ListRoutesResponse{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		resp.Routes = append(resp.Routes, r.state(cfg, name, paused, down))
	}
	return resp, nil
}

// PauseRoute implements the service.
func (r *routes) PauseRoute(ctx context.Context, req *adminv1.PauseRouteRequest) (*adminv1.PauseRouteResponse, error) {
	cfg, name := r.in.policy.View().Config(), req.GetName()
	if cfg.RouteNamed(name) == nil {
		return nil, noRoute(cfg, name)
	}
	if err := checkReason(req.GetReason()); err != nil {
		return nil, err
	}
	by := service.Actor(ctx)
	err := r.in.pauses.change(ctx, func(all map[string]routePause) (bool, error) {
		p, was := all[name]
		if !was {
			if len(all) >= mostPauses {
				return false, errTooManyPauses
			}
			p.At = r.in.now().UTC().Round(time.Millisecond)
		}
		p.By, p.Reason = by, req.GetReason()
		all[name] = p
		return true, nil
	})
	if err != nil {
		return nil, notKept(err)
	}
	return &adminv1.PauseRouteResponse{Route: r.state(cfg, name, r.in.pauses.all(), r.in.down())}, nil
}

// ResumeRoute implements the service.
func (r *routes) ResumeRoute(ctx context.Context, req *adminv1.ResumeRouteRequest) (*adminv1.ResumeRouteResponse, error) {
	cfg, name := r.in.policy.View().Config(), req.GetName()
	known := cfg.RouteNamed(name) != nil
	err := r.in.pauses.change(ctx, func(all map[string]routePause) (bool, error) {
		_, was := all[name]
		if !was && !known {
			return false, noRoute(cfg, name)
		}
		delete(all, name)
		return was, nil
	})
	if err != nil {
		return nil, notKept(err)
	}
	return &adminv1.ResumeRouteResponse{Route: r.state(cfg, name, r.in.pauses.all(), r.in.down())}, nil
}

func noRoute(cfg *config.Config, name string) error {
	return status.Errorf(codes.NotFound, "there is no route %.64q%s", name, config.Suggest(name, slices.Collect(maps.Keys(cfg.Routes)), "routes"))
}

// notKept is the answer when a pause could not be stored.
func notKept(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, errTooManyPauses) {
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	if errors.Is(err, errUncertain) {
		return status.Errorf(codes.Unavailable, "it is not known whether the change was kept: %v; look at the routes when it is back", err)
	}
	return status.Errorf(codes.Unavailable, "nothing was changed, because it could not be kept: %v; try again when NATS is back", err)
}

// state is how a route is now.
func (r *routes) state(cfg *config.Config, name string, paused map[string]routePause, down []dispatch.Barrier) *adminv1.RouteState {
	out := &adminv1.RouteState{Name: name, Waiting: uint64(r.in.parked(chain.AboutRoute, name).Messages)}
	if c := cfg.RouteNamed(name); c != nil {
		out.Kind, out.To = describe(c)
	}
	for _, c := range cfg.Chains {
		if c.Deliver == name {
			out.Chains = append(out.Chains, c.Name)
		}
	}
	if p, ok := paused[name]; ok {
		out.Pause = &adminv1.Pause{By: plainText(p.By), Reason: plainText(p.Reason), At: timestamppb.New(p.At)}
	}
	for _, b := range down {
		if b.Concern == chain.AboutRoute && b.About == name {
			out.Down = why(b.Why)
		}
	}
	return out
}

// describe says of what kind a route is and where it leads.
func describe(r *config.Route) (kind, to string) {
	switch {
	case r.Smarthost != nil:
		return "smarthost", r.Smarthost.Address
	case r.MX != nil:
		return "mx", "the mail exchangers of the recipients' domains"
	case r.Maildir != nil:
		return "maildir", r.Maildir.Path
	}
	return "", ""
}

// parked is what waits for a hop or a route in all shards of this process.
func (in *Ingress) parked(concern chain.Concern, about string) depot.Tally {
	var all depot.Tally
	for _, s := range in.shards() {
		all = sum(all, s.log.Waiting().Cause(depot.Cause{Room: depot.Park, Concern: concern, About: about}))
	}
	return all
}

// sum adds what waits in two shards.
func sum(a, b depot.Tally) depot.Tally {
	a.Messages += b.Messages
	a.Recipients += b.Recipients
	a.Bytes += b.Bytes
	if a.Oldest.IsZero() || !b.Oldest.IsZero() && b.Oldest.Before(a.Oldest) {
		a.Oldest, a.Last = b.Oldest, b.Last
	}
	return a
}

// down are the hops and routes that are down for some shard of this process, each once, since the earliest time.
func (in *Ingress) down() []dispatch.Barrier {
	var all []dispatch.Barrier
	for _, s := range in.shards() {
		for _, b := range s.dispatcher.Down() {
			i := slices.IndexFunc(all, func(o dispatch.Barrier) bool { return o.Concern == b.Concern && o.About == b.About })
			switch {
			case i < 0:
				all = append(all, b)
			case b.Since.Before(all[i].Since):
				all[i] = b
			}
		}
	}
	return all
}
