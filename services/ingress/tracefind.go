package ingress

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

const (
	// firstReach is how far back the first look goes; each further one goes reachFactor times as far, so that the newest
	// messages cost little, and a whole range not much more than it must.
	firstReach  = 15 * time.Minute
	reachFactor = 4
	// foundLimit is the size in bytes of the summaries in one answer; the page ends with it.
	foundLimit = 2 << 20
)

// FindTraces implements the service. It looks through all that the trail has from the oldest message of the page on until
// all messages of the page are over: a busy day is a few hundred megabytes, which are read in seconds.
func (t *trace) FindTraces(ctx context.Context, r *adminv1.FindTracesRequest) (*adminv1.FindTracesResponse, error) {
	s, err := t.searchOf(r)
	if err != nil {
		return nil, err
	}
	done, err := t.begin(ctx, &ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	found, more, err := s.run(ctx)
	if err != nil {
		return nil, t.failed(ctx, err)
	}
	resp := &adminv1.FindTracesResponse{}
	for _, m := range slices.Backward(found) {
		t.addPresent(m)
		resp.Traces = append(resp.Traces, summaryProto(m))
	}
	if more && len(found) > 0 {
		resp.NextPageToken = found[0].id
	}
	return resp, nil
}

// search is a FindTracesRequest, ready to be used.
type search struct {
	conn         *nats.Conn
	match        func(*spool.Acceptance) bool
	since, until time.Time
	// id, if set, is the only one.
	id string
	// before is the last id of the page before, or empty.
	before string
	size   int
	// reach is how far back the first look goes.
	reach time.Duration
}

func (t *trace) searchOf(r *adminv1.FindTracesRequest) (*search, error) {
	s := &search{conn: t.in.o.Conn, id: r.GetId(), before: r.GetPageToken(), size: int(r.GetPageSize()), reach: firstReach}
	if s.size == 0 {
		s.size = defaultPage
	}
	if s.size > largestPage {
		return nil, status.Errorf(codes.InvalidArgument, "page_size is at most %d", largestPage)
	}
	if s.until = t.in.now(); r.GetUntil() != nil {
		s.until = r.GetUntil().AsTime()
	}
	if s.since = s.until.Add(-defaultRange); r.GetSince() != nil {
		s.since = r.GetSince().AsTime()
	}
	if s.since.After(s.until) {
		return nil, status.Error(codes.InvalidArgument, "since is after until")
	}
	if s.id != "" {
		at, ok := mail.IDTime(s.id)
		if !ok {
			return nil, status.Errorf(codes.InvalidArgument, "%.64q is no id of a message", s.id)
		}
		if r.GetSince() == nil && at.Before(s.since) && r.GetUntil() == nil {
			s.since = at // the id says when
		}
		if at.Before(s.since) || at.After(s.until) {
			s.until = s.since // it cannot be found
		} else {
			s.since, s.until = at, at.Add(time.Microsecond)
		}
	}
	if s.before != "" {
		at, ok := mail.IDTime(s.before)
		if !ok {
			return nil, status.Error(codes.InvalidArgument, "page_token is none that was given")
		}
		if at.Before(s.until) {
			s.until = at.Add(time.Microsecond)
		}
	}
	var err error
	s.match, err = matchOf(r)
	return s, err
}

// matchOf makes the condition on what was accepted.
func matchOf(r *adminv1.FindTracesRequest) (func(*spool.Acceptance) bool, error) {
	sender, err := addressOf("sender", r.GetSender())
	if err != nil {
		return nil, err
	}
	recipient, err := addressOf("recipient", r.GetRecipient())
	if err != nil {
		return nil, err
	}
	either, err := addressOf("address", r.GetAddress())
	if err != nil {
		return nil, err
	}
	messageID := bare(r.GetMessageId())
	return func(a *spool.Acceptance) bool {
		to := func(match func(mail.Address) bool) bool {
			return slices.ContainsFunc(a.Envelope.Recipients, func(r mail.Recipient) bool { return match(r.Address) })
		}
		return (messageID == "" || bare(a.MessageID) == messageID) &&
			(sender == nil || sender(a.Envelope.ReversePath)) &&
			(recipient == nil || to(recipient)) &&
			(either == nil || either(a.Envelope.ReversePath) || to(either))
	}, nil
}

// addressOf reads a pattern as in a Filter; nil: every address.
func addressOf(field, s string) (func(mail.Address) bool, error) {
	if s == nullSender {
		return mail.Address.IsNull, nil
	}
	p, err := patternOf(field, s)
	if err != nil || p == nil {
		return nil, err
	}
	return p.Match, nil
}

// run gives the newest messages that match, in the order of their ids, and whether there are older ones.
func (s *search) run(ctx context.Context) (found []*told, more bool, err error) {
	for reach := s.reach; s.since.Before(s.until); reach *= reachFactor {
		from := s.until.Add(-reach)
		if from.Before(s.since) || reach > 365*24*time.Hour {
			from = s.since
		}
		p := &page{size: s.size, by: map[string]*told{}}
		if err := s.look(ctx, from, p); err != nil {
			return nil, false, err
		}
		if p.more || from.Equal(s.since) {
			return p.list, p.more, nil
		}
	}
	return nil, false, nil
}

// look fills a page with the newest of the messages that were accepted from then on.
func (s *search) look(ctx context.Context, from time.Time, p *page) error {
	return spool.ScanTrail(ctx, s.conn, from.Add(-clockSkew), func(written time.Time, k *spool.Sketch) (bool, error) {
		m := p.by[string(k.ID)]
		if m == nil && k.Accepted && s.within(string(k.ID), from) {
			e, err := k.Event()
			if err != nil {
				return false, err
			}
			if s.match(e.Accepted) {
				p.add(e)
			}
		} else if m != nil && (k.Ends || k.Waits || k.Accepted) {
			e, err := k.Event()
			if err != nil {
				return false, err
			}
			p.hear(m, e)
		}
		if s.id != "" && len(p.list) > 0 {
			return p.open > 0, nil
		}
		return p.open > 0 || written.Before(s.until.Add(trailLag)), nil
	})
}

// within says that the message was accepted in the time that is looked at, and stands not on a page before.
func (s *search) within(id string, from time.Time) bool {
	if s.id != "" && id != s.id {
		return false
	}
	at, ok := mail.IDTime(id)
	return ok && !at.Before(from) && at.Before(s.until) && (s.before == "" || id < s.before)
}

// page is the newest messages that were found so far, in the order of their ids.
type page struct {
	list []*told
	by   map[string]*told
	size int
	// bytes is about what their summaries take; open is how many of them are not over.
	bytes, open int
	// more: older ones had to make room.
	more bool
}

func (p *page) add(e *spool.Event) {
	m := newTold(e.ID)
	m.hear(e)
	at, _ := slices.BinarySearchFunc(p.list, e.ID, func(m *told, id string) int { return strings.Compare(m.id, id) })
	p.list = slices.Insert(p.list, at, m)
	p.by[e.ID] = m
	p.bytes += m.weight()
	if !m.over() {
		p.open++
	}
	for len(p.list) > p.size || p.bytes > foundLimit && len(p.list) > 1 {
		oldest := p.list[0]
		p.list[0], p.list = nil, p.list[1:]
		delete(p.by, oldest.id)
		p.bytes -= oldest.weight()
		if !oldest.over() {
			p.open--
		}
		p.more = true
	}
}

func (p *page) hear(m *told, e *spool.Event) {
	before := m.over()
	weight := m.weight()
	m.hear(e)
	p.bytes += m.weight() - weight
	if !before && m.over() {
		p.open--
	}
}

// weight is about the size of a summary in bytes.
func (m *told) weight() int {
	if m.accepted == nil {
		return 0
	}
	n := 200 + len(m.accepted.MessageID) + len(m.accepted.Subject)
	for i := range m.accepted.Envelope.Recipients {
		a := &m.accepted.Envelope.Recipients[i].Address
		n += len(a.Local) + len(a.Domain) + 4
	}
	return n
}
