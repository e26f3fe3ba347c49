package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/notices"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/smtpd"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/tally"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/users"
)

const (
	// reopen is the wait before a lost shard is asked for again.
	reopen = 2 * time.Second
	// sessionGrace is how long sessions may take to end a transaction when the service stops.
	sessionGrace = 20 * time.Second
	// runGrace is how long messages under way may take to get their fate when the service stops.
	runGrace = 20 * time.Second
)

// Options of an Ingress.
type Options struct {
	Config *config.Config
	// Conn is the connection to NATS; it reconnects by itself and stays the caller's.
	Conn *nats.Conn
	// Instance names the shard that this ingress owns.
	Instance string
	// Exclusive: a lock on the data directory proves that no other process runs this instance.
	Exclusive bool
	// FreeSpace gives the free bytes under an embedded server; nil if unknown.
	FreeSpace func() (uint64, error)
	Runner    *chain.Runner
	Logger    *slog.Logger
	// Durable: the caller started the NATS server itself, so it need not be asked whether it is durable.
	Durable bool
	// Paused: accept, but send nothing until Resume (`up --hold`).
	Paused bool
	// Times are the shard's; zero fields have their defaults.
	Times Times
	// NoticeTimes are when the postmaster is told; zero fields have their defaults.
	NoticeTimes NoticeTimes
	// Telemetry takes metrics and spans; nil: they are shown to nobody.
	Telemetry *telemetry.Telemetry
}

// Times are the intervals of a shard; see package spool.
type Times = spool.Times

// Ingress accepts mail and runs it. Make one with New, run it with Run.
type Ingress struct {
	o         Options
	policy    *policy.Policy
	users     *users.Store
	smtp      *smtpd.Server
	admission admission
	pauses    *pauses // of routes
	tally     *tally.Tally
	notices   *notices.Teller
	events    events
	grants    *shared[relayGrant]
	// gateways are those of this machine's container.
	gateways func() config.Gateways
	started  time.Time
	ready    chan struct{} // closed when the first shard is open and the listeners are

	own     atomic.Pointer[shard]
	mu      sync.Mutex
	adopted map[*shard]struct{}
	open    map[string]openListener
	paused  bool
}

type openListener struct {
	address string
	net.Listener
}

func (in *Ingress) now() time.Time { return time.Now() }

// New prepares an Ingress: policy, users and certificates are read.
func New(ctx context.Context, o Options) (*Ingress, error) {
	if err := service.MakeTemp(o.Config.TempDir, o.Logger); err != nil {
		return nil, err
	}
	if err := spool.CheckDurable(ctx, o.Conn, o.Config.NATS.Monitor, o.Durable || o.Config.NATS.Assumed); err != nil {
		return nil, err
	}
	secret, err := installationSecret(ctx, o.Conn, o.Config.NATS.Replicas)
	if err != nil {
		return nil, err
	}
	in := &Ingress{o: o, ready: make(chan struct{}), adopted: map[*shard]struct{}{}, open: map[string]openListener{}, paused: o.Paused, started: time.Now()}
	if in.pauses, err = openPauses(ctx, o.Conn, o.Config.NATS.Replicas, o.Logger, in.routesChanged); err != nil {
		return nil, err
	}
	in.gateways = config.ContainerGateways
	if err := in.openGrants(ctx); err != nil {
		return nil, err
	}
	if in.policy, err = policy.New(o.Config, policy.Options{Logger: o.Logger, Now: time.Now, Granted: in.granted, Secret: secret}); err != nil {
		return nil, err
	}
	if in.users, err = users.Open(o.Config.Ingress.UsersFile, o.Logger, time.Now); err != nil {
		return nil, err
	}
	in.tally = tally.New(o.Telemetry.Registerer())
	in.smtp, err = smtpd.New(o.Config, smtpd.Options{Policy: in.policy, Users: in.users, Intake: &intake{in}, Logger: o.Logger, Tally: in.tally, OnLoop: in.onLoop})
	if err != nil {
		return nil, err
	}
	in.limits(o.Config)
	in.observed()
	return in, in.openNotices(ctx)
}

func (in *Ingress) limits(c *config.Config) {
	in.admission.setLimit(c.Ingress.Limits.InFlight, c.Ingress.Limits.MessageSize)
}

// Run accepts mail until ctx ends, then stops in good order. It fails if a port cannot be opened, or if another
// live process owns this instance's shard.
func (in *Ingress) Run(ctx context.Context) error {
	first, err := in.openShard(ctx)
	if err != nil {
		return err
	}
	in.own.Store(first)
	if err := in.listen(in.o.Config); err != nil {
		in.own.Store(nil)
		first.close(context.Background())
		return err
	}
	in.applyPause(first)
	close(in.ready)
	var loops sync.WaitGroup
	// The own shard is kept until the sessions are over: who is in the middle of its message gets its 250.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	loops.Go(func() { in.keepShard(serving, first) })
	loops.Go(func() { in.adopt(ctx) })
	loops.Go(func() { in.pauses.follow(serving) })
	loops.Go(func() { in.grants.follow(serving) })
	loops.Go(func() { in.notices.Run(serving, in.noticeSource()) })
	<-ctx.Done()
	in.events.close()
	grace, cancel := context.WithTimeout(context.Background(), sessionGrace)
	defer cancel()
	if err := in.smtp.Shutdown(grace); err != nil {
		in.o.Logger.Warn("sessions were cut", "error", err)
	}
	stop()
	loops.Wait()
	return nil
}

// Ready is closed when mail is accepted.
func (in *Ingress) Ready() <-chan struct{} { return in.ready }

// Addr is the address of an open listener; nil if there is none of that name.
func (in *Ingress) Addr(listener string) net.Addr {
	in.mu.Lock()
	defer in.mu.Unlock()
	if l, ok := in.open[listener]; ok {
		return l.Addr()
	}
	return nil
}

// shard is the own one; nil while it is lost.
func (in *Ingress) shard() *shard { return in.own.Load() }

// keepShard asks for the own shard again whenever it was lost, until ctx ends.
func (in *Ingress) keepShard(ctx context.Context, s *shard) {
	for {
		select {
		case <-ctx.Done():
			in.own.Store(nil)
			in.finish(s)
			return
		case <-s.log.Done():
		}
		in.own.Store(nil)
		in.o.Logger.Error("the shard is lost: clients hear 451 until it is back", "instance", in.o.Instance, "error", s.log.Err())
		s.abandon()
		for s = nil; s == nil; {
			t := time.NewTimer(reopen)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
			var err error
			if s, err = in.openShard(ctx); err != nil {
				in.o.Logger.Error("the shard cannot be had yet", "instance", in.o.Instance, "error", err)
			}
		}
		in.own.Store(s)
		in.applyPause(s)
		in.o.Logger.Info("the shard is back", "instance", in.o.Instance)
	}
}

func (in *Ingress) finish(s *shard) {
	ctx, cancel := context.WithTimeout(context.Background(), runGrace)
	defer cancel()
	s.close(ctx)
}

// Update puts a new revision in force: for sessions and runs that start from now on. If it cannot be, nothing
// changes. Every service that the revision concerns must have said that it can run it.
func (in *Ingress) Update(c *config.Config) error {
	if err := service.MakeTemp(c.TempDir, in.o.Logger); err != nil {
		return err
	}
	opened, err := in.openNew(c)
	if err != nil {
		return err
	}
	if err := in.smtp.UpdateConfig(c); err != nil {
		for _, l := range opened {
			err = errors.Join(err, l.Close())
		}
		return err
	}
	in.limits(c)
	in.swap(c, opened)
	in.o.Telemetry.SetRevision(c.Revision)
	for _, s := range in.shards() {
		s.dispatcher.ConfigChanged()
	}
	return nil
}

// listen opens every listener of c.
func (in *Ingress) listen(c *config.Config) error {
	opened, err := in.openNew(c)
	if err != nil {
		return err
	}
	in.swap(c, opened)
	return nil
}

// openNew opens those listeners of c that are not open yet.
func (in *Ingress) openNew(c *config.Config) (map[string]openListener, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	opened := map[string]openListener{}
	for _, l := range c.Ingress.Listeners {
		if have, ok := in.open[l.Name]; ok && have.address == l.Address {
			continue
		}
		nl, err := net.Listen("tcp", l.Address)
		if err != nil {
			for _, o := range opened {
				err = errors.Join(err, o.Close())
			}
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		opened[l.Name] = openListener{l.Address, nl}
	}
	return opened, nil
}

// swap closes listeners that are not in c any more, and serves the opened ones.
func (in *Ingress) swap(c *config.Config, opened map[string]openListener) {
	in.mu.Lock()
	for name, l := range in.open {
		now, still := c.ListenerNamed(name)
		if !still || now.Address != l.address {
			if err := l.Close(); err != nil {
				in.o.Logger.Warn("closing a listener", "listener", name, "error", err)
			}
			delete(in.open, name)
		}
	}
	serve := map[string]net.Listener{}
	for name, l := range opened {
		in.open[name] = l
		serve[name] = l.Listener
		in.o.Logger.Info("listening", "listener", name, "address", l.Addr().String())
	}
	in.mu.Unlock()
	if len(serve) == 0 {
		return
	}
	go func() {
		if err := in.smtp.Serve(serve); err != nil {
			in.o.Logger.Error("serving SMTP", "error", err)
		}
	}()
}

// Drain takes no more mail, or takes it again; what was accepted goes on. Clients hear 421.
func (in *Ingress) Drain(drain bool) { in.smtp.Drain(drain) }

// Sessions is how many SMTP sessions there are.
func (in *Ingress) Sessions() int { return in.smtp.Sessions() }

// Revision is that of the configuration in force.
func (in *Ingress) Revision() string { return in.policy.View().Config().Revision }

// Pause stops sending; mail is still accepted.
func (in *Ingress) Pause() { in.setPaused(true) }

// Resume goes on sending.
func (in *Ingress) Resume() { in.setPaused(false) }

func (in *Ingress) setPaused(paused bool) {
	in.mu.Lock()
	in.paused = paused
	in.mu.Unlock()
	for _, s := range in.shards() {
		in.applyPause(s)
	}
}

// routesChanged tells every dispatcher that routes were paused or resumed.
func (in *Ingress) routesChanged() {
	for _, s := range in.shards() {
		s.dispatcher.RoutesChanged()
	}
}

// applyPause tells a dispatcher what holds now: that may have changed while its shard was being opened.
func (in *Ingress) applyPause(s *shard) {
	s.dispatcher.RoutesChanged()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.paused {
		s.dispatcher.Pause()
	} else {
		s.dispatcher.Resume()
	}
}

// shards are all that this process owns: its own first.
func (in *Ingress) shards() []*shard {
	var out []*shard
	if s := in.own.Load(); s != nil {
		out = append(out, s)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	for s := range in.adopted {
		out = append(out, s)
	}
	return out
}
