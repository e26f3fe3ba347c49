package ingress

import (
	"context"
	"errors"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/stage"
)

// desk is an Ingress that previews and nothing else.
type desk struct {
	client  adminv1.PreviewServiceClient
	server  *preview
	tempDir string
	judge   stage.Func // of the stage "check"
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{tempDir: t.TempDir()}
	check, scan := &config.Stage{Name: "check", Type: "check", Hash: "h"}, &config.Stage{Name: "scan", Type: "scan", Hash: "h"}
	cfg := &config.Config{Hostname: "relay.example.com", TempDir: d.tempDir, Stages: map[string]*config.Stage{"check": check, "scan": scan},
		Ingress: config.Ingress{Limits: config.Limits{MessageSize: 8 * mega}, Listeners: []config.Listener{
			{Name: "local", TLS: config.ListenerPlain}, {Name: "submission", TLS: config.ListenerSTARTTLS, AuthRequired: true}, {Name: "submissions", TLS: config.ListenerImplicit}}},
		Domains: []config.Domain{{Name: "example.com", Any: true}, {Name: "nochain.example", Any: true}},
		Relay: []config.RelayRule{
			{Name: "server", Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Senders: []string{"*@example.com"}},
			{Name: "staff", Auth: true},
		},
		Routes: map[string]*config.Route{"out": {Name: "out"}},
		Chains: []*config.Chain{
			{Name: "inbound", Match: config.Match{Direction: []mail.Direction{mail.Inbound, mail.Internal}, Recipients: []string{"*@example.com"}},
				Stages: []config.Use{{Stage: scan, Inline: true, OnError: "defer"}}, Deliver: "out"},
			{Name: "outbound", Match: config.Match{Direction: []mail.Direction{mail.Outbound}}, Stages: []config.Use{{Stage: check, OnError: "defer"}}, Deliver: "out"},
		}}
	quiet := slog.New(slog.DiscardHandler)
	stages := chain.NewStages(time.Hour, quiet, time.Now)
	t.Cleanup(stages.Close)
	pass := stage.Func(func(context.Context, *mail.Message) (stage.Result, error) { return stage.Result{}, nil })
	err := stages.Replace([]chain.Instance{
		{Name: "scan", Hash: "h", Type: "scan", New: func() (stage.Stage, error) { return pass, nil }},
		{Name: "check", Hash: "h", Type: "check", New: func() (stage.Stage, error) {
			return stage.Func(func(ctx context.Context, m *mail.Message) (stage.Result, error) {
				if d.judge == nil {
					return stage.Result{}, nil
				}
				return d.judge(ctx, m)
			}), nil
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(cfg, policy.Options{Logger: quiet, Now: time.Now, Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	in := &Ingress{policy: p, o: Options{Config: cfg, Logger: quiet, Runner: &chain.Runner{Stages: stages, Logger: quiet, Now: time.Now}}}
	d.server, _ = in.Preview().(*preview)
	l := bufconn.Listen(64 << 10)
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	adminv1.RegisterPreviewServiceServer(server, d.server)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	d.client = adminv1.NewPreviewServiceClient(conn)
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		d.idle(t)
	})
	return d
}

// idle waits until nothing runs and no file is open.
func (d *desk) idle(t *testing.T) {
	t.Helper()
	eventually(t, "the slots are free", func() bool { return len(d.server.slots) == 0 })
	eventually(t, "the files are closed", func() bool {
		links, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, d.tempDir) {
				return false
			}
		}
		return true
	})
}

type previewClient = grpc.BidiStreamingClient[adminv1.PreviewRequest, adminv1.PreviewResponse]

func (d *desk) open(t *testing.T) previewClient {
	t.Helper()
	stream, err := d.client.Preview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func endOf(raw string) *adminv1.PreviewRequest {
	return &adminv1.PreviewRequest{Kind: &adminv1.PreviewRequest_End{End: &stagev1.End{Length: uint64(len(raw)), Crc32C: crc32.Checksum([]byte(raw), castagnoli)}}}
}

func chunkOf(raw string) *adminv1.PreviewRequest {
	return &adminv1.PreviewRequest{Kind: &adminv1.PreviewRequest_Chunk{Chunk: []byte(raw)}}
}

func beginOf(b *adminv1.PreviewBegin) *adminv1.PreviewRequest {
	return &adminv1.PreviewRequest{Kind: &adminv1.PreviewRequest_Begin{Begin: b}}
}

// put sends requests; that the other side has hung up is seen in its answer.
func put(t *testing.T, stream previewClient, requests ...*adminv1.PreviewRequest) {
	t.Helper()
	for _, r := range requests {
		if err := stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
}

// ask is a whole preview.
func (d *desk) ask(t *testing.T, b *adminv1.PreviewBegin, raw string) ([]*adminv1.PreviewResponse, error) {
	t.Helper()
	stream := d.open(t)
	put(t, stream, beginOf(b))
	for rest := raw; rest != ""; {
		n := min(len(rest), 200<<10)
		put(t, stream, chunkOf(rest[:n]))
		rest = rest[n:]
	}
	put(t, stream, endOf(raw))
	return answers(stream)
}

func answers(stream previewClient) (out []*adminv1.PreviewResponse, err error) {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, r)
	}
}

const hello = "From: anna@example.com\nSubject: hello\n\nGood morning.\n"

// outward is a request that the rule server lets in.
func outward() *adminv1.PreviewBegin {
	return &adminv1.PreviewBegin{ReversePath: "anna@example.com", Recipients: []string{"bob@example.net"}}
}

func TestPreviewBounds(t *testing.T) {
	d := newDesk(t)
	entered, leave := make(chan struct{}, 8), make(chan struct{})
	d.judge = func(ctx context.Context, _ *mail.Message) (stage.Result, error) {
		entered <- struct{}{}
		select {
		case <-leave:
		case <-ctx.Done():
		}
		return stage.Result{}, ctx.Err()
	}
	var under []previewClient
	for range maxPreviews {
		stream := d.open(t)
		put(t, stream, beginOf(outward()), chunkOf(hello), endOf(hello))
		<-entered
		under = append(under, stream)
	}
	if _, err := d.ask(t, outward(), hello); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "try again") {
		t.Errorf("one too many: %v", err)
	}
	close(leave)
	for _, stream := range under {
		if _, err := answers(stream); err != nil {
			t.Error(err)
		}
	}
	d.idle(t)
	if _, err := d.ask(t, outward(), hello); err != nil {
		t.Errorf("when there is room again: %v", err)
	}
	// The client goes away while a stage judges: that ends it.
	leave = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := d.client.Preview(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for len(entered) > 0 {
		<-entered
	}
	put(t, stream, beginOf(outward()), chunkOf(hello), endOf(hello))
	<-entered
	cancel()
	d.idle(t)
}

// Who sends, reads or judges without an end is cut, and nothing of it is left.
func TestPreviewDeadline(t *testing.T) {
	large := "Subject: large\n\n" + strings.Repeat(strings.Repeat("x", 70)+"\n", 4*mega/71)
	for name, do := range map[string]func(t *testing.T, d *desk) error{
		"sends nothing": func(t *testing.T, d *desk) error { _, err := answers(d.open(t)); return err },
		"sends no end": func(t *testing.T, d *desk) error {
			stream := d.open(t)
			put(t, stream, beginOf(outward()), chunkOf(large[:2*mega]))
			_, err := answers(stream)
			return err
		},
		"does not read": func(t *testing.T, d *desk) error {
			stream := d.open(t)
			put(t, stream, beginOf(outward()))
			for rest := large; rest != ""; rest = rest[min(len(rest), 200<<10):] {
				put(t, stream, chunkOf(rest[:min(len(rest), 200<<10)]))
			}
			put(t, stream, endOf(large))
			eventually(t, "it is cut", func() bool { return len(d.server.slots) == 0 })
			_, err := answers(stream)
			return err
		},
		"a stage without an end": func(t *testing.T, d *desk) error {
			d.judge = func(ctx context.Context, _ *mail.Message) (stage.Result, error) {
				<-ctx.Done()
				return stage.Result{}, ctx.Err()
			}
			_, err := d.ask(t, outward(), hello)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			d.server.timeout = 300 * time.Millisecond
			if err := do(t, d); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestPreviewPlans(t *testing.T) {
	d := newDesk(t)
	// itineraries are chain, direction, rule and recipients.
	itineraries := func(rs []*adminv1.PreviewResponse) (out []string) {
		for _, r := range rs {
			if it := r.GetItinerary(); it != nil {
				s := it.GetChain() + " " + it.GetDirection() + " " + it.GetRelay()
				for _, to := range it.GetRecipients() {
					s += " " + to.GetAddress()
				}
				if strings.Contains(string(it.GetPrepended()), "for <") {
					s += " named"
				}
				out = append(out, s)
			}
		}
		return out
	}
	for name, one := range map[string]struct {
		b    *adminv1.PreviewBegin
		raw  string
		want string // itineraries, or the code and a word of the error
	}{
		"the first rule whose senders match": {outward(), hello, "outbound outbound server bob@example.net named"},
		"the next rule":                      {&adminv1.PreviewBegin{ReversePath: "x@example.net", Recipients: []string{"bob@example.net"}}, hello, "outbound outbound staff bob@example.net named"},
		"a rule by name":                     {&adminv1.PreviewBegin{Relay: "staff", ReversePath: "anna@example.com", Recipients: []string{"bob@example.net"}}, hello, "outbound outbound staff bob@example.net named"},
		"a client":                           {&adminv1.PreviewBegin{Client: "192.0.2.9", ReversePath: "anna@example.com", Recipients: []string{"bob@example.net"}}, hello, "outbound outbound server bob@example.net named"},
		"a user":                             {&adminv1.PreviewBegin{User: "anna", ReversePath: "anna@example.com", Recipients: []string{"bob@example.net"}}, hello, "outbound outbound staff bob@example.net named"},
		"a client that no rule knows":        {&adminv1.PreviewBegin{Client: "198.51.100.1", Recipients: []string{"carol@example.com"}}, hello, "inbound inbound  carol@example.com named"},
		"a stranger":                         {&adminv1.PreviewBegin{Stranger: true, Recipients: []string{"carol@example.com", "dora@example.com"}}, hello, "inbound inbound  carol@example.com dora@example.com"},
		// What runs before the 250 differs, so these are two transactions.
		"two transactions": {&adminv1.PreviewBegin{ReversePath: "anna@example.com", Recipients: []string{"bob@example.net", "carol@example.com"}}, hello,
			"outbound outbound server bob@example.net named; inbound internal server carol@example.com named"},
		"the null sender, by its From":   {&adminv1.PreviewBegin{Relay: "", Client: "192.0.2.9", Recipients: []string{"bob@example.net"}}, hello, "outbound outbound server bob@example.net named"},
		"the null sender, another's":     {&adminv1.PreviewBegin{Client: "192.0.2.9", Recipients: []string{"bob@example.net"}}, "From: x@example.net\n\n.\n", "FailedPrecondition header From"},
		"postmaster":                     {&adminv1.PreviewBegin{Stranger: true, Recipients: []string{"postmaster"}}, hello, "inbound inbound  postmaster@example.com named"},
		"any chain":                      {&adminv1.PreviewBegin{Stranger: true, Chain: "outbound", Recipients: []string{"carol@example.com"}}, hello, "outbound inbound  carol@example.com named"},
		"twice the same":                 {&adminv1.PreviewBegin{Stranger: true, Recipients: []string{"carol@example.com", "carol@EXAMPLE.com"}}, hello, "inbound inbound  carol@example.com named"},
		"a recipient without a chain":    {&adminv1.PreviewBegin{Stranger: true, Recipients: []string{"carol@example.com", "e@nochain.example"}}, hello, "NotFound <e@nochain.example>: 550 5.7.1 no chain"},
		"a stranger to the outside":      {&adminv1.PreviewBegin{Stranger: true, Recipients: []string{"bob@example.net"}}, hello, "FailedPrecondition <bob@example.net>: 550 5.7.1 relaying denied"},
		"a stranger where a login is":    {&adminv1.PreviewBegin{Stranger: true, Listener: "submission", Recipients: []string{"carol@example.com"}}, hello, "FailedPrecondition 530 5.7.0"},
		"a login there":                  {&adminv1.PreviewBegin{User: "anna", Listener: "submission", Recipients: []string{"bob@example.net"}}, hello, "outbound outbound staff bob@example.net named"},
		"stranger and rule":              {&adminv1.PreviewBegin{Stranger: true, Relay: "staff", Recipients: []string{"bob@example.net"}}, hello, "InvalidArgument exclude"},
		"no IP address":                  {&adminv1.PreviewBegin{Client: "localhost", Recipients: []string{"bob@example.net"}}, hello, "InvalidArgument localhost"},
		"an address with a line end":     {&adminv1.PreviewBegin{Recipients: []string{"bob@example.net\r\nX: y"}}, hello, "InvalidArgument recipients"},
		"a null recipient":               {&adminv1.PreviewBegin{Recipients: []string{""}}, hello, "InvalidArgument recipients"},
		"too large":                      {outward(), "Subject: x\n\n" + strings.Repeat("0123456789\n", 8*mega/11), "ResourceExhausted 552 5.3.4"},
		"a header without an end":        {outward(), strings.Repeat("X-Y: zzzzzzzzzzzzzzzzzzzzzzz\n", 40_000), "FailedPrecondition 552 5.3.4"},
		"in circles":                     {outward(), strings.Repeat("Received: from x by y; z\n", 100) + "\n", "FailedPrecondition 554 5.4.6"},
		"NUL":                            {outward(), "a: b\n\n\x00\n", "FailedPrecondition NUL"},
		"an empty message goes as it is": {outward(), "", "outbound outbound server bob@example.net named"},
	} {
		t.Run(name, func(t *testing.T) {
			rs, err := d.ask(t, one.b, one.raw)
			if err == nil {
				if got := strings.Join(itineraries(rs), "; "); got != one.want {
					t.Errorf("%s\nwant %s", got, one.want)
				}
				return
			}
			code, word, _ := strings.Cut(one.want, " ")
			if status.Code(err).String() != code || !strings.Contains(err.Error(), word) {
				t.Errorf("%v, want %s", err, one.want)
			}
		})
	}
}

func TestPreviewUpload(t *testing.T) {
	d := newDesk(t)
	wrong := endOf("another")
	for name, requests := range map[string][]*adminv1.PreviewRequest{
		"no begin":    {chunkOf(hello)},
		"two begins":  {beginOf(outward()), beginOf(outward())},
		"wrong end":   {beginOf(outward()), chunkOf(hello), wrong},
		"nothing set": {beginOf(outward()), {}},
		"no end":      {beginOf(outward()), chunkOf(hello)},
	} {
		stream := d.open(t)
		put(t, stream, requests...)
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := answers(stream); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}
