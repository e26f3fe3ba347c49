package admin

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxAttempts wrong tokens in a row make an address wait.
	maxAttempts = 10
	// attemptsBack is how long it takes until one more is let through.
	attemptsBack = time.Minute
	// maxSources is how many addresses are remembered.
	maxSources = 4096
	// slowdown is how long the answer to a wrong token takes, for each that came before; at most slowest.
	slowdown = 200 * time.Millisecond
	slowest  = 2 * time.Second
)

// attempts counts wrong tokens by address.
type attempts struct {
	now  func() time.Time
	wait func(context.Context, time.Duration)

	mu      sync.Mutex
	sources map[netip.Prefix]*source
}

// source is an address, or the network that one machine commonly has.
type source struct {
	wrong float64 // falls by one in attemptsBack
	at    time.Time
}

func newAttempts(now func() time.Time) *attempts {
	return &attempts{now: now, sources: map[netip.Prefix]*source{}, wait: func(ctx context.Context, d time.Duration) {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}}
}

// sourceOf is what counts as one caller: an IPv4 address, or an IPv6 /64.
func sourceOf(remote string) netip.Prefix {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := ap.Addr().Unmap().WithZone(""), 64
	if ip.Is4() {
		bits = 32
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// may says whether a token from there is looked at.
func (a *attempts) may(from netip.Prefix) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sources[from]
	if s == nil {
		return true
	}
	a.age(s)
	return s.wrong <= maxAttempts-1
}

// failed counts a wrong token, and returns when its caller may hear of it.
func (a *attempts) failed(ctx context.Context, from netip.Prefix) {
	a.mu.Lock()
	s := a.sources[from]
	if s == nil {
		if len(a.sources) >= maxSources {
			a.forget()
		}
		s = &source{at: a.now()}
		a.sources[from] = s
	}
	a.age(s)
	s.wrong++
	d := min(time.Duration(s.wrong*float64(slowdown)), slowest)
	a.mu.Unlock()
	a.wait(ctx, d)
}

func (a *attempts) age(s *source) {
	now := a.now()
	if d := now.Sub(s.at); d > 0 {
		s.wrong = max(0, s.wrong-d.Seconds()/attemptsBack.Seconds())
	}
	s.at = now
}

// forget makes room: what has come down goes, or else the one that was at it the least.
func (a *attempts) forget() {
	var least netip.Prefix
	fewest := -1.0
	for p, s := range a.sources {
		if a.age(s); s.wrong == 0 {
			delete(a.sources, p)
			continue
		}
		if fewest < 0 || s.wrong < fewest {
			least, fewest = p, s.wrong
		}
	}
	if len(a.sources) >= maxSources {
		delete(a.sources, least)
	}
}
