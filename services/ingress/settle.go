package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

const (
	// settleIn is how long a new revision waits for the processes that it concerns to say that they can run it, and
	// settleAgain the wait between two questions.
	settleIn    = 10 * time.Second
	settleAgain = 500 * time.Millisecond
	// settleCall bounds one question.
	settleCall = 3 * time.Second
	// leaveOut is how long a process may not be reached before a revision goes on without it, if another behind the same
	// name can run it.
	leaveOut = time.Minute
)

// settling asks every process that a revision concerns whether it can run it.
type settling struct {
	pki    *service.PKI
	lookup service.Lookup
	log    *slog.Logger
	now    func() time.Time
	within time.Duration

	// down is since when processes could not be reached, by address and identity, over several revisions.
	down map[[2]string]time.Time
}

func newSettling(pki *service.PKI, log *slog.Logger) *settling {
	return &settling{pki: pki, lookup: service.SystemLookup, log: log, now: time.Now, within: settleIn, down: map[[2]string]time.Time{}}
}

// callee is a service as slips name it.
type callee struct{ address, identity string }

// demand is what a configuration needs of a callee: stages and routes by name with their hashes, and who hands on to it.
type demand struct {
	stages, routes map[string]string
	callers        map[string]bool
}

// demands are what the chains of a configuration need of whom.
func demands(c *config.Config) map[callee]*demand {
	all := map[callee]*demand{}
	of := func(address, identity string) *demand {
		k := callee{address, identity}
		if all[k] == nil {
			all[k] = &demand{stages: map[string]string{}, routes: map[string]string{}, callers: map[string]bool{}}
		}
		return all[k]
	}
	for _, ch := range c.Chains {
		slip, before := c.Slip(ch), []string{"ingress"}
		for _, h := range slip.Hops {
			if h.Address == "" {
				continue
			}
			d := of(h.Address, identityOf(h))
			d.stages[h.Instance] = h.Hash
			d.called(before)
			if !h.ProcessOnly {
				before = append(before, identityOf(h))
			}
		}
		if slip.Route.Address != "" {
			d := of(slip.Route.Address, "egress")
			d.routes[slip.Route.Name] = slip.Route.Hash
			d.called(before)
		}
	}
	return all
}

func identityOf(h chain.Hop) string { return cmp.Or(h.Identity, h.Type) }

func (d *demand) called(by []string) {
	for _, name := range by {
		d.callers[name] = true
	}
}

// covers says that who fulfils d fulfils n as well.
func (d *demand) covers(n *demand) bool {
	if d == nil {
		return false
	}
	within := func(small, large map[string]string) bool {
		for name, hash := range small {
			if have, ok := large[name]; !ok || have != hash {
				return false
			}
		}
		return true
	}
	for name := range n.callers {
		if !d.callers[name] {
			return false
		}
	}
	return within(n.stages, d.stages) && within(n.routes, d.routes)
}

// name is what the callee is for people.
func (d *demand) name() string {
	names := slices.Sorted(maps.Keys(d.stages))
	switch len(names) {
	case 0:
		return "egress"
	case 1:
		return "stage " + names[0]
	}
	return "stages " + strings.Join(names, ", ")
}

// settle waits until every process behind every address that the revision next asks more of than the one in force says
// that it can run it; the error says who does not. One that has not been reached for a minute is left out, if another one
// behind the same name is able.
func (s *settling) settle(ctx context.Context, current, next *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, s.within)
	defer cancel()
	before, concerned := demands(current), demands(next)
	maps.DeleteFunc(concerned, func(k callee, d *demand) bool { return before[k].covers(d) })
	conns := service.NewConnections(s.pki)
	defer conns.Close()
	for {
		err := s.round(ctx, conns, concerned)
		if err == nil {
			return nil
		}
		t := time.NewTimer(settleAgain)
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
	}
}

// verdict is what one process said.
type verdict struct {
	callee
	at  string // its address; empty: the name could not be resolved
	err error
	// away: nobody answered.
	away bool
}

// round asks everybody once.
func (s *settling) round(ctx context.Context, conns *service.Connections, concerned map[callee]*demand) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleCall) // so that the last round says why, too
	defer cancel()
	var mu sync.Mutex
	var said []verdict
	var asking sync.WaitGroup
	for k, d := range concerned {
		asking.Go(func() {
			addresses, err := service.Resolve(ctx, s.lookup, k.address)
			if err != nil {
				addresses = []string{""}
			}
			for _, at := range addresses {
				asking.Go(func() {
					v := verdict{callee: k, at: at, err: err, away: true}
					if err == nil {
						v.err = ask(ctx, conns, at, k, d)
						v.away = v.err != nil && (status.Code(v.err) == codes.Unavailable || status.Code(v.err) == codes.DeadlineExceeded)
					}
					mu.Lock()
					defer mu.Unlock()
					said = append(said, v)
				})
			}
		})
	}
	asking.Wait()
	return s.judge(concerned, said)
}

// judge says what the answers mean.
func (s *settling) judge(concerned map[callee]*demand, said []verdict) error {
	able, down := map[callee]bool{}, map[[2]string]time.Time{}
	for _, v := range said {
		able[v.callee] = able[v.callee] || v.err == nil
	}
	var errs []string
	var leftOut []verdict
	for _, v := range said {
		if v.err == nil {
			continue
		}
		who := strings.TrimSpace(concerned[v.callee].name() + ": " + v.at)
		if !v.away {
			errs = append(errs, who+" "+service.Why(v.err))
			continue
		}
		key := [2]string{v.at, v.identity}
		if down[key] = s.down[key]; down[key].IsZero() {
			down[key] = s.now()
		}
		if able[v.callee] && s.now().Sub(down[key]) >= leaveOut {
			leftOut = append(leftOut, v)
			continue
		}
		errs = append(errs, strings.TrimSpace(who+" does not answer: "+service.Why(v.err)))
	}
	s.down = down
	if len(errs) > 0 {
		slices.Sort(errs)
		return errors.New(strings.Join(errs, "; "))
	}
	for _, v := range leftOut {
		s.log.Warn("configuration: a process that cannot be reached was not asked whether it can run the new revision", "service", v.identity, "address", v.at, "since", s.down[[2]string{v.at, v.identity}], "error", service.Why(v.err))
	}
	return nil
}

// ask is nil if one process can do what is demanded of it.
func ask(ctx context.Context, conns *service.Connections, at string, k callee, d *demand) error {
	conn, err := conns.Direct(at, k.identity)
	if err != nil {
		return err
	}
	var callers []string
	if len(d.stages) > 0 {
		if callers, err = askStage(ctx, conn, d); err != nil {
			return err
		}
	}
	if len(d.routes) > 0 {
		if callers, err = askEgress(ctx, conn, d); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.callers)) {
		if len(callers) > 0 && !slices.Contains(callers, name) {
			return fmt.Errorf("does not take mail from %s yet", name)
		}
	}
	return nil
}

func askStage(ctx context.Context, conn grpc.ClientConnInterface, d *demand) (callers []string, err error) {
	resp, err := stagev1.NewStageServiceClient(conn).Describe(ctx, &stagev1.DescribeRequest{})
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(d.stages)) {
		if !slices.ContainsFunc(resp.GetInstances(), func(in *stagev1.Instance) bool {
			return in.GetName() == name && (in.GetHash() == d.stages[name] || in.GetHash() == "")
		}) {
			return nil, fmt.Errorf("does not run this configuration of %s yet", name)
		}
	}
	return resp.GetCallers(), nil
}

// askEgress is for one that may be of the release before, which cannot say: it is taken to be able.
func askEgress(ctx context.Context, conn grpc.ClientConnInterface, d *demand) (callers []string, err error) {
	req := &relayv1.KnowsRequest{}
	for _, name := range slices.Sorted(maps.Keys(d.routes)) {
		req.Routes = append(req.Routes, &relayv1.Route{Name: name, Hash: d.routes[name]})
	}
	resp, err := relayv1.NewRelayServiceClient(conn).Knows(ctx, req)
	switch {
	case status.Code(err) == codes.Unimplemented:
		return nil, nil
	case err != nil:
		return nil, err
	case len(resp.GetUnknown()) > 0:
		return nil, fmt.Errorf("does not know this configuration of %s yet", strings.Join(resp.GetUnknown(), ", "))
	}
	return resp.GetCallers(), nil
}
