package spool

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	spoolv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/spool/v1"
)

// trailStream holds the way of every message of every instance, hop by hop, for Limits.TrailAge.
const trailStream = "TRAIL"

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
	s.opts.tap(e)
	s.trails.add(encodeEvent(e), nil)
}

// accepted tells the trail of a message that is in the log now.
func (s *Shard) accepted(a *Accepted) {
	s.Trail(&Event{ID: a.ID, Accepted: acceptanceOf(a)})
}

// ended is called by the ledger, with its lock held.
func (w *trailWriter) ended(seq uint64, s *Settled, took []End, waits []Wait, unpin func()) {
	e := &Event{ID: s.ID, At: w.shard.opts.Clock.Now(), Instance: w.shard.opts.Instance, Revision: s.Revision, Ends: took, Waits: waits, Seq: seq}
	w.shard.opts.tap(e)
	w.add(encodeEvent(e), unpin)
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

// TrailLag is what is not written to the trail yet, and how many details were dropped since the shard was opened.
func (s *Shard) TrailLag() (events, bytes, dropped int) {
	w := s.trails
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queued) + w.flying, w.bytes, w.dropped
}

func (o *Options) tap(e *Event) {
	if o.Tap != nil {
		o.Tap(e)
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
