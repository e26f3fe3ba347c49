package ingress

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/stagecoachmail/stagecoach/internal/config"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

// replica is one process of a stage or of egress, as far as a revision asks it.
type replica struct {
	stagev1.UnimplementedStageServiceServer
	relayv1.UnimplementedRelayServiceServer
	mu      sync.Mutex
	knows   []string // hashes of stages and routes
	callers []string
	asked   int
}

func (r *replica) set(callers []string, knows ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.knows, r.callers = knows, callers
}

func (r *replica) Describe(context.Context, *stagev1.DescribeRequest) (*stagev1.DescribeResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	d := &stagev1.DescribeResponse{Callers: r.callers}
	for _, k := range r.knows {
		name, hash, _ := strings.Cut(k, "=")
		d.Instances = append(d.Instances, &stagev1.Instance{Name: name, Hash: hash})
	}
	return d, nil
}

func (r *replica) Knows(_ context.Context, req *relayv1.KnowsRequest) (*relayv1.KnowsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	resp := &relayv1.KnowsResponse{Callers: r.callers}
	for _, route := range req.GetRoutes() {
		if !slices.Contains(r.knows, route.GetName()+"="+route.GetHash()) {
			resp.Unknown = append(resp.Unknown, route.GetName())
		}
	}
	return resp, nil
}

// on serves the replica at an address; stop ends it.
func (r *replica) on(t *testing.T, address string) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("the port is taken: %v", err)
	}
	s := grpc.NewServer()
	stagev1.RegisterStageServiceServer(s, r)
	relayv1.RegisterRelayServiceServer(s, r)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	stop = func() { s.Stop(); <-done }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// revisionOf makes a configuration: stages "name=hash" of a chain, in order, each of a type of its name, and a route.
func revisionOf(port, way, route string, stages ...string) *config.Config {
	c := &config.Config{Stages: map[string]*config.Stage{}, Routes: map[string]*config.Route{}, Egress: config.Endpoint{Address: way}}
	ch := &config.Chain{Name: "c", Deliver: "out"}
	for _, s := range stages {
		name, hash, _ := strings.Cut(s, "=")
		st := &config.Stage{Name: name, Type: name, Hash: hash, Address: name + ":" + port}
		c.Stages[name] = st
		ch.Stages = append(ch.Stages, config.Use{Stage: st})
	}
	c.Routes["out"] = &config.Route{Name: "out", Hash: route}
	c.Chains = []*config.Chain{ch}
	return c
}

// A revision is asked about at every address behind every name that it asks more of, egress included; one that is not
// reached for a minute does not stop it, if another one is.
func TestSettle(t *testing.T) {
	t.Parallel()
	first, second, way := &replica{}, &replica{}, &replica{}
	at, _ := first.on(t, "127.0.0.1:0")
	_, port, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatal(err)
	}
	_, stopSecond := second.on(t, "127.0.0.2:"+port)
	out, _ := way.on(t, "127.0.0.1:0")
	now := time.Now()
	s := newSettling(nil, slog.New(slog.DiscardHandler))
	s.within, s.now = time.Millisecond, func() time.Time { return now }
	s.lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
		if host == "nowhere" {
			return nil, &net.DNSError{Err: "no such host", Name: host}
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}, nil
	}
	none := &config.Config{}
	settles := func(what string, old, next *config.Config, want string) {
		t.Helper()
		err := s.settle(t.Context(), old, next)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	old := revisionOf(port, out, "r1", "scan=h1")
	for _, r := range []*replica{first, second} {
		r.set([]string{"ingress"}, "scan=h1")
	}
	way.set([]string{"ingress", "scan"}, "out=r1")
	settles("all can", none, old, "")

	first.set([]string{"ingress"}, "scan=h1", "scan=h2")
	next := revisionOf(port, out, "r1", "scan=h2")
	settles("one of two lags", old, next, "stage scan: 127.0.0.2:"+port+" does not run this configuration of scan yet")
	second.set([]string{"ingress"}, "scan=h2")
	settles("both can", old, next, "")

	settles("egress does not know the route", old, revisionOf(port, out, "r2", "scan=h1"), "egress: "+out+" does not know this configuration of out yet")
	turned := revisionOf(port, out, "r1", "other=h1", "scan=h2")
	for _, r := range []*replica{first, second} {
		r.set([]string{"ingress"}, "scan=h2", "other=h1")
	}
	way.set([]string{"ingress", "scan", "other"}, "out=r1")
	settles("another order, of which a stage has not heard", next, turned, "stage scan: 127.0.0.1:"+port+" does not take mail from other yet")

	// What a revision asks no more of than the one before is not asked.
	asked := first.asked
	way.set(nil, "out=r2")
	settles("another route", next, revisionOf(port, out, "r2", "scan=h2"), "")
	settles("the same", next, next, "")
	if first.asked != asked {
		t.Error("a stage was asked that is not concerned")
	}

	gone := revisionOf(port, out, "r2", "scan=h3")
	first.set([]string{"ingress"}, "scan=h3")
	stopSecond()
	settles("one is down", next, gone, "stage scan: 127.0.0.2:"+port+" does not answer: dial tcp")
	now = now.Add(leaveOut - time.Second)
	settles("for not quite a minute", next, gone, "does not answer")
	now = now.Add(time.Second)
	settles("for a minute", next, gone, "")
	first.set([]string{"ingress"}, "scan=h1")
	settles("and the other one cannot", next, gone, "does not run this configuration")
	nowhere := revisionOf(port, "nowhere:1", "r2", "scan=h2")
	settles("there is none", next, nowhere, "egress: does not answer: nowhere:1: lookup nowhere: no such host")
	now = now.Add(time.Hour)
	settles("for an hour", next, nowhere, "egress: does not answer")
}
