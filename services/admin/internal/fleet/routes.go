package fleet

import (
	"context"
	"slices"
	"strings"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// Routes are the ways out as all ingresses see them. A pause is kept in NATS: any of them makes it, the others follow
// within a second.
func (f *Fleet) Routes() adminv1.RouteServiceServer { return &routes{f: f} }

type routes struct {
	adminv1.UnimplementedRouteServiceServer
	f *Fleet
}

// ListRoutes implements the service: what waits is added up, and a route is down that is down for one ingress.
func (r *routes) ListRoutes(ctx context.Context, req *adminv1.ListRoutesRequest) (*adminv1.ListRoutesResponse, error) {
	answers, err := good(ctx, ingress, each(ctx, r.f, ingress, nodeWithin, adminv1.NewRouteServiceClient, adminv1.RouteServiceClient.ListRoutes, req))
	if err != nil {
		return nil, err
	}
	out := &adminv1.ListRoutesResponse{}
	for _, a := range answers {
		out.Routes = byName(out.GetRoutes(), a.value.GetRoutes(), addRoute)
	}
	slices.SortFunc(out.Routes, func(a, b *adminv1.RouteState) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out, nil
}

func addRoute(to, more *adminv1.RouteState) {
	to.Waiting += more.GetWaiting()
	if to.GetDown() == "" {
		to.Down = more.GetDown()
	}
	if to.GetPause() == nil {
		to.Pause = more.GetPause()
	}
	if to.GetKind() == "" {
		to.Kind, to.To = more.GetKind(), more.GetTo()
	}
	for _, c := range more.GetChains() {
		if !slices.Contains(to.GetChains(), c) {
			to.Chains = append(to.Chains, c)
		}
	}
}

// PauseRoute implements the service.
func (r *routes) PauseRoute(ctx context.Context, req *adminv1.PauseRouteRequest) (*adminv1.PauseRouteResponse, error) {
	resp, err := change(ctx, r.f, ingress, adminv1.NewRouteServiceClient, adminv1.RouteServiceClient.PauseRoute, req)
	if err != nil {
		return nil, err
	}
	return &adminv1.PauseRouteResponse{Route: r.now(ctx, resp.GetRoute())}, nil
}

// ResumeRoute implements the service.
func (r *routes) ResumeRoute(ctx context.Context, req *adminv1.ResumeRouteRequest) (*adminv1.ResumeRouteResponse, error) {
	resp, err := change(ctx, r.f, ingress, adminv1.NewRouteServiceClient, adminv1.RouteServiceClient.ResumeRoute, req)
	if err != nil {
		return nil, err
	}
	return &adminv1.ResumeRouteResponse{Route: r.now(ctx, resp.GetRoute())}, nil
}

// now is a route with what waits for it at all ingresses. Whether it is paused says the one that was asked to: the others
// hear of it yet.
func (r *routes) now(ctx context.Context, state *adminv1.RouteState) *adminv1.RouteState {
	list, err := r.ListRoutes(ctx, &adminv1.ListRoutesRequest{})
	if err != nil {
		return state
	}
	for _, one := range list.GetRoutes() {
		if one.GetName() == state.GetName() {
			one.Pause = state.GetPause()
			return one
		}
	}
	return state
}
