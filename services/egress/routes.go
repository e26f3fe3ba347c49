package egress

import (
	"context"
	"reflect"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// way is how a route delivers.
type way interface {
	// deliver settles every one of to, or leaves it to d.run.
	deliver(ctx context.Context, d *delivery, to []mail.Recipient)
	close()
}

type routeKey struct{ name, hash string }

// route is one configured route with what it keeps (idle connections).
type route struct {
	routeKey
	// settings are all that the way was made from: a route whose hash stays but whose surroundings change (the
	// hostname, a folder) is another one.
	settings any
	way      way
	metrics  *routeMetrics

	// The rest belongs to routes.
	users   int
	current bool
	named   time.Time
}

// routes are the current routes, and those before that messages under way may still name.
type routes struct {
	retire time.Duration
	now    func() time.Time

	mu  sync.Mutex
	all map[routeKey]*route
}

func newRoutes(retire time.Duration, now func() time.Time) *routes {
	return &routes{retire: retire, now: now, all: map[routeKey]*route{}}
}

func (rs *routes) replace(made []*route) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, r := range rs.all {
		if r.current {
			r.current, r.named = false, rs.now()
		}
	}
	for _, r := range made {
		old := rs.all[r.routeKey]
		if old != nil && reflect.DeepEqual(old.settings, r.settings) {
			r.way.close()
			old.current = true
			continue
		}
		if old != nil && old.users == 0 {
			old.way.close()
		}
		r.current = true
		rs.all[r.routeKey] = r
	}
	rs.sweep()
}

func (rs *routes) acquire(name, hash string) (*route, bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r, ok := rs.all[routeKey{name, hash}]
	if !ok {
		return nil, false
	}
	r.users++
	r.named = rs.now()
	rs.sweep()
	return r, true
}

// knows says whether a message could go by a route, without naming it.
func (rs *routes) knows(name, hash string) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	_, ok := rs.all[routeKey{name, hash}]
	return ok
}

func (rs *routes) release(r *route) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r.users--
	if r.users == 0 && rs.all[r.routeKey] != r {
		r.way.close()
	}
}

// sweep forgets the replaced routes that nobody has named for long. The caller holds the lock.
func (rs *routes) sweep() {
	now := rs.now()
	for k, r := range rs.all {
		if !r.current && r.users == 0 && now.Sub(r.named) > rs.retire {
			delete(rs.all, k)
			r.way.close()
		}
	}
}

func (rs *routes) close() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, r := range rs.all {
		r.way.close()
	}
}
