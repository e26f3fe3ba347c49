package dispatch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// memory is a Log in memory. Its entries survive the dispatcher; from them the next one starts.
type memory struct {
	t testing.TB

	mu       sync.Mutex
	accepted map[string]*spool.Accepted
	messages map[string]*depot.Message
	ends     map[string]map[mail.RecipientID]spool.EndKind
	order    []string       // ids, as accepted
	told     []*spool.Event // what the trail was told, and what was settled, in order
	settles  int
	view     *depot.View
	done     chan struct{}
	lost     bool

	uncertain bool                                        // the lease
	slow      time.Duration                               // of each Settle
	damage    map[string]error                            // by id, of Content
	refuse    func(s *spool.Settled) error                // before it is entered
	cut       func(s *spool.Settled) (in bool, stop bool) // the shard is lost at this settlement, which is in the log or is not
	onSettle  func(s *spool.Settled)
}

func newMemory(t testing.TB) *memory {
	return &memory{t: t, accepted: map[string]*spool.Accepted{}, messages: map[string]*depot.Message{}, ends: map[string]map[mail.RecipientID]spool.EndKind{},
		view: depot.NewView(), done: make(chan struct{}), damage: map[string]error{}}
}

var errLost = errors.New("the shard is lost")

func (l *memory) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.lost {
		l.lost = true
		close(l.done)
	}
}

// reopen is the log as its next owner finds it.
func (l *memory) reopen(notBefore time.Time) (run []*spool.Accepted) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost, l.done, l.view = false, make(chan struct{}), depot.NewView()
	for _, id := range l.order {
		m := l.messages[id].TakeOver(notBefore)
		l.messages[id] = m
		if len(m.Running) > 0 {
			a := *l.accepted[id]
			a.Starts, a.Body.Inline = m.Running, nil
			run = append(run, &a)
		}
		if len(m.Groups) > 0 {
			l.view.Put(m.Trim())
		}
	}
	return run
}

func (l *memory) enter(a *spool.Accepted) {
	if l.accepted[a.ID] != nil {
		l.t.Errorf("%s was accepted twice", a.ID)
	}
	l.accepted[a.ID] = a
	l.order = append(l.order, a.ID)
	l.ends[a.ID] = map[mail.RecipientID]spool.EndKind{}
	l.messages[a.ID] = &depot.Message{ID: a.ID, Received: a.Received, Envelope: a.Envelope, Reports: a.Reports, Body: spool.Body{Size: a.Body.Size}, Running: a.Starts}
}

func (l *memory) Accept(_ context.Context, a *spool.Accepted) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return errLost
	}
	l.enter(a)
	return nil
}

// Settle checks what the real log checks, and that nothing ends twice.
func (l *memory) Settle(_ context.Context, s *spool.Settled, reports ...*spool.Accepted) error {
	if l.slow > 0 {
		time.Sleep(l.slow)
	}
	if l.onSettle != nil {
		l.onSettle(s)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return errLost
	}
	if l.refuse != nil {
		if err := l.refuse(s); err != nil {
			return err
		}
	}
	if l.cut != nil {
		if in, stop := l.cut(s); stop {
			l.lost = true
			close(l.done)
			if !in {
				return errLost
			}
			l.apply(s, reports)
			return errLost
		}
	}
	l.apply(s, reports)
	return nil
}

func (l *memory) apply(s *spool.Settled, reports []*spool.Accepted) {
	l.settles++
	l.told = append(l.told, &spool.Event{ID: s.ID, Ends: s.Ends, Waits: s.Waits})
	m := l.messages[s.ID]
	if m == nil {
		l.t.Errorf("settled %s, which is unknown", s.ID)
		return
	}
	if len(s.Ends)+len(s.Waits) == 0 {
		l.t.Errorf("settled %s: says nothing", s.ID)
	}
	seen := map[mail.RecipientID]bool{}
	once := func(ids []mail.RecipientID) {
		if len(ids) == 0 {
			l.t.Errorf("settled %s: an entry for nobody", s.ID)
		}
		for _, id := range ids {
			if kind, over := l.ends[s.ID][id]; seen[id] || over {
				l.t.Errorf("settled %s/%s again (it ended as %q)", s.ID, id, kind)
			}
			seen[id] = true
		}
	}
	for _, e := range s.Ends {
		once(e.Recipients)
		for _, id := range e.Recipients {
			l.ends[s.ID][id] = e.Kind
		}
	}
	for i := range s.Waits {
		w := &s.Waits[i]
		once(w.Recipients)
		for _, r := range w.Done {
			if len(r.Diff.Hunks) > 0 {
				l.t.Errorf("settled %s: what %s changed is kept for people with what waits", s.ID, r.Instance)
			}
		}
		if w.Trimmed() || !w.Room.Valid() {
			l.t.Errorf("settled %s: room %q, trimmed %t", s.ID, w.Room, w.Trimmed())
		}
		if w.Room == spool.Retry && w.Next.IsZero() || w.Since.IsZero() {
			l.t.Errorf("settled %s: waits in %s since %v for %v", s.ID, w.Room, w.Since, w.Next)
		}
	}
	next, _, changed := m.Settle(m.Seq+1, s.Ends, s.Waits)
	l.messages[s.ID] = next
	l.view.Put(next.Trim(), changed...)
	for _, a := range reports {
		if len(a.Body.Inline) > spool.InlineLimit {
			l.t.Errorf("a report of %d bytes", len(a.Body.Inline))
		}
		l.enter(a)
	}
}

func (l *memory) Load(_ context.Context, id string) (*depot.Message, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return nil, errLost
	}
	m := l.messages[id]
	if m == nil || m.Over() {
		return nil, spool.ErrUnknownMessage
	}
	return m, nil
}

// spoil makes the bytes of a message unreadable.
func (l *memory) spoil(id string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.damage[id] = err
}

func (l *memory) Content(_ context.Context, id string, _ spool.Body) (mail.Content, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.damage[id]; err != nil {
		return nil, err
	}
	return mail.FromBytes(l.accepted[id].Body.Inline), nil
}

func (l *memory) Waiting() *depot.View {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.view
}

func (l *memory) MayGo() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.lost && !l.uncertain
}

func (l *memory) Trail(e *spool.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, e)
}

func (l *memory) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

func (l *memory) message(id string) *depot.Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.messages[id]
}

// where tells the place of a recipient: "running", its room, or its end.
func (l *memory) where(id string, to mail.RecipientID) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if kind, ok := l.ends[id][to]; ok {
		return string(kind)
	}
	for _, w := range l.messages[id].Groups {
		if slices.Contains(w.Recipients, to) {
			return string(w.Room)
		}
	}
	return "running"
}

func (l *memory) wait(id string, to mail.RecipientID) spool.Wait {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.messages[id].Groups {
		if slices.Contains(w.Recipients, to) {
			return w
		}
	}
	l.t.Fatalf("%s/%s does not wait", id, to)
	return spool.Wait{}
}

// reports are the DSNs about id.
func (l *memory) reports(id string) []*spool.Accepted {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*spool.Accepted
	for _, a := range l.accepted {
		if a.Reports == id {
			out = append(out, a)
		}
	}
	return out
}
