package ingress

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/guard"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/smtpd"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// draft is what a session of the client that the request describes would know before the message.
func (in *Ingress) draft(r *adminv1.PreviewBegin) (*smtpd.Draft, error) {
	view := in.policy.View()
	cfg := view.Config()
	d := &smtpd.Draft{Policy: in.policy, View: view, User: r.GetUser(), Helo: r.GetHelo(), Client: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	var err error
	if c := r.GetClient(); c != "" {
		if d.Client, err = netip.ParseAddr(c); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "client: %q is not an IP address", c)
		}
		d.Client = d.Client.Unmap().WithZone("")
	}
	if d.Helo == "" {
		d.Helo = literal(d.Client)
	}
	listener, err := previewListener(cfg, r.GetListener())
	if err != nil {
		return nil, err
	}
	d.Listener = listener.Name
	d.Secured = listener.TLS == config.ListenerImplicit || d.User != ""
	if name := r.GetChain(); name != "" {
		if d.Chain = cfg.ChainNamed(name); d.Chain == nil {
			return nil, status.Errorf(codes.NotFound, "there is no chain %q", name)
		}
	}
	from, ok := guard.ParsePath(r.GetReversePath())
	if !ok || from.Postmaster {
		return nil, status.Errorf(codes.InvalidArgument, "reverse_path: %q is not an address", r.GetReversePath())
	}
	d.From = from.Mailbox
	switch n := len(r.GetRecipients()); {
	case n == 0:
		return nil, status.Error(codes.InvalidArgument, "recipients: there is none")
	case n > smtpd.MaxRecipients(cfg):
		return nil, status.Errorf(codes.InvalidArgument, "recipients: at most %d", smtpd.MaxRecipients(cfg))
	}
	for _, s := range r.GetRecipients() {
		to, ok := guard.ParsePath(s)
		if !ok || to.Null {
			return nil, status.Errorf(codes.InvalidArgument, "recipients: %q is not an address", s)
		}
		d.To = append(d.To, to)
	}
	d.Grant, err = previewGrant(view, d, r)
	if err == nil && listener.AuthRequired && d.User == "" && !d.Grant.Trusted() {
		err = status.Errorf(codes.FailedPrecondition, "nobody sends at the listener %s without a login: 530 5.7.0 authentication required; give a user or another listener", listener.Name)
	}
	return d, err
}

func literal(a netip.Addr) string {
	if a.Is6() {
		return "[IPv6:" + a.String() + "]"
	}
	return "[" + a.String() + "]"
}

func previewListener(cfg *config.Config, name string) (config.Listener, error) {
	if name == "" && len(cfg.Ingress.Listeners) > 0 {
		return cfg.Ingress.Listeners[0], nil
	}
	l, ok := cfg.ListenerNamed(name)
	if !ok {
		return l, status.Errorf(codes.NotFound, "there is no listener %q", name)
	}
	return l, nil
}

func previewGrant(view *policy.View, d *smtpd.Draft, r *adminv1.PreviewBegin) (policy.Grant, error) {
	switch {
	case r.GetStranger() && r.GetRelay() != "":
		return policy.Grant{}, status.Error(codes.InvalidArgument, "relay and stranger exclude each other")
	case r.GetStranger():
		return policy.Grant{}, nil
	case r.GetRelay() == "" && (r.GetClient() != "" || r.GetUser() != ""):
		return view.Grant(policy.Client{Listener: d.Listener, Addr: d.Client, User: d.User}, d.From), nil
	}
	g, ok := view.Assume(r.GetRelay(), d.From)
	if !ok {
		return g, status.Errorf(codes.NotFound, "there is no relay rule %q", r.GetRelay())
	}
	return g, nil
}

// previewPlan shows what becomes of the message in one transaction.
func (in *Ingress) previewPlan(ctx context.Context, d *smtpd.Draft, plan *smtpd.Drafted, content mail.Content, show *previewShow) error {
	now := in.now()
	id := mail.NewID(now)
	received := []byte(plan.Received(id, d.Policy.Token(id), now))
	whole, err := mail.Apply(content, []mail.Splice{{Insert: received}})
	if err != nil {
		return err
	}
	defer whole.Release()
	cfg := d.View.Config()
	effects := func(h chain.Hop) bool {
		s := cfg.StageNamed(h.Instance)
		return s == nil || s.Traits.Effects
	}
	runner := in.o.Runner.With(in.o.Runner.Egress, in.o.Runner.Logger.With("preview", true))
	for _, c := range cfg.Chains { // in the order of the file
		to := plan.Starts[c.Name]
		if len(to) == 0 {
			continue
		}
		p := &chain.Parcel{Slip: cfg.Slip(c), Message: mail.Message{ID: id, Attempt: 1, Received: now, Envelope: plan.Envelope.Clone(), Pending: slices.Clone(to), Content: whole}}
		show.itinerary(p, received)
		runner.Preview(ctx, p, effects, show)
		show.ends()
		if err := show.err(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return status.FromContextError(err).Err()
		}
	}
	return nil
}

// previewShow sends what a preview comes to. It is a chain.Viewer. After an error of the stream it sends nothing.
type previewShow struct {
	stream         previewStream
	now            func() time.Time
	withoutContent bool

	mu     sync.Mutex
	failed error
	fates  []chain.Fate
}

func (s *previewShow) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// send is called with the mutex held.
func (s *previewShow) send(r *adminv1.PreviewResponse) {
	if s.failed == nil {
		s.failed = s.stream.Send(r)
	}
}

func (s *previewShow) itinerary(p *chain.Parcel, received []byte) {
	slip := chain.SlipProto(p.Slip)
	it := &adminv1.PreviewItinerary{Chain: slip.GetChain(), Hops: slip.GetHops(), Route: slip.GetRoute().GetName(), Prepended: received,
		Direction: string(p.Envelope.Origin.Direction), Relay: p.Envelope.Origin.Relay, Recipients: chain.EnvelopeProto(envelopeFor(p)).GetRecipients()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(&adminv1.PreviewResponse{Kind: &adminv1.PreviewResponse_Itinerary{Itinerary: it}})
}

// envelopeFor is the envelope with the pending recipients alone.
func envelopeFor(p *chain.Parcel) *mail.Envelope {
	e := p.Envelope.Clone()
	e.Recipients = slices.DeleteFunc(e.Recipients, func(r mail.Recipient) bool { return !slices.Contains(p.Pending, r.ID) })
	return &e
}

// Report implements chain.Viewer.
func (s *previewShow) Report(r chain.Report) {
	step := hopProto(&spool.Hop{Report: r, At: s.now()})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(&adminv1.PreviewResponse{Kind: &adminv1.PreviewResponse_Step{Step: step}})
}

// Leaves implements chain.Viewer.
func (s *previewShow) Leaves(_ context.Context, p *chain.Parcel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(&adminv1.PreviewResponse{Kind: &adminv1.PreviewResponse_Outcome{Outcome: &adminv1.PreviewOutcome{
		Recipients: ids(p.Pending), Size: uint64(p.Content.Size()), Envelope: chain.EnvelopeProto(envelopeFor(p)),
	}}})
	if s.withoutContent || s.failed != nil {
		return
	}
	if _, err := p.Content.WriteTo(previewChunks{s}); err != nil && s.failed == nil {
		s.failed = status.Errorf(codes.Internal, "read the result: %v", err)
	}
}

// previewChunks sends what is written to it.
type previewChunks struct{ s *previewShow }

// previewChunk is the largest chunk in bytes.
const previewChunk = 256 << 10

func (w previewChunks) Write(b []byte) (int, error) {
	for c := range slices.Chunk(b, previewChunk) {
		w.s.send(&adminv1.PreviewResponse{Kind: &adminv1.PreviewResponse_Chunk{Chunk: c}})
	}
	return len(b), w.s.failed
}

// Ends implements chain.Viewer.
func (s *previewShow) Ends(f chain.Fate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fates = append(s.fates, f)
}

// ends tells what became of those who get nothing, together where it is the same.
func (s *previewShow) ends() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.fates) > 0 {
		first := s.fates[0]
		out := &adminv1.PreviewOutcome{Fate: previewFate(first)}
		s.fates = slices.DeleteFunc(s.fates, func(f chain.Fate) bool {
			same := alike(f, first)
			if same {
				out.Recipients = append(out.Recipients, string(f.Recipient))
			}
			return same
		})
		slices.SortFunc(out.Recipients, compareIDs)
		s.send(&adminv1.PreviewResponse{Kind: &adminv1.PreviewResponse_Outcome{Outcome: out}})
	}
}

// compareIDs puts "r2" before "r10".
func compareIDs(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func alike(a, b chain.Fate) bool {
	a.Recipient = b.Recipient
	ra, rb := a.Reply, b.Reply
	a.Reply, b.Reply = nil, nil
	return a == b && (ra == nil) == (rb == nil) && (ra == nil || *ra == *rb)
}

func previewFate(f chain.Fate) *relayv1.Fate {
	f.Recipient = ""
	return chain.FateProto(f)
}
