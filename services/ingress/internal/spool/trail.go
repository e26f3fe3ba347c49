package spool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	spoolv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/spool/v1"
)

// trailStream holds the way of every message of every instance, hop by hop, for Limits.TrailAge.
const trailStream = "TRAIL"

// Event is something that happened to one message. Ends and waits are entered by Settle itself; the rest is what
// the dispatcher reports.
type Event struct {
	ID       string
	At       time.Time
	Instance string
	// Revision of the configuration that the message ran under.
	Revision string
	Chain    string
	Hops     []chain.Report
	Fates    []chain.Fate
	Ends     []End
	Waits    []Wait
	// Seq is the log sequence of an end or wait, else 0.
	Seq uint64
	// Text is for people: what happened, if it is none of the above.
	Text string
}

const (
	trailPack = 256 << 10
	// trailBacklog is the size in bytes of the details that wait to be written; beyond it new ones are dropped.
	trailBacklog = 16 << 20
)

// trailWriter writes events off the critical path, packed. Ends and waits are never dropped: their records stay in
// the log until they are acknowledged here. Details may be lost in a crash.
type trailWriter struct {
	shard *Shard
	ids   recordIDs

	mu      sync.Mutex
	queued  []trailed
	bytes   int
	flying  int
	dropped int
	wake    chan struct{}
}

type trailed struct {
	data  []byte
	unpin func()
}

func newTrailWriter(ctx context.Context, s *Shard) (*trailWriter, error) {
	spec := streamSpec(trailStream, []string{"trail.*"}, s.opts.Replicas, s.opts.Limits.Trail)
	spec.Discard = jetstream.DiscardOld
	spec.MaxAge = s.opts.Limits.TrailAge
	if _, err := s.opts.ensureStream(ctx, s.js, spec); err != nil {
		return nil, err
	}
	return &trailWriter{shard: s, ids: recordIDs{prefix: s.opts.Process + "-t"}, wake: make(chan struct{}, 1)}, nil
}

// Trail notes an event; it never waits. When too many details wait to be written they are dropped, which is logged.
func (s *Shard) Trail(e *Event) {
	e.Instance = s.opts.Instance
	if e.At.IsZero() {
		e.At = s.opts.Clock.Now()
	}
	p := encodeEvent(e)
	for _, h := range p.Hops {
		h.Edits = nil // kept with waiting mail, where they are needed; here they would be most of the bytes
	}
	s.trails.add(p, nil)
}

// ended is called by the ledger, with its lock held.
func (w *trailWriter) ended(seq uint64, s *Settled, took []End, waits []Wait, unpin func()) {
	p := encodeEvent(&Event{
		ID: s.ID, At: w.shard.opts.Clock.Now(), Instance: w.shard.opts.Instance, Revision: s.Revision, Ends: took, Waits: waits, Seq: seq,
	})
	w.add(p, unpin)
}

func (w *trailWriter) add(p *spoolv1.TrailEvent, unpin func()) {
	body, err := proto.Marshal(p)
	if err != nil || len(body) > EntryLimit {
		w.shard.opts.Logger.Error("spool: an event cannot be kept", "id", p.Id, "bytes", len(body), "err", err)
		body = nil
	}
	var data []byte
	if body != nil {
		data = protowire.AppendTag(nil, 2, protowire.BytesType)
		data = protowire.AppendBytes(data, body)
	}
	w.mu.Lock()
	if unpin == nil && w.bytes+len(data) > trailBacklog {
		if w.dropped++; w.dropped%1000 == 1 {
			w.shard.opts.Logger.Warn("spool: the trail is behind; details are dropped", "dropped", w.dropped)
		}
		w.mu.Unlock()
		return
	}
	w.queued = append(w.queued, trailed{data, unpin})
	w.bytes += len(data)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *trailWriter) dry() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queued) == 0 && w.flying == 0
}

func (w *trailWriter) run(ctx context.Context) error {
	o := &w.shard.opts
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		}
		if err := o.Clock.Sleep(ctx, o.Times.Trail); err != nil {
			return err
		}
		for {
			data, events := w.pack()
			if len(events) == 0 {
				break
			}
			if err := w.write(ctx, data); err != nil {
				return err
			}
			for _, e := range events {
				if e.unpin != nil {
					e.unpin()
				}
			}
			w.mu.Lock()
			w.flying -= len(events)
			w.mu.Unlock()
		}
	}
}

func (w *trailWriter) pack() ([]byte, []trailed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	data := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), format)
	n := 0
	for n < len(w.queued) && (n == 0 || len(data)+len(w.queued[n].data) <= trailPack) {
		data = append(data, w.queued[n].data...)
		w.bytes -= len(w.queued[n].data)
		n++
	}
	events := make([]trailed, n)
	copy(events, w.queued)
	clear(w.queued[:n])
	w.queued = w.queued[n:]
	w.flying += n
	return data, events
}

// write repeats a record until it is acknowledged. A repeat that was not needed is dropped by its Msg-Id, or by the
// reader.
func (w *trailWriter) write(ctx context.Context, data []byte) error {
	o := &w.shard.opts
	id := w.ids.next()
	for try := 0; ; try++ {
		step, cancel := context.WithTimeout(ctx, o.Times.Ack)
		_, err := w.shard.js.PublishMsg(step, &nats.Msg{Subject: w.shard.names.trail(), Data: data},
			jetstream.WithExpectStream(trailStream), jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil {
			return nil
		}
		if try%20 == 0 && ctx.Err() == nil {
			o.Logger.Warn("spool: writing the trail", "err", err)
		}
		if err := o.Clock.Sleep(ctx, o.Times.Pause); err != nil {
			return err
		}
	}
}

// ReadTrail gives the events of one message in the order in which they were written, of all instances. since, the
// time at which the message was received or earlier, saves reading what is older; the whole trail from then on is
// read. A trail that does not exist is empty.
func ReadTrail(ctx context.Context, conn *nats.Conn, id string, since time.Time) ([]*Event, error) {
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, fmt.Errorf("spool: JetStream: %w", err)
	}
	stream, err := js.Stream(ctx, trailStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("spool: trail: %w", err)
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 || !since.IsZero() && state.LastTime.Before(since) {
		return nil, nil
	}
	cfg := jetstream.OrderedConsumerConfig{}
	if !since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	type key struct {
		instance string
		seq      uint64
	}
	seen := make(map[key]bool)
	var events []*Event
	err = readWith(ctx, stream, cfg, state.LastSeq, func(m jetstream.Msg, _ uint64) error {
		r := &spoolv1.TrailRecord{}
		if err := proto.Unmarshal(m.Data(), r); err != nil {
			return fmt.Errorf("record: %w", err)
		}
		if r.Version != format {
			return fmt.Errorf("record of format %d; this release reads %d", r.Version, format)
		}
		for _, p := range r.Events {
			k := key{p.Instance, p.Sequence}
			if p.Id != id || p.Sequence != 0 && seen[k] {
				continue
			}
			seen[k] = true
			e, err := decodeEvent(p)
			if err != nil {
				return err
			}
			events = append(events, e)
		}
		return nil
	})
	return events, err
}

func encodeEvent(e *Event) *spoolv1.TrailEvent {
	// The hops done are told by the events of the hops.
	bare := slices.Clone(e.Waits)
	for i := range bare {
		bare[i].Done = nil
	}
	p := &spoolv1.TrailEvent{
		Id: e.ID, At: nanos(e.At), Instance: text(e.Instance), Revision: e.Revision, Chain: e.Chain, Ends: encodeEnds(e.Ends),
		Waits: encodeWaits(bare, &reportTable{}), Sequence: e.Seq, Text: text(e.Text),
	}
	for i := range e.Hops {
		p.Hops = append(p.Hops, encodeReport(&e.Hops[i]))
	}
	for i := range e.Fates {
		p.Fates = append(p.Fates, encodeFate(&e.Fates[i]))
	}
	return p
}

func decodeEvent(p *spoolv1.TrailEvent) (*Event, error) {
	waits, err := decodeWaits(p.Waits, nil)
	if err != nil {
		return nil, fmt.Errorf("event of %s: %w", p.Id, err)
	}
	e := &Event{
		ID: p.Id, At: instant(p.At), Instance: p.Instance, Revision: p.Revision, Chain: p.Chain,
		Hops: decodeReports(p.Hops), Ends: decodeEnds(p.Ends), Waits: waits, Seq: p.Sequence, Text: p.Text,
	}
	for _, f := range p.Fates {
		e.Fates = append(e.Fates, decodeFate(f))
	}
	return e, nil
}
