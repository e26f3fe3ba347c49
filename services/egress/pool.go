package egress

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtpclient"
)

// pool keeps the sessions of one route: so many at once to each host, and a few idle ones for the next message.
type pool struct {
	limits limits
	// farewells are the sessions that are just saying QUIT.
	farewells *sync.WaitGroup

	mu     sync.Mutex
	closed bool
	hosts  map[string]*poolHost
}

type poolHost struct {
	slots chan struct{}
	users int // who has, or waits for, a slot
	idle  []*session
}

// session is one connection on loan from a pool.
type session struct {
	*smtpclient.Client
	pool    *pool
	key     string
	reused  bool
	carried int // transactions
	expiry  *time.Timer
}

func newPool(l limits, farewells *sync.WaitGroup) *pool {
	return &pool{limits: l, farewells: farewells, hosts: map[string]*poolHost{}}
}

// get lends a session to the host named key: an idle one, or, if there is none or it must be fresh, a new one. Where one idle
// session has turned out dead the others are not trusted either.
func (p *pool) get(ctx context.Context, key string, fresh bool, dial func(context.Context) (*smtpclient.Client, error)) (*session, error) {
	h := p.enter(key)
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		p.exit(key, h, false)
		return nil, context.Cause(ctx)
	}
	if s := p.take(h, fresh); s != nil {
		return s, nil
	}
	c, err := dial(ctx)
	if err != nil {
		p.exit(key, h, true)
		return nil, err
	}
	return &session{Client: c, pool: p, key: key}, nil
}

func (p *pool) enter(key string) *poolHost {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[key]
	if h == nil {
		h = &poolHost{slots: make(chan struct{}, p.limits.connections)}
		p.hosts[key] = h
	}
	h.users++
	return h
}

func (p *pool) exit(key string, h *poolHost, slot bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slot {
		<-h.slots
	}
	h.users--
	p.forget(key, h)
}

func (p *pool) forget(key string, h *poolHost) {
	if h.users == 0 && len(h.idle) == 0 && p.hosts[key] == h {
		delete(p.hosts, key)
	}
}

func (p *pool) take(h *poolHost, fresh bool) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fresh {
		for _, s := range h.idle {
			s.expiry.Stop()
			s.Client.Close()
		}
		h.idle = nil
		return nil
	}
	n := len(h.idle) - 1
	if n < 0 {
		return nil
	}
	s := h.idle[n]
	h.idle = h.idle[:n]
	s.expiry.Stop()
	s.reused = true
	return s
}

// put gives a session back after a transaction that has come to its end.
func (s *session) put() {
	s.carried++
	if !s.Idle() || !s.pool.keep(s) {
		s.Quit()
		s.drop()
	}
}

func (p *pool) keep(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[s.key]
	if p.closed || s.carried >= p.limits.transactions || len(h.idle) >= p.limits.idleKept {
		return false
	}
	h.idle = append(h.idle, s)
	s.expiry = time.AfterFunc(p.limits.idle, func() { p.expire(s) })
	<-h.slots
	h.users--
	return true
}

// drop cuts the connection and gives its place back.
func (s *session) drop() {
	s.Client.Close()
	s.pool.mu.Lock()
	h := s.pool.hosts[s.key]
	s.pool.mu.Unlock()
	s.pool.exit(s.key, h, true)
}

func (p *pool) expire(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[s.key]
	if h == nil {
		return
	}
	if i := slices.Index(h.idle, s); i >= 0 {
		h.idle = slices.Delete(h.idle, i, i+1)
		p.forget(s.key, h)
		p.farewells.Go(s.Quit)
	}
}

// close lets the idle sessions go; those on loan are closed when they come back.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for key, h := range p.hosts {
		for _, s := range h.idle {
			s.expiry.Stop()
			p.farewells.Go(s.Quit)
		}
		h.idle = nil
		p.forget(key, h)
	}
}
