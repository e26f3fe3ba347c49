package ingress

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// open runs a whole Ingress on the office's server, under another name.
func (o *office) open(t *testing.T, change func(*Options)) *Ingress {
	t.Helper()
	cfg := *o.o.Config
	cfg.Revision = "abc"
	cfg.Ingress.Limits.Connections = 100
	cfg.Ingress.Listeners = []config.Listener{{Name: "mx", Address: "127.0.0.1:0", TLS: config.ListenerSTARTTLS}, {Name: "local", Address: "127.0.0.1:0", TLS: config.ListenerPlain}}
	opts := o.o
	opts.Config, opts.Instance, opts.Durable = &cfg, "whole", true
	if change != nil {
		change(&opts)
	}
	in, err := New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- in.Run(ctx) }()
	select {
	case <-in.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return in
}

// statusOf asks as a caller does who will not wait for long.
func statusOf(t *testing.T, in *Ingress) *adminv1.GetStatusResponse {
	t.Helper()
	began := time.Now()
	s, err := in.Status().GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("the status took %v", took)
	}
	if _, err := proto.Marshal(s); err != nil {
		t.Errorf("it cannot be sent: %v", err)
	}
	return s
}

func problem(s *adminv1.GetStatusResponse, words string) *adminv1.Problem {
	for _, p := range s.GetProblems() {
		if strings.Contains(p.GetText(), words) {
			return p
		}
	}
	return nil
}

func TestStatus(t *testing.T) {
	o := newOffice(t, false)
	in := o.open(t, nil)
	s := statusOf(t, in)
	if s.GetHostname() != "relay.example.com" || s.GetVersion() == "" || s.GetRevision() != "abc" || time.Since(s.GetStarted().AsTime()) > time.Minute || s.GetHeld() ||
		!strings.Contains(s.GetDurability(), "sync_interval: always") {
		t.Errorf("%v", s)
	}
	if n := len(s.GetShards()); n != 1 || s.GetShards()[0].GetName() != "whole" || s.GetShards()[0].GetStopped() != "" || s.GetShards()[0].GetAdopted() {
		t.Errorf("%v", s.GetShards())
	}
	if len(s.GetListeners()) != 2 || s.GetListeners()[0].GetCertificateEnds() == nil || !s.GetListeners()[0].GetSelfSigned() || s.GetListeners()[1].GetCertificateEnds() != nil ||
		s.GetListeners()[0].GetAddress() != in.Addr("mx").String() {
		t.Errorf("%v", s.GetListeners())
	}
	if len(s.GetProblems()) != 0 || len(s.GetRooms()) != 5 || len(s.GetBarriers()) != 0 {
		t.Errorf("%v", s)
	}

	// Mail in every room, a route that is down and one that is paused.
	shard := in.shard()
	o.post(t, shard, toQuarantine, "anna@example.com", "bob@example.net", "carol@example.net")
	o.post(t, shard, toRetry, "anna@example.com", "bob@example.net")
	o.post(t, shard, chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRoute, About: "out", Reason: "refused at AUTH\x1b[2J", Reply: &mail.Reply{Code: 535, Enhanced: "5.7.8", Text: "bad \xff credentials"}},
		"anna@example.com", "bob@example.net")
	s = statusOf(t, in)
	rooms := map[string]string{}
	for _, r := range s.GetRooms() {
		rooms[r.GetName()] = fmt.Sprintf("%d %d %d %t", r.GetMessages(), r.GetRecipients(), r.GetBytes(), r.GetOldest() != nil)
	}
	if want := map[string]string{"retry": "1 1 25 true", "park": "1 1 25 true", "demand": "0 0 0 false", "quarantine": "1 2 25 true", "dead": "0 0 0 false"}; fmt.Sprint(rooms) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", rooms, want)
	}
	if b := s.GetBarriers(); len(b) != 2 || b[0].GetKind() != "route" || b[0].GetName() != "out" || b[0].GetWaiting() != 1 || b[0].GetBy() != "" ||
		b[1].GetKind() != "destination" || b[1].GetName() != "example.net" || b[1].GetWaiting() != 1 {
		t.Errorf("%v", b)
	}
	if p := problem(s, "the login is refused"); p.GetSeverity() != adminv1.Severity_SEVERITY_WARNING || strings.Contains(p.GetText(), "\x1b") || strings.ToValidUTF8(p.GetText(), "") != p.GetText() {
		t.Errorf("%v", s.GetProblems())
	}
	if p := problem(s, "in quarantine"); p.GetSeverity() != adminv1.Severity_SEVERITY_WARNING || p.GetRemedy() == "" {
		t.Errorf("%v", s.GetProblems())
	}
	if _, err := in.Routes().PauseRoute(by(t, "anna"), &adminv1.PauseRouteRequest{Name: "out", Reason: "unpaid"}); err != nil {
		t.Fatal(err)
	}
	s = statusOf(t, in)
	if p := problem(s, "route out is paused"); p == nil || !strings.Contains(p.GetText(), "by anna; 1 message waits (unpaid)") {
		t.Errorf("%v", s.GetProblems())
	}
	in.Pause()
	if s = statusOf(t, in); !s.GetHeld() || problem(s, "--hold") == nil {
		t.Errorf("%v", s.GetProblems())
	}
	in.Resume()

	// NATS is gone: the status tells that first, and at once.
	o.nats.Shutdown()
	o.nats.WaitForShutdown()
	eventually(t, "that is noticed", func() bool { return in.natsAway() != "" })
	s = statusOf(t, in)
	if p := s.GetProblems(); len(p) == 0 || !strings.Contains(p[0].GetText(), "NATS cannot be reached") || p[0].GetSeverity() != adminv1.Severity_SEVERITY_CRITICAL {
		t.Errorf("%v", p)
	}
	if s.GetShards()[0].GetStopped() != "down" || problem(s, "the log of shard") != nil {
		t.Errorf("%v, %v", s.GetShards(), s.GetProblems())
	}
	if rooms := s.GetRooms(); rooms[0].GetMessages() != 1 {
		t.Errorf("%v", rooms)
	}
	in.own.Store(nil)
	if s = statusOf(t, in); s.GetShards()[0].GetStopped() != "lost" || problem(s, "is lost to this process") == nil {
		t.Errorf("%v", s.GetShards())
	}
	in.own.Store(shard)
}

func TestRunning(t *testing.T) {
	o := newOffice(t, false)
	o.smtp = o.open(t, nil).smtp
	o.egress.hold = make(chan struct{})
	r := o.begin(t, "staff", 10000)
	write(t, r, 1000)
	commit(t, r, 0)
	eventually(t, "it runs", func() bool { return statusOf(t, o.Ingress).GetRunning() == 1 })
	close(o.egress.hold)
	eventually(t, "it has run", func() bool { return statusOf(t, o.Ingress).GetRunning() == 0 })
}

func TestShardThatIsFull(t *testing.T) {
	o := newOffice(t, false)
	free := uint64(1 << 40)
	in := o.open(t, func(opts *Options) {
		opts.FreeSpace = func() (uint64, error) { return free, nil }
	})
	if s := statusOf(t, in); len(s.GetProblems()) != 0 {
		t.Errorf("%v", s.GetProblems())
	}
	log, _, err := spool.Open(t.Context(), func() spool.Options {
		opts := in.options("tight")
		opts.FreeSpace = func() (uint64, error) { return 1000, nil }
		return opts
	}())
	if err != nil {
		t.Fatal(err)
	}
	tight := in.work(log, &spool.Recovered{})
	in.mu.Lock()
	in.adopted[tight] = struct{}{}
	in.mu.Unlock()
	t.Cleanup(func() {
		in.mu.Lock()
		delete(in.adopted, tight)
		in.mu.Unlock()
		in.finish(tight)
	})
	s := statusOf(t, in)
	i := slices.IndexFunc(s.GetShards(), func(s *adminv1.Shard) bool { return s.GetName() == "tight" })
	if i != 1 || s.GetShards()[1].GetStopped() != "full" || !s.GetShards()[1].GetAdopted() || !strings.Contains(s.GetShards()[1].GetReason(), "1000 bytes") {
		t.Errorf("%v", s.GetShards())
	}
	if p := s.GetProblems()[0]; p.GetSeverity() != adminv1.Severity_SEVERITY_CRITICAL || !strings.Contains(p.GetText(), "takes no more mail") {
		t.Errorf("%v", s.GetProblems())
	}
	if problem(s, "was taken over") == nil {
		t.Errorf("%v", s.GetProblems())
	}
}

func TestFindings(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	cfg := &config.Config{Hostname: "relay.example.com"}
	certificate := func(left time.Duration, self bool, addresses ...string) func(*findings) {
		return func(p *findings) {
			var all []*adminv1.Listener
			for _, a := range addresses {
				all = append(all, &adminv1.Listener{Name: "mx", Address: a, SelfSigned: self})
			}
			p.certificate(cfg, now.Add(left), self, "", all)
		}
	}
	room := func(name string, n uint64, d time.Duration) func(*findings) {
		return func(p *findings) {
			p.room(&adminv1.Room{Name: name, Messages: n, Oldest: ago(d)})
		}
	}
	barrier := func(b *adminv1.Barrier) func(*findings) { return func(p *findings) { p.barrier(b) } }
	day := 24 * time.Hour
	for name, c := range map[string]struct {
		do   func(*findings)
		want string
	}{
		"certificate, long":       {certificate(15*day, false, ":25"), ""},
		"certificate, two weeks":  {certificate(14*day, false, ":25"), "WARNING the certificate of the listeners ends in 14 days, on 2026-03-15"},
		"certificate, a week":     {certificate(7*day, false, ":25"), "CRITICAL the certificate of the listeners ends in 7 days"},
		"certificate, over":       {certificate(-time.Hour, false, ":25"), "CRITICAL the certificate of the listeners has ended on 2026-03-01"},
		"self-signed, here":       {certificate(99*day, true, "127.0.0.1:25", "[::1]:25", "localhost:25"), ""},
		"self-signed, public":     {certificate(99*day, true, "127.0.0.1:25", "0.0.0.0:25"), "WARNING listener mx (0.0.0.0:25) shows a self-signed certificate"},
		"self-signed, any":        {certificate(99*day, true, ":25"), "WARNING listener mx (:25)"},
		"nothing is dead":         {room("dead", 0, 0), ""},
		"dead":                    {room("dead", 1, 3*day), "WARNING 1 message is dead, the oldest for 3 days"},
		"quarantine":              {room("quarantine", 2, 90*time.Minute), "WARNING 2 messages are in quarantine, the oldest for 90 min"},
		"retry":                   {room("retry", 2, 4*time.Hour), ""},
		"retry, long":             {room("retry", 2, 5*time.Hour), "WARNING 2 messages are tried again and again, the oldest for 5 h"},
		"park":                    {room("park", 2, 9*day), ""},
		"filled":                  {func(p *findings) { p.shard(&adminv1.Shard{Name: "one", Filled: 0.71}, false) }, "WARNING shard one: a stream is filled to 71%"},
		"not filled":              {func(p *findings) { p.shard(&adminv1.Shard{Name: "one", Filled: 0.7}, false) }, ""},
		"down":                    {func(p *findings) { p.shard(&adminv1.Shard{Name: "one", Stopped: "down"}, false) }, "CRITICAL the log of shard one does not answer"},
		"down, NATS is away":      {func(p *findings) { p.shard(&adminv1.Shard{Name: "one", Stopped: "down"}, true) }, ""},
		"lost":                    {func(p *findings) { p.shard(&adminv1.Shard{Name: "one", Stopped: "lost"}, true) }, "CRITICAL shard one is lost"},
		"hop":                     {barrier(&adminv1.Barrier{Kind: "hop", Name: "signer", Since: ago(14 * time.Minute), Reason: "refused", Waiting: 3}), "WARNING hop signer is down for 14 min; 3 messages wait: refused"},
		"hop, long":               {barrier(&adminv1.Barrier{Kind: "hop", Name: "signer", Since: ago(15 * time.Minute), Reason: "refused"}), "CRITICAL hop signer is down for 15 min"},
		"route, login":            {barrier(&adminv1.Barrier{Kind: "route", Name: "out", Since: ago(time.Hour), Reason: "refused at AUTH: 535 5.7.8 no"}), "CRITICAL route out: the login is refused for 60 min"},
		"paused, however long":    {barrier(&adminv1.Barrier{Kind: "route", Name: "out", Since: ago(9 * day), By: "anna"}), "WARNING route out is paused for 9 days by anna; 0 messages wait"},
		"a destination is theirs": {barrier(&adminv1.Barrier{Kind: "destination", Name: "example.net", Since: ago(9 * day)}), ""},
	} {
		p := &findings{now: now}
		c.do(p)
		got := ""
		for _, f := range p.list {
			got += strings.TrimPrefix(f.GetSeverity().String(), "SEVERITY_") + " " + f.GetText() + "\n"
			if f.GetRemedy() == "" {
				t.Errorf("%s: nothing to be done", name)
			}
		}
		if !strings.HasPrefix(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestWorstFirst(t *testing.T) {
	p := &findings{}
	p.warning("a", "")
	p.critical("b", "")
	p.warning("c", "")
	p.critical("d", "")
	got := ""
	for _, f := range p.worstFirst() {
		got += f.GetText()
	}
	if got != "bdac" {
		t.Error(got)
	}
}

func TestPlainText(t *testing.T) {
	for in, want := range map[string]string{"a\r\nb": "a  b", "\x1b[2Jx": "\uFFFD[2Jx", "\xff": "\uFFFD", "\u202Ex": "\uFFFDx", "Grüße": "Grüße", strings.Repeat("ä", 400): strings.Repeat("ä", 300) + "…"} {
		if got := plainText(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
