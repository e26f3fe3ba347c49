package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Options say which shard to own, and how.
type Options struct {
	// Conn to a server that passed CheckDurable. It reconnects by itself, without limit; it stays the caller's.
	Conn *nats.Conn
	// Instance names the shard: the ingress instance's name. Any text; what no subject may contain is escaped.
	Instance string
	// Process names the process, for people and uniquely (mail.NewID will do): letters, digits, '-' and '_', at most
	// 128.
	Process string
	// Holder is the instance that this process runs as; empty: Instance. Another than Instance: an adoption.
	Holder string
	// Replicas of every stream: 1 (the default) or 3.
	Replicas int
	Limits   Limits
	Logger   *slog.Logger
	// Clock is the system's when nil.
	Clock Clock
	// ExclusiveOwner: something else proves that no other process of this name runs (under `up`, the lock on the
	// data directory), so that a lease left behind by a crash need not be watched.
	ExclusiveOwner bool
	// FreeSpace gives the free bytes of the disk under the streams, where that is known (an embedded server): a
	// full disk shows itself as time-outs only. Nil: not checked.
	FreeSpace func() (uint64, error)
	// Times; zero fields have their defaults.
	Times Times
	// Appended is told how long a record took until it was durable, and how many entries it held; it must not block. Nil:
	// nobody is.
	Appended func(took time.Duration, entries int)

	// Tap is told of everything that goes to the trail, as it happens. It must not block, and may keep the event, but not
	// change it. Nil: nobody is told.
	Tap func(e *Event)

	// rev, if not 0, is the revision of the lease that was seen to have run out.
	rev uint64
	// wire, if not nil, replaces the wire to a stream.
	wire func(w wire) wire
}

// Limits are the bounds of the streams, in bytes. Intake stops at 80% of any; the rest is kept for settling what
// was accepted.
type Limits struct {
	Spool int64 // default 4 GiB
	Body  int64 // default 16 GiB
	Depot int64 // default 8 GiB
	Trail int64 // default 2 GiB; the oldest is dropped
	// TrailAge is how long the trail is kept; default 30 days.
	TrailAge time.Duration
	// MinFree is the free disk space under which intake stops; default 512 MiB.
	MinFree uint64
}

// Times are the intervals of a shard.
type Times struct {
	// Lease is how long a lease holds without renewal; default 20 s, which outlasts a change of leader (7.3 s seen).
	Lease time.Duration
	// Renew is the interval of renewals; default 1 s.
	Renew time.Duration
	// Watch is how long a starter of the same name watches for a renewal; default 1.5 s.
	Watch time.Duration
	// Append bounds an Accept: a lost acknowledgement is repeated for so long; default 60 s.
	Append time.Duration
	// Ack is waited for one acknowledgement before it counts as lost; default 5 s.
	Ack time.Duration
	// Pause between repeats; default 250 ms.
	Pause time.Duration
	// Floor is the interval of purging the log and of looking at the limits; default 1 s.
	Floor time.Duration
	// Unknown is how long after a takeover an outcome that may have had leave for its final dot counts as open;
	// default 15 s.
	Unknown time.Duration
	// Stall is the age of an unanswered append at which Ready gives ErrDown; default 2 s.
	Stall time.Duration
	// Trail is how long events are collected before they are written; default 200 ms.
	Trail time.Duration
}

// Errors of a shard. All that a caller may see when it appends mean 451 to the client, except ErrFull: 452.
var (
	// ErrFenced: another process owns the shard. Stop, forget everything, answer 451.
	ErrFenced = errors.New("spool: another process owns the shard")
	// ErrOwned: Open found a live owner.
	ErrOwned = errors.New("spool: the shard has a live owner")
	// ErrClosed: the shard was closed.
	ErrClosed = errors.New("spool: the shard is closed")
	// ErrFull: intake is stopped, at 80% of a limit or for want of disk space.
	ErrFull = errors.New("spool: full")
	// ErrDown: NATS is not there, or does not answer.
	ErrDown = errors.New("spool: NATS does not answer")
	// ErrTooLarge: an entry is over its limit.
	ErrTooLarge = errors.New("spool: entry too large")
	// ErrUnknownMessage: the shard has no such message (any more).
	ErrUnknownMessage = errors.New("spool: no such message")
	// ErrCorrupt: a body has not the length or the checksum that was accepted.
	ErrCorrupt = errors.New("spool: body is damaged")
	// ErrNotDurable: the server or a stream does not keep what it acknowledges.
	ErrNotDurable = errors.New("spool: not durable")
)

func (o *Options) complete() error {
	if o.Conn == nil {
		return errors.New("spool: no connection to NATS")
	}
	if o.Instance == "" {
		return errors.New("spool: no instance name")
	}
	if err := token(o.Process); err != nil {
		return fmt.Errorf("spool: process %q: %w", o.Process, err)
	}
	if o.Holder == "" {
		o.Holder = o.Instance
	}
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = systemClock{}
	}
	def(&o.Limits.Spool, 4<<30)
	def(&o.Limits.Body, 16<<30)
	def(&o.Limits.Depot, 8<<30)
	def(&o.Limits.Trail, 2<<30)
	def(&o.Limits.TrailAge, 30*24*time.Hour)
	def(&o.Limits.MinFree, 512<<20)
	def(&o.Times.Lease, 20*time.Second)
	def(&o.Times.Renew, time.Second)
	def(&o.Times.Watch, 1500*time.Millisecond)
	def(&o.Times.Append, time.Minute)
	def(&o.Times.Ack, 5*time.Second)
	def(&o.Times.Pause, 250*time.Millisecond)
	def(&o.Times.Floor, time.Second)
	def(&o.Times.Unknown, 15*time.Second)
	def(&o.Times.Stall, 2*time.Second)
	def(&o.Times.Trail, 200*time.Millisecond)
	return nil
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (o *Options) jetStream() (jetstream.JetStream, error) {
	js, err := jetstream.New(o.Conn, jetstream.WithPublishAsyncTimeout(o.Times.Ack), jetstream.WithPublishAsyncMaxPending(4096),
		jetstream.WithDefaultTimeout(o.Times.Ack))
	if err != nil {
		return nil, fmt.Errorf("spool: JetStream: %w", err)
	}
	return js, nil
}

// names of a shard's streams and subjects.
type names struct{ key string }

func (n names) spool() string             { return "SPOOL_" + n.key }
func (n names) body() string              { return "BODY_" + n.key }
func (n names) depot() string             { return "DEPOT_" + n.key }
func (n names) entry() string             { return "spool." + n.key }
func (n names) trail() string             { return "trail." + n.key }
func (n names) lease() string             { return "lease." + n.key }
func (n names) bodies() string            { return "body." + n.key + ".>" }
func (n names) depots() string            { return "depot." + n.key + ".>" }
func (n names) chunksOf(id string) string { return "body." + n.key + "." + id + ".>" }
func (n names) chunk(id string, i int) string {
	return fmt.Sprintf("body.%s.%s.%d", n.key, id, i)
}
func (n names) waiting(id string) string { return "depot." + n.key + "." + id + ".m" }
func (n names) bytes(id string) string   { return "depot." + n.key + "." + id + ".b" }
func (n names) shelf(id string) string   { return "depot." + n.key + "." + id + ".>" }
func (n names) owner() string            { return "depot." + n.key + ".owner" }

// wanted is where a returning instance asks for its adopted shard.
func (n names) wanted() string { return "stagecoach.wanted." + n.key }

// namesOf escapes what stream names and subjects cannot contain; '_' is the escape, so no two instances meet.
func namesOf(instance string) names {
	key := make([]byte, 0, len(instance))
	for i := 0; i < len(instance); i++ {
		switch c := instance[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
			key = append(key, c)
		default:
			key = fmt.Appendf(key, "_%02x", c)
		}
	}
	return names{string(key)}
}
