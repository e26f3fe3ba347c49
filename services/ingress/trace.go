package ingress

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

const (
	// clockSkew is how far the clocks of the ingresses and of the NATS servers may be apart.
	clockSkew = 2 * time.Minute
	// trailLag is the most time from an acceptance to its event: that of an outage of NATS, mostly.
	trailLag = 10 * time.Minute
	// lastDetails is how long after its last end more may be said of a message, by the clock of the trail.
	lastDetails = time.Minute
	// searchTime bounds one look into the trail, where the caller does not.
	searchTime = 2 * time.Minute
	// searches is how many may go on at once.
	searches = 2
	// defaultRange is how far back messages are looked for, where the caller does not say.
	defaultRange = 24 * time.Hour
	// eventsLimit is the size in bytes of the events of one answer; what is beyond it is left out, and said to be. The
	// last eventsReserve of it is not for diffs.
	eventsLimit   = 3 << 20
	eventsReserve = 1 << 20
)

// Trace serves the way of messages, of all shards: what the trail has, and what is under way in the shards of this
// process.
func (in *Ingress) Trace() adminv1.TraceServiceServer {
	return &trace{in: in, slots: make(chan struct{}, searches)}
}

type trace struct {
	adminv1.UnimplementedTraceServiceServer
	in    *Ingress
	slots chan struct{}
}

// GetTrace implements the service. It reads what the trail has from the acceptance on until the message is over: for one
// that waits, up to now.
func (t *trace) GetTrace(ctx context.Context, r *adminv1.GetTraceRequest) (*adminv1.GetTraceResponse, error) {
	at, ok := mail.IDTime(r.GetId())
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "%.64q is no id of a message; it has 26 digits and small letters, and stands in the answer to the client and in the Received field", r.GetId())
	}
	done, err := t.begin(ctx, &ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	m := newTold(r.GetId())
	events, err := t.events(ctx, m, at)
	if err != nil {
		return nil, t.failed(ctx, err)
	}
	t.addPresent(m)
	if len(events) == 0 && m.accepted == nil && m.present == nil {
		return nil, status.Errorf(codes.NotFound, "the trail knows nothing of %s, which would have been accepted at %s", m.id, at.Format(time.RFC3339))
	}
	return &adminv1.GetTraceResponse{Trace: traceProto(m, at, events)}, nil
}

// begin waits for a turn, and bounds the time that the search has.
func (t *trace) begin(ctx context.Context, bounded *context.Context) (done func(), err error) {
	select {
	case t.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, status.Error(codes.ResourceExhausted, "other searches in the trail took all the time that there was: try again")
	}
	var cancel context.CancelFunc
	*bounded, cancel = context.WithTimeout(ctx, searchTime)
	return func() { cancel(); <-t.slots }, nil
}

// failed is what the caller hears of a search that came to nothing.
func (t *trace) failed(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return status.Error(codes.Canceled, "canceled")
	case ctx.Err() != nil:
		return status.Error(codes.DeadlineExceeded, "the trail could not be looked through in time: name a shorter time, with since and until, or allow more")
	}
	return status.Errorf(codes.Unavailable, "the trail cannot be read now: %v", err)
}

// events gives the events of one message, but for its acceptance. A message that is over is not looked for any further.
func (t *trace) events(ctx context.Context, m *told, at time.Time) ([]*spool.Event, error) {
	var events []*spool.Event
	err := spool.ScanTrail(ctx, t.in.o.Conn, at.Add(-clockSkew), func(written time.Time, s *spool.Sketch) (bool, error) {
		if string(s.ID) == m.id {
			e, err := s.Event()
			if err != nil {
				return false, err
			}
			if m.hear(e) && e.Accepted == nil {
				events = append(events, e)
			}
			m.last = written
		}
		return !m.over() || written.Sub(m.last) < lastDetails, nil
	})
	return events, err
}

// addPresent adds what is known here of a message that is not over.
func (t *trace) addPresent(m *told) {
	for _, s := range t.in.shards() {
		if now, ok := s.log.Message(m.id); ok {
			m.present, m.woken = now, s.log.Waiting().Woken(m.id)
			return
		}
	}
}

// told is what the trail has said of one message so far.
type told struct {
	id       string
	accepted *spool.Acceptance
	once     spool.Once
	states   map[mail.RecipientID]string
	ended    int
	last     time.Time // written last
	// present is where its recipients stand now, if it is in a shard of this process; woken are those who only seem
	// to wait.
	present *depot.Message
	woken   []mail.RecipientID
}

// States of recipients besides the ends.
const (
	stateWaiting = "waiting"
	stateRunning = "running"
)

func newTold(id string) *told { return &told{id: id, states: map[mail.RecipientID]string{}} }

// hear takes an event up; false: it was known.
func (m *told) hear(e *spool.Event) bool {
	if !m.once.First(e) {
		return false
	}
	if a := e.Accepted; a != nil {
		if m.accepted == nil || len(m.accepted.Prepended) == 0 { // what was written after a crash may lack it
			m.accepted = a
		}
	}
	for _, w := range e.Waits {
		for _, id := range w.Recipients {
			if !isEnd(m.states[id]) {
				if m.states[id] = stateWaiting; w.Open {
					m.states[id] = stateRunning
				}
			}
		}
	}
	for _, end := range e.Ends {
		for _, id := range end.Recipients {
			if !isEnd(m.states[id]) {
				m.states[id] = string(end.Kind)
				m.ended++
			}
		}
	}
	return true
}

func isEnd(state string) bool { return state != "" && state != stateWaiting && state != stateRunning }

// over says that every recipient has ended.
func (m *told) over() bool {
	return m.accepted != nil && m.ended >= len(m.accepted.Envelope.Recipients)
}

// envelope is that of the acceptance; one that is not in the trail may still be in the shard.
func (m *told) envelope() *mail.Envelope {
	switch {
	case m.accepted != nil:
		return &m.accepted.Envelope
	case m.present != nil:
		return &m.present.Envelope
	}
	return nil
}

// count tells how many recipients are in each state. The shard knows better what has not ended than the trail, which
// is a moment behind.
func (m *told) count() map[string]uint32 {
	states := make(map[mail.RecipientID]string, len(m.states))
	if e := m.envelope(); e != nil {
		for _, r := range e.Recipients {
			states[r.ID] = stateRunning
		}
	}
	for id, s := range m.states {
		states[id] = s
	}
	if m.present != nil {
		for _, g := range m.present.Groups {
			for _, id := range g.Recipients {
				if states[id] = stateWaiting; g.Open {
					states[id] = stateRunning
				}
			}
		}
		for _, s := range m.present.Running {
			for _, id := range s.Recipients {
				states[id] = stateRunning
			}
		}
		for _, id := range m.woken {
			states[id] = stateRunning
		}
	}
	out := map[string]uint32{}
	for _, s := range states {
		out[s]++
	}
	return out
}

// bare is a Message-ID without its angle brackets.
func bare(id string) string { return strings.Trim(strings.TrimSpace(id), "<>") }
