package service

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

// guarded runs a server under rules until the test ends: whatever is let in finds nothing there.
func guarded(t *testing.T, r *Rules, pki *PKI) string {
	t.Helper()
	s, err := r.Listen("127.0.0.1:0", pki, quiet)
	if err != nil {
		t.Fatal(err)
	}
	relayv1.RegisterRelayServiceServer(s.Server, relayv1.UnimplementedRelayServiceServer{})
	stagev1.RegisterStageServiceServer(s.Server, waiting{f: func(context.Context) error { return nil }})
	adminv1.RegisterNodeServiceServer(s.Server, adminv1.UnimplementedNodeServiceServer{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s.Addr().String()
}

// tries calls each kind of method, and gives those that were let in.
func tries(t *testing.T, conn grpc.ClientConnInterface) []string {
	t.Helper()
	relay, err := relayv1.NewRelayServiceClient(conn).Relay(t.Context())
	if err == nil {
		_, err = relay.Recv()
	}
	process, perr := stagev1.NewStageServiceClient(conn).Process(t.Context())
	if perr == nil {
		_, perr = process.Recv()
	}
	_, derr := stagev1.NewStageServiceClient(conn).Describe(t.Context(), &stagev1.DescribeRequest{})
	_, nerr := adminv1.NewNodeServiceClient(conn).ListNodes(t.Context(), &adminv1.ListNodesRequest{})
	_, herr := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	var in []string
	for _, c := range []struct {
		name string
		err  error
	}{{"relay", err}, {"process", perr}, {"describe", derr}, {"node", nerr}, {"health", herr}} {
		switch status.Code(c.err) {
		case codes.OK, codes.Unimplemented:
			in = append(in, c.name)
		case codes.PermissionDenied, codes.Unavailable: // by the rules, or by the handshake
		default:
			t.Errorf("%s: %v", c.name, c.err)
		}
	}
	return in
}

// Each may do its own work: hand over, have judged, look, operate. What the rules say holds for connections that are open.
func TestRules(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t)
	names := []string{"signer", "ingress", "archive", "tagger", "admin", "egress"}
	for i, typ := range names {
		ca.issue(t, dir, typ, int64(i+2), nil, typ)
	}
	now := time.Now()
	rules := NewRules()
	rules.now = func() time.Time { return now }
	rules.Use([]string{"ingress", "archive"}, []string{"ingress", "tagger"})
	address := guarded(t, rules, open(t, dir, "signer"))
	connect := func(who string) grpc.ClientConnInterface {
		conn, err := connections(t, open(t, dir, who)).Direct(address, "signer")
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conns := map[string]grpc.ClientConnInterface{}
	for _, who := range names {
		conns[who] = connect(who)
	}
	check := func(when string, want map[string][]string) {
		t.Helper()
		for _, who := range names {
			if got := tries(t, conns[who]); !slices.Equal(got, want[who]) {
				t.Errorf("%s %s: %v, want %v", when, who, got, want[who])
			}
		}
	}
	look := []string{"describe", "health"}
	all := map[string][]string{"ingress": {"relay", "process", "describe", "health"}, "archive": {"relay", "describe", "health"}, "tagger": {"process", "describe", "health"},
		"admin": {"describe", "node", "health"}, "signer": look}
	check("at first", all)

	// Who is not in the rules any more goes on while he calls, within an hour each time; who is new is let in at once.
	rules.Use([]string{"ingress", "egress"}, []string{"ingress"})
	all["egress"], conns["egress"] = []string{"relay", "describe", "health"}, connect("egress")
	now = now.Add(59 * time.Minute)
	check("after 59 minutes", all)
	now = now.Add(59 * time.Minute)
	check("after two hours, in use", all)
	if got := rules.Relay(); !slices.Equal(got, []string{"archive", "egress", "ingress"}) {
		t.Errorf("may hand over: %v", got)
	}
	now = now.Add(61 * time.Minute)
	all["archive"], all["tagger"] = look, look // their connections are open
	check("after an hour without use", all)
	if got := rules.Relay(); !slices.Equal(got, []string{"egress", "ingress"}) {
		t.Errorf("may hand over: %v", got)
	}

	// A new connection of a former one is not made.
	if got := tries(t, connect("archive")); len(got) > 0 {
		t.Errorf("archive connects, and may %v", got)
	}
}

// Without certificates there are no names.
func TestRulesWithoutPKI(t *testing.T) {
	t.Parallel()
	rules := NewRules()
	rules.Use([]string{"ingress"}, nil)
	conn, err := connections(t, nil).Direct(guarded(t, rules, nil), "signer")
	if err != nil {
		t.Fatal(err)
	}
	if got := tries(t, conn); len(got) != 5 {
		t.Errorf("let in: %v", got)
	}
}
