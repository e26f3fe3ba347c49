package ingress

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	grantBucket = "STAGECOACH_GRANTS"
	// mostGrants bounds what is kept, with names and reasons of the greatest length, to about 1 MiB.
	mostGrants = 1000
	grantBytes = 4 << 20
	// How long a grant may hold, and how long it does where nobody says.
	grantLeast, grantMost, grantUsual = time.Minute, 30 * 24 * time.Hour, 24 * time.Hour
)

// relayGrant lets the clients of a network use a relay rule until it expires.
type relayGrant struct {
	Rule    string       `json:"rule"`
	Network netip.Prefix `json:"network"`
	By      string       `json:"by"`
	Reason  string       `json:"reason,omitempty"`
	Created time.Time    `json:"created"`
	Expires time.Time    `json:"expires"`
}

func (g *relayGrant) id() string { return g.Rule + "/" + g.Network.String() }

func sameGrant(a, b relayGrant) bool {
	return a.Rule == b.Rule && a.Network == b.Network && a.By == b.By && a.Reason == b.Reason && a.Created.Equal(b.Created) && a.Expires.Equal(b.Expires)
}

// openGrants reads what is granted.
func (in *Ingress) openGrants(ctx context.Context) error {
	log := in.o.Logger
	g := &shared[relayGrant]{what: "grants", key: "grants", field: "entries", conn: in.o.Conn, log: log, same: sameGrant, taken: func(was, is map[string]relayGrant) {
		for id, one := range is {
			if old, ok := was[id]; !ok || !sameGrant(old, one) {
				log.Warn("clients may relay by a grant", "rule", one.Rule, "network", one.Network.String(), "until", one.Expires.Format(time.RFC3339), "by", one.By, "reason", one.Reason)
			}
		}
		for id, one := range was {
			if _, still := is[id]; !still {
				log.Info("a grant is over", "rule", one.Rule, "network", one.Network.String())
			}
		}
	}}
	if err := g.open(ctx, grantBucket, in.o.Config.NATS.Replicas, grantBytes); err != nil {
		return err
	}
	in.grants = g
	return nil
}

// granted is asked by the policy, at each MAIL: a grant ends by the clock of this machine.
func (in *Ingress) granted(rule string, client netip.Addr) bool {
	client = client.Unmap().WithZone("")
	now := in.now()
	for _, g := range in.grants.all() {
		if g.Rule == rule && now.Before(g.Expires) && g.Network.Contains(client) {
			return true
		}
	}
	return false
}

// Grants serves leave to relay, for an address, for a time.
func (in *Ingress) Grants() adminv1.GrantServiceServer { return &grantService{in: in} }

type grantService struct {
	adminv1.UnimplementedGrantServiceServer
	in *Ingress
}

// ListGrants implements the service: those that hold now, what ends first before the others.
func (s *grantService) ListGrants(context.Context, *adminv1.ListGrantsRequest) (*adminv1.ListGrantsResponse, error) {
	now := s.in.now()
	out := &adminv1.ListGrantsResponse{}
	live := slices.DeleteFunc(slices.Collect(maps.Values(s.in.grants.all())), func(g relayGrant) bool { return !now.Before(g.Expires) })
	slices.SortFunc(live, func(a, b relayGrant) int { return cmp.Or(a.Expires.Compare(b.Expires), cmp.Compare(a.id(), b.id())) })
	for i := range live {
		out.Grants = append(out.Grants, live[i].proto())
	}
	return out, nil
}

var errTooManyGrants = status.Errorf(codes.ResourceExhausted, "there are %d grants: revoke some", mostGrants)

// CreateGrant implements the service.
func (s *grantService) CreateGrant(ctx context.Context, r *adminv1.CreateGrantRequest) (*adminv1.CreateGrantResponse, error) {
	in := s.in
	cfg := in.policy.View().Config()
	network, err := config.GrantNetwork(r.GetNetwork(), in.gateways())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	life := grantUsual
	if r.Lifetime != nil {
		if life = r.GetLifetime().AsDuration(); life < grantLeast || life > grantMost {
			return nil, status.Errorf(codes.InvalidArgument, "a grant holds for 1 minute to 30 days, not for %v", life)
		}
	}
	if err := checkReason(r.GetReason()); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(cfg.Relay, func(rule config.RelayRule) bool { return rule.Name == r.GetRule() && rule.Grants }) {
		return nil, noGrants(cfg, r.GetRule())
	}
	now := in.now().UTC().Round(time.Millisecond)
	g := relayGrant{Rule: r.GetRule(), Network: network, By: service.Actor(ctx), Reason: r.GetReason(), Created: now, Expires: now.Add(life)}
	err = in.grants.change(ctx, func(all map[string]relayGrant) (bool, error) {
		forget(all, now)
		if was, ok := all[g.id()]; ok {
			g.Created = was.Created
			if was.Expires.After(g.Expires) { // it is only ever made longer
				g.Expires = was.Expires
			}
		} else if len(all) >= mostGrants {
			return false, errTooManyGrants
		}
		all[g.id()] = g
		return true, nil
	})
	if err != nil {
		return nil, notShared(err)
	}
	return &adminv1.CreateGrantResponse{Grant: g.proto()}, nil
}

// RevokeGrant implements the service.
func (s *grantService) RevokeGrant(ctx context.Context, r *adminv1.RevokeGrantRequest) (*adminv1.RevokeGrantResponse, error) {
	var g relayGrant
	err := s.in.grants.change(ctx, func(all map[string]relayGrant) (bool, error) {
		now := s.in.now()
		ok := false
		if g, ok = all[r.GetId()]; !ok || !now.Before(g.Expires) {
			return false, status.Errorf(codes.NotFound, "there is no grant %.128q", r.GetId())
		}
		delete(all, r.GetId())
		forget(all, now)
		return true, nil
	})
	if err != nil {
		return nil, notShared(err)
	}
	return &adminv1.RevokeGrantResponse{Grant: g.proto()}, nil
}

// forget drops what is over.
func forget(all map[string]relayGrant, now time.Time) {
	maps.DeleteFunc(all, func(_ string, g relayGrant) bool { return !now.Before(g.Expires) })
}

func (g *relayGrant) proto() *adminv1.Grant {
	return &adminv1.Grant{Id: g.id(), Rule: g.Rule, Network: g.Network.String(), By: plainText(g.By), Reason: plainText(g.Reason),
		Created: timestamppb.New(g.Created), Expires: timestamppb.New(g.Expires)}
}

// noGrants says that a rule takes none, and which do.
func noGrants(cfg *config.Config, name string) error {
	var known []string
	for _, r := range cfg.Relay {
		if r.Grants {
			known = append(known, r.Name)
		}
	}
	if len(known) == 0 {
		return status.Error(codes.NotFound, "no relay rule takes grants: write grants: true into one")
	}
	return status.Errorf(codes.NotFound, "there is no relay rule %.64q that takes grants%s", name, config.Suggest(name, known, "rules that do"))
}

// notShared is the answer when a change of what the ingresses share came to nothing, as far as that is known.
func notShared(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, errUncertain) {
		return status.Errorf(codes.Unavailable, "it is not known whether the change was kept: %v; look again when NATS is back", err)
	}
	return status.Errorf(codes.Unavailable, "nothing was changed, because it could not be kept: %v; try again when NATS is back", err)
}
