package ingress

import (
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

const (
	// mostFollowers is how many may follow at once.
	mostFollowers = 20
	// followBuffer is how many events one follower may be behind; beyond it he misses some.
	followBuffer = 1000
	// Of messages that are known by their acceptance: how many, and with how many recipients in all.
	mostKnown           = 5000
	mostKnownRecipients = 100_000
)

// eventKinds are the parts of an event that can be chosen.
var eventKinds = []string{"accepted", "hop", "fate", "end", "wait", "text"}

// Events serves what happens to messages in the shards of this process, as it happens.
func (in *Ingress) Events() adminv1.EventServiceServer { return &eventService{in: in} }

type eventService struct {
	adminv1.UnimplementedEventServiceServer
	in *Ingress
}

// TailEvents implements the service. Diffs are left out: the trail has them.
func (s *eventService) TailEvents(r *adminv1.TailEventsRequest, stream grpc.ServerStreamingServer[adminv1.TailEventsResponse]) error {
	f := &follower{id: r.GetId(), chain: r.GetChain(), kinds: r.GetKinds(), null: r.GetAddress() == nullSender, wake: make(chan struct{}, 1)}
	if !f.null {
		var err error
		if f.address, err = patternOf("address", r.GetAddress()); err != nil {
			return err
		}
	}
	for _, k := range f.kinds {
		if !slices.Contains(eventKinds, k) {
			return status.Errorf(codes.InvalidArgument, "there is no kind of event %.64q: there are accepted, hop, fate, end, wait, text", k)
		}
	}
	over, ok := s.in.events.follow(f)
	if !ok {
		return status.Errorf(codes.ResourceExhausted, "%d follow already", mostFollowers)
	}
	defer s.in.events.leave(f)
	// The caller hears at once that he follows.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-over:
			return status.Error(codes.Unavailable, "ingress stops")
		case <-f.wake:
		}
		for {
			e, known, missed := s.in.events.next(f)
			if e == nil && missed == 0 {
				break
			}
			if err := stream.Send(f.response(e, known, missed)); err != nil {
				return err
			}
		}
	}
}

// events passes on what goes to the trail. The zero value is ready.
type events struct {
	mu        sync.Mutex
	followers map[*follower]struct{}
	over      chan struct{}
	closed    bool
	known     map[string]*knownMessage
	order     []string // of known, the oldest first
	to        int      // recipients of all that are known
}

// knownMessage is what a process knows of a message by its acceptance.
type knownMessage struct {
	*spool.Acceptance
	chains []string
}

// follower is one who follows. What he has not taken yet is guarded by events.mu.
type follower struct {
	id, chain string
	address   *mail.Pattern
	null      bool // address is the null reverse-path
	kinds     []string

	wake   chan struct{}
	queued []queuedEvent
	missed uint64
}

type queuedEvent struct {
	*spool.Event
	known *knownMessage
	// missed before it.
	missed uint64
}

// follow adds a follower; over is closed when there is nothing more to follow.
func (h *events) follow(f *follower) (over <-chan struct{}, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.followers) >= mostFollowers {
		return nil, false
	}
	if h.followers == nil {
		h.followers = map[*follower]struct{}{}
	}
	h.followers[f] = struct{}{}
	return h.end(), true
}

func (h *events) end() chan struct{} {
	if h.over == nil {
		h.over = make(chan struct{})
	}
	return h.over
}

func (h *events) leave(f *follower) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.followers, f)
}

// close ends all following.
func (h *events) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		close(h.end())
	}
}

// tap implements spool.Options.Tap.
func (h *events) tap(e *spool.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.Accepted != nil {
		h.remember(e.ID, e.Accepted)
	}
	k := h.known[e.ID]
	if len(h.followers) > 0 {
		e = withoutDiffs(e)
	}
	for f := range h.followers {
		if !f.wants(e, k) {
			continue
		}
		if len(f.queued) >= followBuffer {
			f.missed++
			continue
		}
		f.queued = append(f.queued, queuedEvent{e, k, f.missed})
		f.missed = 0
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

func (h *events) remember(id string, a *spool.Acceptance) {
	if h.known == nil {
		h.known = map[string]*knownMessage{}
	}
	if h.known[id] != nil {
		return
	}
	about := *a
	about.Prepended, about.MessageID, about.Subject = nil, brief(a.MessageID), brief(a.Subject)
	h.known[id] = &knownMessage{&about, a.Chains}
	h.order = append(h.order, id)
	h.to += len(a.Envelope.Recipients)
	for len(h.order) > 1 && (len(h.order) > mostKnown || h.to > mostKnownRecipients) {
		h.to -= len(h.known[h.order[0]].Envelope.Recipients)
		delete(h.known, h.order[0])
		h.order = h.order[1:]
	}
}

// next takes an event of a follower, with how many he missed before it. When he has taken all, what he missed is told
// without an event.
func (h *events) next(f *follower) (e *spool.Event, k *knownMessage, missed uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(f.queued) == 0 {
		missed, f.missed = f.missed, 0
		return nil, nil, missed
	}
	q := f.queued[0]
	f.queued[0] = queuedEvent{}
	f.queued = f.queued[1:]
	return q.Event, q.known, q.missed
}

// withoutDiffs is an event as it is kept for followers, who may be slow.
func withoutDiffs(e *spool.Event) *spool.Event {
	bare := *e
	bare.Hops = slices.Clone(e.Hops)
	for i := range bare.Hops {
		bare.Hops[i].Diff, bare.Hops[i].Edits = mail.Diff{}, mail.Edits{}
	}
	return &bare
}

// wants says that an event is one of those that were asked for.
func (f *follower) wants(e *spool.Event, k *knownMessage) bool {
	if f.id != "" && f.id != e.ID || len(f.kinds) > 0 && !slices.ContainsFunc(f.kinds, func(kind string) bool { return hasKind(e, kind) }) {
		return false
	}
	if f.chain != "" && e.Chain != f.chain && !slices.ContainsFunc(e.Waits, func(w spool.Wait) bool { return w.Chain == f.chain }) &&
		(e.Chain != "" || k == nil || !slices.Contains(k.chains, f.chain)) {
		return false
	}
	if f.address == nil && !f.null {
		return true
	}
	if k == nil {
		return false
	}
	from := k.Envelope.ReversePath
	if f.null {
		return from.IsNull()
	}
	return !from.IsNull() && f.address.Match(from) || slices.ContainsFunc(k.Envelope.Recipients, func(r mail.Recipient) bool { return f.address.Match(r.Address) })
}

func hasKind(e *spool.Event, kind string) bool {
	switch kind {
	case "accepted":
		return e.Accepted != nil
	case "hop":
		return len(e.Hops) > 0
	case "fate":
		return len(e.Fates) > 0
	case "end":
		return len(e.Ends) > 0
	case "wait":
		return len(e.Waits) > 0
	case "text":
		return e.Text != ""
	}
	return false
}

// response is an event as its follower asked for it: without the kinds that he did not.
func (f *follower) response(e *spool.Event, k *knownMessage, missed uint64) *adminv1.TailEventsResponse {
	if e == nil {
		return &adminv1.TailEventsResponse{Missed: missed}
	}
	out := &adminv1.TailEventsResponse{Id: e.ID, Accepted: e.Accepted != nil, Missed: missed, Message: &adminv1.TraceSummary{Id: e.ID}}
	if k != nil {
		out.Message = knownProto(e.ID, k)
	} else if at, ok := mail.IDTime(e.ID); ok {
		out.Message.Received = timestamppb.New(at)
	}
	p := *e
	if len(f.kinds) > 0 {
		keep := func(kind string) bool { return slices.Contains(f.kinds, kind) }
		if !keep("hop") {
			p.Hops, p.Kept = nil, nil
		}
		if !keep("fate") {
			p.Fates = nil
		}
		if !keep("end") {
			p.Ends = nil
		}
		if !keep("wait") {
			p.Waits = nil
		}
		if !keep("text") {
			p.Text = ""
		}
		out.Accepted = out.Accepted && keep("accepted")
	}
	out.Event = eventProto(&p)
	return out
}

// briefly is how much is kept of a field that a client chose, in bytes.
const briefly = 1 << 10

func brief(s string) string { return utf8(s[:min(len(s), briefly)]) }

func knownProto(id string, k *knownMessage) *adminv1.TraceSummary {
	out := &adminv1.TraceSummary{Id: id, Received: timestamppb.New(k.Received), ReversePath: utf8(k.Envelope.ReversePath.String()), MessageId: k.MessageID,
		Subject: k.Subject, Size: uint64(max(k.Size, 0))}
	for _, r := range k.Envelope.Recipients {
		out.Recipients = append(out.Recipients, utf8(r.Address.String()))
	}
	return out
}
