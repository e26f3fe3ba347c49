package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/mx"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtpclient"
)

// Resolver is what egress asks of the DNS; *net.Resolver is one.
type Resolver = mx.Resolver

// Deadlines bound the steps of an SMTP session; a zero field takes the value of RFC 5321, section 4.5.3.2.
type Deadlines = smtpclient.Deadlines

// Options are what New needs.
type Options struct {
	// Config gives the routes, the hostname, and the folders.
	Config *config.Config
	Logger *slog.Logger
	// Now is the clock by which the age of a leave and of the table of keys is measured; time.Now if nil.
	Now func() time.Time
	// Resolver answers for every mx route, whatever its resolver setting; nil: as configured.
	Resolver Resolver
	// Deadlines of SMTP sessions; the zero value is the RFC's.
	Deadlines Deadlines
	// ConnectTimeout for one connection; 30 s if zero.
	ConnectTimeout time.Duration
	// Telemetry takes metrics and spans; nil: they are shown to nobody.
	Telemetry *telemetry.Telemetry
}

// limits are the engine's own figures; tests make them small.
type limits struct {
	leave        time.Duration // how old a leave may be when the dot is given
	asks         int           // how often leave is asked for in one transaction
	recipients   int           // of one transaction
	domains      int           // of one message, at once
	connections  int           // to one host, at once
	idle         time.Duration // of a connection kept for the next message
	idleKept     int           // connections of one host
	transactions int           // of one connection
	addresses    int           // of one domain's exchangers, tried in one attempt
	connect      time.Duration
	lookup       time.Duration // for all DNS questions about one domain
	remember     time.Duration // how long a finished delivery is known
	remembered   int           // how many finished deliveries are known
	retire       time.Duration // how long a replaced route is kept after the last call that named it
}

func defaultLimits() limits {
	return limits{leave: 10 * time.Second, asks: 3, recipients: 100, domains: 10, connections: 20, idle: 20 * time.Second,
		idleKept: 4, transactions: 100, addresses: 6, connect: 30 * time.Second, lookup: 30 * time.Second, remember: 15 * time.Minute,
		remembered: 500_000, retire: time.Hour}
}

// Egress delivers. It implements chain.Carrier and is safe for concurrent use.
type Egress struct {
	logger    *slog.Logger
	now       func() time.Time
	resolver  Resolver
	deadlines Deadlines
	limits    limits
	metrics   *metrics

	routes *routes
	keys   *keys

	ctx    context.Context // ends when Close has waited long enough
	cancel context.CancelFunc
	// farewells are the sessions that are just saying QUIT.
	farewells sync.WaitGroup

	mu     sync.Mutex
	closed bool
	calls  int
	quiet  chan struct{} // closed when the last call has ended after Close
}

var _ chain.Carrier = (*Egress)(nil)

var errClosing = errors.New("egress is shutting down")

// New makes an Egress that knows the routes of o.Config. It fails if one of them is impossible; what a route needs at the
// time of use (a password file, a CA file, DNS) is looked for then.
func New(o Options) (*Egress, error) { return newEgress(o, defaultLimits()) }

func newEgress(o Options, l limits) (*Egress, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ConnectTimeout > 0 {
		l.connect = o.ConnectTimeout
	}
	e := &Egress{logger: o.Logger, now: o.Now, resolver: o.Resolver, deadlines: o.Deadlines, limits: l, quiet: make(chan struct{})}
	e.keys = newKeys(l, o.Now)
	e.routes = newRoutes(l.retire, o.Now)
	e.metrics = newMetrics(o.Telemetry, e)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	if err := e.Update(o.Config); err != nil {
		e.cancel()
		return nil, err
	}
	return e, nil
}

// Update makes the routes of c the current ones. Those before stay, by their hash, for the messages that still name them,
// until none has done so for an hour. An error changes nothing.
func (e *Egress) Update(c *config.Config) error {
	if c == nil {
		return errors.New("egress: no configuration")
	}
	made := make([]*route, 0, len(c.Routes))
	for name, r := range c.Routes {
		rt, err := e.newRoute(c, r)
		if err != nil {
			return fmt.Errorf("route %s: %w", name, err)
		}
		made = append(made, rt)
	}
	e.routes.replace(made)
	return nil
}

// Knows says whether a message could go by a route with this configuration.
func (e *Egress) Knows(name, hash string) bool { return e.routes.knows(name, hash) }

// Carry makes one delivery attempt and gives each of p.Pending exactly one fate. It may call s.Ready several times, also at
// once for different recipients. The end of ctx aborts what has not had its final dot; what has, is awaited.
func (e *Egress) Carry(ctx context.Context, p *chain.Parcel, s chain.Sink) {
	pending := unique(p.Pending)
	if !e.enter() {
		refuse(s, pending, chain.AboutHop, chain.EgressHop, errClosing.Error())
		return
	}
	defer e.leave()
	rt, ok := e.routes.acquire(p.Slip.Route.Name, p.Slip.Route.Hash)
	if !ok {
		refuse(s, pending, chain.AboutRoute, p.Slip.Route.Name, "this egress does not know the route with this configuration")
		return
	}
	defer e.routes.release(rt)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.ctx, func() { cancel(errClosing) })()

	own, joined := e.keys.claim(p.ID, pending)
	d := e.newDelivery(p, s, rt, own)
	ctx, d.span = e.metrics.span(ctx, p)
	defer d.span.End()
	var wg sync.WaitGroup
	for id, first := range joined {
		wg.Go(func() { s.Fate(d.join(ctx, id, first)) })
	}
	if len(own) > 0 {
		d.run(ctx)
	}
	wg.Wait()
}

// Close takes no more calls and waits for those under way. When ctx ends it aborts those that have not given their final
// dot, and returns its error; what has been handed over is still awaited in the background.
func (e *Egress) Close(ctx context.Context) error {
	e.mu.Lock()
	first := !e.closed
	e.closed = true
	if first && e.calls == 0 {
		close(e.quiet)
	}
	e.mu.Unlock()
	var err error
	select {
	case <-e.quiet:
	case <-ctx.Done():
		err = fmt.Errorf("closing egress: %w", context.Cause(ctx))
	}
	e.cancel()
	e.routes.close()
	if err == nil {
		e.farewells.Wait() // a few seconds at most
	}
	return err
}

func (e *Egress) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.calls++
	return true
}

func (e *Egress) leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.calls--; e.calls == 0 && e.closed {
		close(e.quiet)
	}
}

func unique(ids []mail.RecipientID) []mail.RecipientID {
	seen := make(map[mail.RecipientID]bool, len(ids))
	return slices.DeleteFunc(slices.Clone(ids), func(id mail.RecipientID) bool {
		again := seen[id]
		seen[id] = true
		return again
	})
}

func refuse(s chain.Sink, to []mail.RecipientID, c chain.Concern, about, why string) {
	for _, id := range to {
		s.Fate(chain.Fate{Recipient: id, Kind: chain.Refused, Concern: c, About: about, Reason: why})
	}
}
