package chain

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/mail"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/stage"
)

// closedPort is an address at which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

var (
	refusedAll   = []string{"1 refused hop a", "2 refused hop a", "3 refused hop a"}
	deliveredAll = []string{"1 delivered recipient ", "2 delivered recipient ", "3 delivered recipient "}
	heldAll      = []string{"1 quarantined hop a", "2 quarantined hop a", "3 quarantined hop a"}
)

// A hop that cannot be reached is what on_error says; one that does not know the instance or its configuration is
// waited for, whatever on_error says; a shadow never holds a message up.
func TestUnreached(t *testing.T) {
	down := func(t *testing.T, h *Hop) { h.Address = closedPort(t) }
	otherHash := func(_ *testing.T, h *Hop) { h.Hash = "another" }
	otherName := func(_ *testing.T, h *Hop) { h.Instance = "b" }
	skipped := append(slices.Clone(deliveredAll), "a skipped continue 1,2,3")
	failed := append(slices.Clone(deliveredAll), "a failed continue 1,2,3")
	held := append(slices.Clone(heldAll), "a failed continue 1,2,3")
	tests := []struct {
		name    string
		change  func(*testing.T, *Hop)
		onError OnError
		shadow  bool
		want    []string
	}{
		{"down, defer", down, OnErrorDefer, false, refusedAll},
		{"down, unset", down, "", false, refusedAll},
		{"down, skip", down, OnErrorSkip, false, skipped},
		{"down, quarantine", down, OnErrorQuarantine, false, held},
		{"down, shadow", down, OnErrorDefer, true, failed},
		{"unknown configuration, defer", otherHash, OnErrorDefer, false, refusedAll},
		{"unknown configuration, skip", otherHash, OnErrorSkip, false, refusedAll},
		{"unknown configuration, quarantine", otherHash, OnErrorQuarantine, false, refusedAll},
		{"unknown configuration, shadow", otherHash, OnErrorDefer, true, failed},
		{"unknown instance, skip", otherName, OnErrorSkip, false, []string{"1 refused hop b", "2 refused hop b", "3 refused hop b"}},
	}
	for _, where := range settings[1:] {
		for _, tt := range tests {
			t.Run(where.name+"/"+tt.name, func(t *testing.T) {
				var out outbox
				h := spec("a", stage.Traits{}, says(stage.Continue()))
				h.OnError, h.Shadow = tt.onError, tt.shadow
				runner, slip := where.build(t, []hopSpec{h}, &out)
				tt.change(t, &slip.Hops[0])
				s := &heard{}
				runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s)
				slices.Sort(tt.want)
				if got := s.said(); !slices.Equal(got, tt.want) {
					t.Errorf("said\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
				}
			})
		}
	}
	t.Run("in process, unknown configuration", func(t *testing.T) {
		var out outbox
		h := spec("a", stage.Traits{}, says(stage.Continue()))
		h.OnError = OnErrorSkip
		runner, slip := settings[0].build(t, []hopSpec{h}, &out)
		slip.Hops[0].Hash = "another"
		s := &heard{}
		runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), slip), s)
		if !slices.Equal(s.said(), refusedAll) {
			t.Errorf("said %q", s.said())
		}
		if _, err := runner.Inline(t.Context(), slip.Hops[0], &parcel(mail.FromBytes([]byte(raw)), slip).Message); !isUnknown(err) {
			t.Errorf("inline: %v", err)
		}
	})
	t.Run("egress", func(t *testing.T) {
		for _, tt := range []struct {
			name, address, want string
		}{{"down", closedPort(t), "1 refused hop egress"}, {"not an egress", serve(t, &Runner{Logger: quiet, Now: time.Now}, "", stage.Traits{}), "1 refused route out"}, {"here, but there is none", "", "1 refused hop egress"}} {
			runner := &Runner{Network: newNetwork(t, nil), Logger: quiet, Now: time.Now}
			s := &heard{}
			runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), Slip{Route: Route{Name: "out", Address: tt.address}}), s)
			if s.said()[0] != tt.want {
				t.Errorf("%s: said %q", tt.name, s.said())
			}
		}
	})
}

func isUnknown(err error) bool {
	not, ok := errors.AsType[*NotHandedOver](err)
	return ok && not.Unknown
}

// Two services stand behind one name, and only one of them has the configuration yet: it gets every message.
func TestOtherAddress(t *testing.T) {
	knows := spec("a", stage.Traits{}, says(stage.Continue()))
	old := with(knows, func(h *hopSpec) { h.Hash = "old" })
	for _, processOnly := range []bool{false, true} {
		var out outbox
		var addresses []resolver.Address
		egress := serve(t, &Runner{Egress: &out, Logger: quiet, Now: time.Now}, "", stage.Traits{})
		others := newNetwork(t, nil)
		types := map[string]stage.Traits{"a": {}}
		for _, h := range []hopSpec{old, knows} {
			st := stagesOf(t, h)
			st.SetForeign(types)
			addresses = append(addresses, resolver.Address{Addr: serve(t, &Runner{Stages: st, Network: others, Logger: quiet, Now: time.Now}, "a", stage.Traits{})})
		}
		name := manual.NewBuilderWithScheme("test")
		name.InitialState(resolver.State{Addresses: addresses})
		conn, err := grpc.NewClient("test:///name", grpc.WithResolvers(name), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		zero := NewStages(time.Hour, quiet, time.Now)
		zero.SetForeign(types)
		runner := &Runner{Stages: zero, Logger: quiet, Now: time.Now, Network: &GRPC{Logger: quiet, Traits: zero.Foreign, Conn: func(address, identity string) (grpc.ClientConnInterface, error) {
			if address == "name" {
				return conn, nil
			}
			return others.Conn(address, identity)
		}}}
		h := knows.Hop
		h.Address, h.ProcessOnly, h.OnError = "name", processOnly, OnErrorSkip
		for range 10 {
			s := &heard{}
			runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), Slip{Hops: []Hop{h}, Route: Route{Name: "out", Address: egress}}), s)
			if want := append(slices.Clone(deliveredAll), "a verdict continue 1,2,3"); !slices.Equal(s.said(), want) {
				t.Fatalf("process only %v: said %q", processOnly, s.said())
			}
		}
		if n := out.count(); n != 30 {
			t.Errorf("%d deliveries, want 30: something was handed on twice", n)
		}
	}
}

// What a service says of itself is compared with what the configuration expects; until it fits, the hop is down.
func TestDescribed(t *testing.T) {
	for _, tt := range []struct {
		name, typ string
		traits    stage.Traits
		want      []string
	}{
		{"another type", "b", stage.Traits{}, refusedAll},
		{"more traits", "a", stage.Traits{EditsBody: true}, refusedAll},
		{"fewer traits", "a", stage.Traits{}, append(slices.Clone(deliveredAll), "a verdict continue 1,2,3")},
	} {
		for _, processOnly := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				var out outbox
				h := spec("a", tt.traits, says(stage.Continue()))
				h.OnError, h.ProcessOnly = OnErrorSkip, processOnly
				egress := serve(t, &Runner{Egress: &out, Logger: quiet, Now: time.Now}, "", stage.Traits{})
				h.Address = serve(t, &Runner{Stages: stagesOf(t, h), Network: newNetwork(t, nil), Logger: quiet, Now: time.Now}, tt.typ, tt.traits)
				types := map[string]stage.Traits{"a": {ReadsBody: true}}
				zero := NewStages(time.Hour, quiet, time.Now)
				zero.SetForeign(types)
				runner := &Runner{Stages: zero, Network: newNetwork(t, types), Logger: quiet, Now: time.Now}
				s := &heard{}
				runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), Slip{Hops: []Hop{h.Hop}, Route: Route{Name: "out", Address: egress}}), s)
				if !slices.Equal(s.said(), tt.want) {
					t.Errorf("said %q", s.said())
				}
			})
		}
	}
}

// relayFunc is a RelayService that does as it likes.
type relayFunc struct {
	relayv1.UnimplementedRelayServiceServer
	f func(grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]) error
}

func (r relayFunc) Relay(s grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]) error {
	return r.f(s)
}

// takeAll reads a whole parcel.
func takeAll(s grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]) error {
	for {
		req, err := s.Recv()
		if err != nil {
			return err
		}
		if req.GetEnd() != nil {
			return nil
		}
	}
}

// A break before the end is the callee's failure: nothing was handed over, on_error decides. After it, what has no
// fate is unknown, what has one keeps it, and nothing is tried a second time.
func TestBreaks(t *testing.T) {
	large := mail.FromBytes([]byte(raw + strings.Repeat("x", 3<<20)))
	report := &relayv1.RelayResponse{Kind: &relayv1.RelayResponse_Report{Report: ReportProto(Report{Instance: "a", Recipients: []mail.RecipientID{"1"}, Outcome: ByVerdict})}}
	fate := func(id mail.RecipientID, k FateKind) *relayv1.RelayResponse {
		return &relayv1.RelayResponse{Kind: &relayv1.RelayResponse_Fate{Fate: FateProto(Fate{Recipient: id, Kind: k, Concern: AboutRecipient})}}
	}
	type stream = grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]
	tests := []struct {
		name    string
		f       func(stream) error
		content mail.Content
		onError OnError
		want    []string
		calls   int32
	}{
		{"before the end", func(s stream) error {
			_, err := s.Recv()
			return errors.Join(err, status.Error(codes.Unavailable, "gone"))
		}, large, OnErrorDefer, refusedAll, attempts},
		{"before the end, skip", func(s stream) error {
			_, err := s.Recv()
			return errors.Join(err, status.Error(codes.Unavailable, "gone"))
		}, large, OnErrorSkip,
			append(slices.Clone(deliveredAll), "a skipped continue 1,2,3"), attempts},
		{"after the end", func(s stream) error { return errors.Join(takeAll(s), status.Error(codes.Unavailable, "gone")) }, large, OnErrorSkip,
			[]string{"1 unknown hop a", "2 unknown hop a", "3 unknown hop a"}, 1},
		{"after the end, without an error", takeAll, large, OnErrorSkip, []string{"1 unknown hop a", "2 unknown hop a", "3 unknown hop a"}, 1},
		{"after a fate", func(s stream) error {
			return errors.Join(takeAll(s), s.Send(report), s.Send(fate("1", Delivered)), s.Send(fate("3", Rejected)), status.Error(codes.Unavailable, "gone"))
		}, large, OnErrorSkip, []string{"1 delivered recipient ", "2 unknown hop a", "3 rejected recipient ", "a verdict continue 1"}, 1},
		{"a refusal after a fate", func(s stream) error {
			return errors.Join(takeAll(s), s.Send(fate("1", Delivered)), status.Error(codes.FailedPrecondition, "never heard of it"))
		}, mail.FromBytes([]byte(raw)), OnErrorSkip, []string{"1 delivered recipient ", "2 unknown hop a", "3 unknown hop a"}, 1},
		{"a refusal after a report", func(s stream) error {
			return errors.Join(takeAll(s), s.Send(report), status.Error(codes.FailedPrecondition, "never heard of it"))
		}, mail.FromBytes([]byte(raw)), OnErrorSkip, []string{"1 unknown hop a", "2 unknown hop a", "3 unknown hop a", "a verdict continue 1"}, 1},
		{"a response of an unknown kind", func(s stream) error {
			return errors.Join(takeAll(s), s.Send(&relayv1.RelayResponse{}), s.Send(fate("1", Delivered)))
		}, mail.FromBytes([]byte(raw)), OnErrorSkip, []string{"1 unknown hop a", "2 unknown hop a", "3 unknown hop a"}, 1},
		{"a fate of an unknown kind", func(s stream) error {
			f := FateProto(Fate{Recipient: "1"})
			f.Kind = 99
			return errors.Join(takeAll(s), s.Send(&relayv1.RelayResponse{Kind: &relayv1.RelayResponse_Fate{Fate: f}}), s.Send(fate("2", Delivered)), s.Send(fate("3", Delivered)))
		}, mail.FromBytes([]byte(raw)), OnErrorSkip, []string{"1 unknown recipient ", "2 delivered recipient ", "3 delivered recipient "}, 1},
		{"no RelayService", func(stream) error { return status.Error(codes.Unimplemented, "no such method") }, large, OnErrorDefer, refusedAll, attempts},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var calls atomic.Int32
			var out outbox
			egress := serve(t, &Runner{Egress: &out, Logger: quiet, Now: time.Now}, "", stage.Traits{})
			address := serveWith(t, func(s *grpc.Server) {
				relayv1.RegisterRelayServiceServer(s, relayFunc{f: func(st stream) error { calls.Add(1); return tt.f(st) }})
			})
			runner := &Runner{Network: newNetwork(t, nil), Logger: quiet, Now: time.Now}
			s := &heard{}
			runner.Run(t.Context(), parcel(tt.content, Slip{Hops: []Hop{{Instance: "a", Type: "a", Address: address, OnError: tt.onError}}, Route: Route{Name: "out", Address: egress}}), s)
			slices.Sort(tt.want)
			if !slices.Equal(s.said(), tt.want) {
				t.Errorf("said\n%s\nwant\n%s", strings.Join(s.said(), "\n"), strings.Join(tt.want, "\n"))
			}
			if calls.Load() != tt.calls {
				t.Errorf("%d calls, want %d", calls.Load(), tt.calls)
			}
		})
	}
}

// A handler that does not read, or reads and never answers, holds its caller until the caller's deadline, no longer.
func TestStall(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    func(grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]) error
		size int
		want string
	}{
		{"it does not read", func(s grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]) error {
			<-s.Context().Done()
			return s.Context().Err()
		}, 20 << 20, "1 refused hop a"},
		{"it does not answer", func(s grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]) error {
			err := takeAll(s)
			<-s.Context().Done()
			return err
		}, 10, "1 unknown hop a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out outbox
			address := serveWith(t, func(s *grpc.Server) { relayv1.RegisterRelayServiceServer(s, relayFunc{f: tt.f}) })
			runner := &Runner{Egress: &out, Network: newNetwork(t, nil), Logger: quiet, Now: time.Now}
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			content, s := watch(t, []byte(raw+strings.Repeat("x", tt.size))), &heard{}
			start := time.Now()
			runner.Run(ctx, parcel(content, Slip{Hops: []Hop{{Instance: "a", Type: "a", Address: address, OnError: OnErrorSkip}}, Route: Route{Name: "out", Address: address}}), s)
			if s.said()[0] != tt.want || len(s.fates) != 3 || out.count() > 0 {
				t.Errorf("said %q", s.said())
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			content.free()
		})
	}
}

// stageFunc is a StageService that does as it likes.
type stageFunc struct {
	stagev1.UnimplementedStageServiceServer
	f func(grpc.BidiStreamingServer[stagev1.ProcessRequest, stagev1.ProcessResponse]) error
}

func (r stageFunc) Process(s grpc.BidiStreamingServer[stagev1.ProcessRequest, stagev1.ProcessResponse]) error {
	return r.f(s)
}

// What a stage in another language sends and this version does not understand is a failure of the stage, never a
// Continue.
func TestForeignAnswers(t *testing.T) {
	good := func() *stagev1.Result {
		return resultProto(stage.Result{Branch: stage.Branch{Edits: mail.Edits{Splices: []mail.Splice{{Insert: []byte("X: y\r\n")}}, Rewrites: []mail.Rewrite{{Recipient: "1", To: mail.Address{Local: "a", Domain: "b.example"}}}, ReversePath: &mail.Address{}}},
			Forks: []stage.Fork{{To: []mail.RecipientID{"2"}}}})
	}
	unknownField := []byte{0xf8, 0x07, 0x01} // field 127, varint 1
	tests := map[string]func(*stagev1.Result) *stagev1.Result{
		"no result":                  func(*stagev1.Result) *stagev1.Result { return nil },
		"an empty result":            func(*stagev1.Result) *stagev1.Result { return &stagev1.Result{} },
		"an unset verdict":           func(r *stagev1.Result) *stagev1.Result { r.Branch.Verdict = 0; return r },
		"an unset verdict in a fork": func(r *stagev1.Result) *stagev1.Result { r.Forks[0].Branch.Verdict = 0; return r },
		"a negative verdict":         func(r *stagev1.Result) *stagev1.Result { r.Branch.Verdict = -1; return r },
		"a new verdict":              func(r *stagev1.Result) *stagev1.Result { r.Branch.Verdict = 6; return r },
		"a new field of the result":  func(r *stagev1.Result) *stagev1.Result { r.ProtoReflect().SetUnknown(unknownField); return r },
		"a new field of the branch":  func(r *stagev1.Result) *stagev1.Result { r.Branch.ProtoReflect().SetUnknown(unknownField); return r },
		"a new field of a fork":      func(r *stagev1.Result) *stagev1.Result { r.Forks[0].ProtoReflect().SetUnknown(unknownField); return r },
		"a new kind of edit": func(r *stagev1.Result) *stagev1.Result {
			r.Branch.Edits.ProtoReflect().SetUnknown(unknownField)
			return r
		},
		"a new field of a splice": func(r *stagev1.Result) *stagev1.Result {
			r.Branch.Edits.Splices[0].ProtoReflect().SetUnknown(unknownField)
			return r
		},
		"a new field of a rewrite": func(r *stagev1.Result) *stagev1.Result {
			r.Branch.Edits.Rewrites[0].ProtoReflect().SetUnknown(unknownField)
			return r
		},
		"a new field of the path": func(r *stagev1.Result) *stagev1.Result {
			r.Branch.Edits.ReversePath.ProtoReflect().SetUnknown(unknownField)
			return r
		},
		"an address that is none": func(r *stagev1.Result) *stagev1.Result { r.Branch.Edits.Rewrites[0].Address = "a\r\nb"; return r },
		"a splice far away":       func(r *stagev1.Result) *stagev1.Result { r.Branch.Edits.Splices[0].Offset = 1 << 63; return r },
	}
	run := func(t *testing.T, f func(grpc.BidiStreamingServer[stagev1.ProcessRequest, stagev1.ProcessResponse]) error) *heard {
		address := serveWith(t, func(s *grpc.Server) { stagev1.RegisterStageServiceServer(s, stageFunc{f: f}) })
		zero := NewStages(time.Hour, quiet, time.Now)
		zero.SetForeign(map[string]stage.Traits{"a": allTraits})
		runner := &Runner{Stages: zero, Egress: &outbox{}, Network: newNetwork(t, nil), Logger: quiet, Now: time.Now}
		s := &heard{}
		runner.Run(t.Context(), parcel(mail.FromBytes([]byte(raw)), Slip{Hops: []Hop{{Instance: "a", Type: "a", Address: address, ProcessOnly: true, Timeout: 5 * time.Second}}, Route: Route{Name: "out"}}), s)
		return s
	}
	answer := func(r *stagev1.Result) func(grpc.BidiStreamingServer[stagev1.ProcessRequest, stagev1.ProcessResponse]) error {
		return func(s grpc.BidiStreamingServer[stagev1.ProcessRequest, stagev1.ProcessResponse]) error {
			for {
				if _, err := s.Recv(); errors.Is(err, io.EOF) {
					return s.Send(&stagev1.ProcessResponse{Result: r})
				} else if err != nil {
					return err
				}
			}
		}
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			if s := run(t, answer(change(good()))); s.fate(t, "1").Kind != Deferred || s.fate(t, "1").Concern != AboutHop || s.reports[0].Outcome != Failed {
				t.Errorf("said %q", s.said())
			}
		})
	}
	t.Run("what is understood", func(t *testing.T) {
		if s := run(t, answer(good())); s.fate(t, "1").Kind != Delivered {
			t.Errorf("said %q: %+v", s.said(), s.reports)
		}
	})
	t.Run("the end without an answer", func(t *testing.T) {
		if s := run(t, func(s grpc.BidiStreamingServer[stagev1.ProcessRequest, stagev1.ProcessResponse]) error { return nil }); s.fate(t, "1").Kind == Delivered {
			t.Errorf("said %q", s.said())
		}
	})
	t.Run("a reply as the error", func(t *testing.T) {
		s := run(t, func(s grpc.BidiStreamingServer[stagev1.ProcessRequest, stagev1.ProcessResponse]) error {
			return replyStatus(&mail.Reply{Code: 451, Enhanced: "4.7.0", Text: "scanner busy", Private: "queue \xff"})
		})
		if r := s.fate(t, "1").Reply; r == nil || r.Code != 451 || r.Enhanced != "4.7.0" || r.Text != "scanner busy" || !strings.HasPrefix(r.Private, "queue ") {
			t.Errorf("reply: %+v of %q", r, s.said())
		}
	})
}

// A caller that goes away aborts the run: the stage's context ends, and nothing is handed on.
func TestCallerGone(t *testing.T) {
	for _, where := range settings {
		t.Run(where.name+"/in a stage", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			var out outbox
			ended := make(chan struct{})
			var once sync.Once
			h := spec("a", stage.Traits{}, func(ctx context.Context, _ *mail.Message) (stage.Result, error) {
				cancel()
				<-ctx.Done()
				once.Do(func() { close(ended) })
				return stage.Result{}, ctx.Err()
			})
			h.OnError = OnErrorSkip
			runner, slip := where.build(t, []hopSpec{h}, &out)
			content, s := watch(t, []byte(raw)), &heard{}
			runner.Run(ctx, parcel(content, slip), s)
			<-ended
			if f := s.fate(t, "1"); f.Kind != Refused && f.Kind != Unknown || out.count() > 0 {
				t.Errorf("fate: %+v", f)
			}
			content.free()
		})
		t.Run(where.name+"/before it starts", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			var out outbox
			h := spec("a", stage.Traits{}, says(stage.Continue()))
			h.OnError = OnErrorSkip
			runner, slip := where.build(t, []hopSpec{h}, &out)
			s := &heard{}
			runner.Run(ctx, parcel(mail.FromBytes([]byte(raw)), slip), s)
			if !slices.Equal(s.said(), refusedAll) || out.count() > 0 {
				t.Errorf("said %q", s.said())
			}
		})
	}
}
