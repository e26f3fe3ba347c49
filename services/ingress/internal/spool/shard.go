package spool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

// Shard is the log of one ingress instance, with everything that hangs on it, owned by this process. Its methods
// are safe for concurrent use. After Done is closed every one of them fails with Err.
type Shard struct {
	opts   Options
	names  names
	js     jetstream.JetStream
	spool  jetstream.Stream
	bodies jetstream.Stream
	depots jetstream.Stream
	lease  *lease
	ledger *ledger
	view   *depot.View
	queue  *queue
	logger *appender
	shelf  *shelf
	sweep  *sweeper
	trails *trailWriter
	gauge  gauge
	chunks chan struct{} // tokens: chunks of all bodies in flight

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	idle   atomic.Bool

	done    chan struct{}
	wanted  chan struct{}
	failing sync.Once
	asking  sync.Once
	err     error
}

// Open makes this process the owner of a shard: it takes the lease (ErrOwned when its owner lives), creates the
// streams if need be, fences every earlier owner with a takeover entry, and replays the log onto the depot. What
// it returns may be run, not before Recovered.NotBefore. ctx bounds opening alone.
func Open(ctx context.Context, opts Options) (*Shard, *Recovered, error) {
	if err := opts.complete(); err != nil {
		return nil, nil, err
	}
	// A process may own a shard twice, one time after the other; neither the lease nor a Msg-Id of the first time is
	// ours.
	opts.Process += "-" + strings.ToLower(rand.Text()[:10])
	js, err := opts.jetStream()
	if err != nil {
		return nil, nil, err
	}
	s := &Shard{
		opts: opts, names: namesOf(opts.Instance), js: js, view: depot.NewView(),
		done: make(chan struct{}), wanted: make(chan struct{}), chunks: make(chan struct{}, chunksInFlight),
	}
	s.ledger = newLedger(s.view)
	s.queue = newQueue(s.names.entry(), opts.Process, s.ledger.apply)
	s.queue.appended = opts.Appended
	s.ctx, s.cancel = context.WithCancel(context.Background())
	rec, err := s.open(ctx)
	if err == nil {
		err = s.Err()
	}
	if err != nil {
		s.cancel()
		s.wg.Wait()
		if s.lease != nil && !s.LastRenewal().IsZero() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opts.Times.Ack)
			defer cancel()
			err = errors.Join(err, s.lease.release(ctx, false))
		}
		return nil, nil, err
	}
	return s, rec, nil
}

func (s *Shard) open(ctx context.Context) (*Recovered, error) {
	o := &s.opts
	stream, err := o.leaseStream(ctx, s.js)
	if err != nil {
		return nil, err
	}
	s.lease = &lease{js: s.js, stream: stream, opts: o, names: s.names}
	before, _, err := s.lease.read(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.lease.acquire(ctx); err != nil {
		return nil, err
	}
	s.goes("lease", s.lease.renew)
	sub, err := o.Conn.Subscribe(s.names.wanted(), func(m *nats.Msg) {
		if o.Holder != o.Instance && string(m.Data) != o.Process {
			s.asking.Do(func() { close(s.wanted) })
		}
	})
	if err != nil {
		return nil, fmt.Errorf("spool: subscribing to %s: %w", s.names.wanted(), err)
	}
	s.goes("wanted", func(ctx context.Context) error {
		<-ctx.Done()
		_ = sub.Unsubscribe() // fails only on a closed connection, which has no subscriptions
		return ctx.Err()
	})
	if s.spool, err = s.fresh(ctx, s.names.spool(), s.names.entry(), o.Limits.Spool, 0); err != nil {
		return nil, err
	}
	if s.bodies, err = s.fresh(ctx, s.names.body(), s.names.bodies(), o.Limits.Body, 1); err != nil {
		return nil, err
	}
	// No limit of one value per subject: what the server drops by that limit it finds again in its files after a crash,
	// once the value that displaced it is purged. The shelf has older values deleted, which leaves a mark.
	if s.depots, err = s.fresh(ctx, s.names.depot(), s.names.depots(), o.Limits.Depot, -1); err != nil {
		return nil, err
	}
	if s.trails, err = newTrailWriter(ctx, s); err != nil {
		return nil, err
	}
	s.shelf = newShelf(s)
	s.sweep = newSweeper(s)
	s.ledger.store, s.ledger.over = s.shelf.put, s.overWith
	s.ledger.ended = s.trails.ended

	rec, err := s.recover(ctx, before.GetReleased() && before.GetIdle())
	if err != nil {
		return nil, err
	}
	if err := s.measure(ctx); err != nil {
		return nil, err
	}
	s.goes("log", s.logger.run)
	s.goes("depot", s.shelf.appender.run)
	for range sweepers {
		s.goes("sweep", s.sweep.run)
	}
	s.goes("floor", s.floors)
	s.goes("trail", s.trails.run)
	return rec, nil
}

// epoch is where the seconds begin from which new streams count.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// fresh opens a stream of the shard. A new one counts from the seconds since epoch, so that an owner that slept
// through the removal of an earlier stream of that name does not expect a sequence of this one; that it starts
// nothing without a fresh lease is the other half. (A finer clock would be better there, but when a write fails on
// the first block of a stream, nats-server 2.15 counts through every sequence below it.)
func (s *Shard) fresh(ctx context.Context, name, subject string, limit, perSubject int64) (jetstream.Stream, error) {
	spec := streamSpec(name, []string{subject}, s.opts.Replicas, limit)
	spec.MaxMsgsPerSubject = perSubject
	old, err := s.js.Stream(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		spec.FirstSeq = uint64(max(1, s.opts.Clock.Now().Sub(epoch)/time.Second))
	case err != nil:
		return nil, fmt.Errorf("spool: stream %s: %w", name, err)
	default:
		spec.FirstSeq = old.CachedInfo().Config.FirstSeq
	}
	return s.opts.ensureStream(ctx, s.js, spec)
}

// goes runs one of the shard's loops. One that ends while the shard lives has lost it.
func (s *Shard) goes(name string, loop func(context.Context) error) {
	s.wg.Go(func() {
		if err := loop(s.ctx); err != nil && s.ctx.Err() == nil {
			s.fail(fmt.Errorf("spool: %s: %w", name, err))
		}
	})
}

// fail ends the shard: nothing more is written.
func (s *Shard) fail(err error) {
	s.failing.Do(func() {
		s.err = err
		if !errors.Is(err, ErrClosed) {
			s.opts.Logger.Error("spool: the shard is lost to this process", "instance", s.opts.Instance, "err", err)
		}
		s.queue.close()
		close(s.done)
		s.cancel()
	})
}

// Instance is the name of the shard.
func (s *Shard) Instance() string { return s.opts.Instance }

// Done is closed when this process does not own the shard any more: it was fenced, or closed.
func (s *Shard) Done() <-chan struct{} { return s.done }

// Err says why Done is closed; nil while it is not.
func (s *Shard) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Wanted is closed when the instance whose shard was adopted is back and asks for it. Stop starting, let what is
// under way come to its fate, and Close; after the time of a lease the shard is taken anyway.
func (s *Shard) Wanted() <-chan struct{} { return s.wanted }

// LastRenewal is when the last renewal of the lease that succeeded was sent.
func (s *Shard) LastRenewal() time.Time { return s.lease.lastRenewal() }

// MayGo says that the lease was renewed within half of its time: leave for a final dot may be given, messages may
// be started, records purged.
func (s *Shard) MayGo() bool {
	return s.Err() == nil && s.opts.Clock.Now().Sub(s.lease.lastRenewal()) < s.opts.Times.Lease/2
}

// Waiting is the view of the mail that waits here.
func (s *Shard) Waiting() *depot.View { return s.view }

// Empty says that no message is left: every one has ended, and nothing waits.
func (s *Shard) Empty() bool { return s.ledger.len() == 0 }

// Accept makes a message durable; after nil a 250 may be given, and the message run. a must not be changed any
// more. It waits up to Times.Append, or until ctx ends. On an error no 250 may be given, and the message must not
// be run: what of it may have been stored is made void, and its chunks are deleted, by the shard.
func (s *Shard) Accept(ctx context.Context, a *Accepted) error {
	if err := a.validate(); err != nil {
		s.dropChunks(a)
		return err
	}
	if s.ledger.get(a.ID) != nil {
		return fmt.Errorf("spool: %s was accepted already", a.ID)
	}
	u, err := newUnit(entry{accepted: a})
	if err != nil {
		s.dropChunks(a)
		return err
	}
	if fenced && !s.MayGo() {
		s.dropChunks(a)
		return s.notNow()
	}
	if !s.queue.put(u) {
		return s.gone()
	}
	if !ackAfterAppend {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Times.Append)
	defer cancel()
	select {
	case <-u.durable:
		s.accepted(a)
		return nil
	case <-s.done:
		return s.settled(u)
	case <-ctx.Done():
	}
	if s.queue.withdraw(u) {
		s.dropChunks(a)
		return fmt.Errorf("spool: %s was not stored in time: %w", a.ID, ctx.Err())
	}
	select {
	case <-u.durable:
		s.accepted(a)
		return nil
	default:
	}
	// It may be stored at any moment. The void entry comes after it in the log, whenever that is.
	s.opts.Logger.Warn("spool: no answer to an append; it is made void", "id", a.ID)
	if err := s.putVoid(a.ID); err != nil {
		return fmt.Errorf("spool: %s: %w", a.ID, errors.Join(ctx.Err(), err))
	}
	return fmt.Errorf("spool: %s was not stored in time: %w", a.ID, ctx.Err())
}

// settled is the answer to who waited for u when the shard ended.
func (s *Shard) settled(u *unit) error {
	select {
	case <-u.durable:
		return nil
	default:
		return s.gone()
	}
}

// notNow is the answer to who would start something without a fresh lease.
func (s *Shard) notNow() error {
	if err := s.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%w: the lease could not be renewed", ErrDown)
}

func (s *Shard) gone() error {
	if err := s.Err(); err != nil {
		return err
	}
	return ErrClosed
}

// Settle records what became of recipients, and in the same record the DSNs that this causes: both are durable, or
// neither. When ctx ends first it gives its error, but the entry stays queued, as the fate is a fact: do not repeat
// the call. A message may be forgotten after Settle has returned nil.
func (s *Shard) Settle(ctx context.Context, settled *Settled, dsns ...*Accepted) error {
	if err := settled.validate(); err != nil {
		return err
	}
	if s.ledger.get(settled.ID) == nil {
		if err := s.Err(); err != nil {
			return err
		}
		return fmt.Errorf("%w: %s", ErrUnknownMessage, settled.ID)
	}
	entries := []entry{{settled: settled}}
	for _, d := range dsns {
		if err := d.validate(); err != nil {
			return err
		}
		entries = append(entries, entry{accepted: d})
	}
	if err := s.append(ctx, entries...); err != nil {
		return err
	}
	for _, d := range dsns {
		s.accepted(d)
	}
	return nil
}

// Void takes a message out of the log whose acceptance was not told to its client: nobody runs it, and it ends
// without a trace in the trail. After Accept has failed this is done already.
func (s *Shard) Void(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	return s.append(ctx, entry{void: id})
}

func (s *Shard) putVoid(id string) error {
	u, err := newUnit(entry{void: id})
	if err == nil && !s.queue.put(u) {
		err = s.gone()
	}
	return err
}

func (s *Shard) append(ctx context.Context, entries ...entry) error {
	u, err := newUnit(entries...)
	if err != nil {
		return err
	}
	if !s.queue.put(u) {
		return s.gone()
	}
	select {
	case <-u.durable:
		return nil
	case <-s.done:
		return s.settled(u)
	case <-ctx.Done():
		return fmt.Errorf("spool: not durable yet: %w", ctx.Err())
	}
}

// dropChunks deletes the chunks of a message of which nothing can be in the log.
func (s *Shard) dropChunks(a *Accepted) {
	if a.Body.Chunks > 0 && checkID(a.ID) == nil {
		s.sweep.add(sweep{stream: s.bodies, subject: s.names.chunksOf(a.ID)})
	}
}

// overWith is told by the ledger of a message that is over and not in the depot.
func (s *Shard) overWith(t *tracked) {
	if t.msg.Body.Chunks > 0 {
		s.sweep.add(sweep{stream: s.bodies, subject: s.names.chunksOf(t.msg.ID)})
	}
}

// MarkIdle says, just before Close, that no Relay is under way: the next owner need not wait for open outcomes.
func (s *Shard) MarkIdle() { s.idle.Store(true) }

// Close writes what is queued, gives the lease up and stops. The shard's data stays. When ctx ends first the rest
// is left to the next owner's recovery.
func (s *Shard) Close(ctx context.Context) error {
	if err := s.Err(); err != nil {
		s.wg.Wait()
		return closedIsFine(err)
	}
	s.queue.close()
	err := s.drain(ctx)
	// What the depot and the trail still lack is in the log; only the log itself must be dry before the lease goes.
	if s.Err() == nil && s.queue.dry() {
		if rerr := s.lease.release(ctx, s.idle.Load()); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}
	s.fail(ErrClosed)
	s.wg.Wait()
	return errors.Join(err, closedIsFine(s.Err()))
}

func closedIsFine(err error) error {
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

// drain waits until everything queued is written.
func (s *Shard) drain(ctx context.Context) error {
	for {
		if s.queue.dry() && s.shelf.dry() && s.sweep.dry() && s.trails.dry() {
			return nil
		}
		select {
		case <-s.done:
			return nil
		default:
		}
		if err := s.opts.Clock.Sleep(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("spool: closing: %w", err)
		}
	}
}

// Remove deletes the streams and the lease of a shard that is empty, and ends it: for a shard that was adopted and
// has run down. It accepts nothing from then on; after an error it may be called again. What is left in BODY belongs
// to nobody and goes with it.
func (s *Shard) Remove(ctx context.Context) error {
	s.queue.close()
	if err := s.drain(ctx); err != nil {
		return err
	}
	if err := s.Err(); err != nil {
		return err
	}
	if n := s.ledger.len(); n > 0 {
		return fmt.Errorf("spool: %s still holds %d messages", s.opts.Instance, n)
	}
	if !s.MayGo() {
		return fmt.Errorf("spool: the lease of %s is not fresh; nothing is removed", s.opts.Instance)
	}
	for _, name := range []string{s.names.body(), s.names.depot(), s.names.spool()} {
		if err := s.js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("spool: removing %s: %w", name, err)
		}
	}
	s.fail(ErrClosed)
	s.wg.Wait()
	if err := s.lease.stream.Purge(ctx, jetstream.WithPurgeSubject(s.names.lease())); err != nil {
		return fmt.Errorf("spool: removing the lease of %s: %w", s.opts.Instance, err)
	}
	return nil
}

// recordIDs gives the Msg-Ids of one stream's records.
type recordIDs struct {
	prefix string
	n      atomic.Uint64
}

func (r *recordIDs) next() string { return r.prefix + strconv.FormatUint(r.n.Add(1), 10) }
