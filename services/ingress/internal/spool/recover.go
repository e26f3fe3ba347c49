package spool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	spoolv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/spool/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

// Recovered is what a shard held when it was taken over.
type Recovered struct {
	// Run are the messages with recipients that neither ended nor wait; Starts name these alone. Their bodies are
	// not in memory: Shard.Content fetches them.
	Run []*Accepted
	// Waiting are the messages with recipients that wait; they stand in the View already.
	Waiting []*depot.Message
	// NotBefore is when the first of these may be run: an outcome that was open at the takeover may have had leave
	// for its final dot. Zero: at once. The View's times respect it; a route that comes back, and a person, must not
	// wake anything of Waiting sooner either.
	NotBefore time.Time
}

// recover fences every earlier owner, then rebuilds the ledger: the log is read first and the depot after it, and
// the log is then applied to what the depot held. In this order an earlier owner who is slow to notice may still
// purge: what it purges from the log while we read was in the depot before, and so is found there, or its message
// is over.
func (s *Shard) recover(ctx context.Context, idle bool) (*Recovered, error) {
	o := &s.opts
	takeover := &spoolv1.Takeover{Instance: o.Instance, Process: o.Process, At: nanos(o.Clock.Now())}
	u, err := newUnit(entry{takeover: takeover})
	if err != nil {
		return nil, err
	}
	s.queue.put(u)
	rec := s.queue.take(ctx, 0, 0)
	log, at, err := s.takeOver(ctx, s.spool, s.names.spool(), rec)
	if err != nil {
		return nil, err
	}
	s.logger = s.newAppender(log, s.queue, at)
	mark := &record{subject: s.names.owner(), id: s.shelf.ids.next(), data: []byte(o.Process)}
	shelf, markedAt, err := s.takeOver(ctx, s.depots, s.names.depot(), mark)
	if err != nil {
		return nil, err
	}
	s.shelf.appender = s.newAppender(shelf, s.shelf, markedAt)
	s.sweep.add(sweep{stream: s.depots, subject: s.names.owner(), keep: 1})

	records, err := s.readLog(ctx, at)
	if err != nil {
		return nil, err
	}
	if err := s.readDepot(ctx, markedAt); err != nil {
		return nil, err
	}
	for _, r := range records {
		s.ledger.apply(r.seq, r.entries)
	}
	s.acceptedBefore(records)
	rec.done(at)
	if err := s.orphans(ctx); err != nil {
		return nil, err
	}
	found := s.found(idle)
	o.Logger.Info("spool: took the shard over", "instance", o.Instance, "process", o.Process, "at", at,
		"records", len(records), "run", len(found.Run), "waiting", len(found.Waiting))
	return found, nil
}

// acceptedBefore tells the trail again what was accepted and is not over: the former owner may not have come to it.
func (s *Shard) acceptedBefore(records []logRecord) {
	for _, r := range records {
		for _, e := range r.entries {
			if e.accepted != nil && s.ledger.get(e.accepted.ID) != nil {
				s.accepted(e.accepted)
			}
		}
	}
}

func (s *Shard) newAppender(w wire, f feed, last uint64) *appender {
	return &appender{
		wire: w, feed: f, log: s.opts.Logger, clock: s.opts.Clock, start: s.opts.Clock.Now(),
		ackTimeout: s.opts.Times.Ack, pause: s.opts.Times.Pause, last: last,
	}
}

// takeOver appends r to whatever is last in the stream; from then on every earlier owner's expectation is wrong.
func (s *Shard) takeOver(ctx context.Context, stream jetstream.Stream, name string, r *record) (wire, uint64, error) {
	var w wire = &streamWire{js: s.js, stream: stream, name: name}
	if s.opts.wire != nil {
		w = s.opts.wire(w)
	}
	a := s.newAppender(w, nil, 0)
	for {
		last, err := w.last(ctx)
		if err != nil {
			return nil, 0, err
		}
		r.after = last
		err = a.again(ctx, r)
		if err == nil {
			return w, r.after + 1, nil
		}
		stored, lerr := a.lookBack(ctx, r)
		if stored {
			return w, r.after + 1, nil
		}
		if err := s.Err(); err != nil {
			return nil, 0, err
		}
		if lerr != nil && !errors.Is(lerr, ErrFenced) || lerr == nil {
			s.opts.Logger.Warn("spool: taking over", "stream", name, "err", errors.Join(err, lerr))
			if err := s.opts.Clock.Sleep(ctx, s.opts.Times.Pause); err != nil {
				return nil, 0, fmt.Errorf("spool: taking over %s: %w", name, err)
			}
		}
		// Else the earlier owner appended in between: ours comes after that.
	}
}

type logRecord struct {
	seq     uint64
	entries []entry
}

// readLog reads every record up to the takeover entry.
func (s *Shard) readLog(ctx context.Context, upTo uint64) ([]logRecord, error) {
	var records []logRecord
	var before uint64
	err := readUpTo(ctx, s.spool, nil, upTo, func(m jetstream.Msg, seq uint64) error {
		if before != 0 && seq != before+1 {
			info, err := s.spool.Info(ctx)
			if err != nil {
				return fmt.Errorf("spool: %w", err)
			}
			if info.State.FirstSeq < seq {
				// The disk lost them. Not starting would not bring them back, and stop the rest.
				s.opts.Logger.Error("spool: THE LOG HAS A HOLE: what it held is lost, or will be sent again",
					"instance", s.opts.Instance, "after", before, "before", seq)
			}
		}
		before = seq
		r, err := decodeRecord(m.Data())
		if err != nil {
			return fmt.Errorf("record %d: %w", seq, err)
		}
		entries, err := decodeEntries(r)
		if err != nil {
			return fmt.Errorf("record %d: %w", seq, err)
		}
		records = append(records, logRecord{seq, entries})
		return nil
	})
	return records, err
}

func decodeEntries(r *spoolv1.Record) ([]entry, error) {
	entries := make([]entry, 0, len(r.Entries))
	for _, p := range r.Entries {
		switch k := p.Kind.(type) {
		case *spoolv1.Entry_Accepted:
			entries = append(entries, entry{accepted: decodeAccepted(k.Accepted)})
		case *spoolv1.Entry_Settled:
			st, err := decodeSettled(k.Settled)
			if err != nil {
				return nil, err
			}
			entries = append(entries, entry{settled: st})
		case *spoolv1.Entry_Void:
			entries = append(entries, entry{void: k.Void.Id})
		case *spoolv1.Entry_Takeover:
			entries = append(entries, entry{takeover: k.Takeover})
		}
	}
	return entries, nil
}

// readDepot enters the stored values of the messages that wait.
func (s *Shard) readDepot(ctx context.Context, upTo uint64) error {
	filter := []string{s.names.waiting("*"), s.names.owner()}
	return readUpTo(ctx, s.depots, filter, upTo, func(m jetstream.Msg, seq uint64) error {
		if m.Subject() == s.names.owner() {
			return nil
		}
		w, err := decodeWaiting(m.Data())
		if err != nil {
			return err
		}
		s.ledger.restore(w)
		return nil
	})
}

// readUpTo reads a stream in order, up to a sequence that is known to be there.
func readUpTo(ctx context.Context, stream jetstream.Stream, filter []string, upTo uint64, each func(jetstream.Msg, uint64) error) error {
	return readWith(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: filter}, upTo, each)
}

func readWith(ctx context.Context, stream jetstream.Stream, cfg jetstream.OrderedConsumerConfig, upTo uint64, each func(jetstream.Msg, uint64) error) error {
	name := stream.CachedInfo().Config.Name
	c, err := stream.OrderedConsumer(ctx, cfg)
	if err != nil {
		return fmt.Errorf("spool: reading %s: %w", name, err)
	}
	// By bytes: five hundred records of half a megabyte are not to wait in memory. (By messages and bytes the library
	// drops what comes faster than it is read, and begins again.)
	it, err := c.Messages(jetstream.PullMaxBytes(16 << 20))
	if err != nil {
		return fmt.Errorf("spool: reading %s: %w", name, err)
	}
	defer forget(ctx, stream, c)
	defer it.Stop()
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("spool: reading %s: %w", name, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("spool: reading %s: %w", name, err)
		}
		if err := each(m, meta.Sequence.Stream); err != nil {
			return fmt.Errorf("spool: %s: %w", name, err)
		}
		if meta.Sequence.Stream >= upTo {
			return nil
		}
	}
}

// forget takes a consumer away. The server would keep it for five minutes, and a stream has room for a thousand.
func forget(ctx context.Context, stream jetstream.Stream, c jetstream.Consumer) {
	info := c.CachedInfo()
	if info == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = stream.DeleteConsumer(ctx, info.Name) //nolint:errcheck // it ends by itself at the latest
}

// orphans deletes the chunks, and the bytes beside the depot's values, that belong to no message. Only the owner
// can tell, and only now: before anything new is accepted.
func (s *Shard) orphans(ctx context.Context) error {
	for _, in := range []struct {
		stream jetstream.Stream
		all    string
		of     func(id string) string
	}{{s.bodies, s.names.bodies(), s.names.chunksOf}, {s.depots, s.names.bytes("*"), s.names.bytes}} {
		info, err := in.stream.Info(ctx, jetstream.WithSubjectFilter(in.all))
		if err != nil {
			return fmt.Errorf("spool: looking for orphans: %w", err)
		}
		seen := make(map[string]bool)
		for subject := range info.State.Subjects {
			id := strings.SplitN(subject, ".", 4)[2]
			if seen[id] {
				continue
			}
			seen[id] = true
			if s.ledger.get(id) == nil {
				s.sweep.add(sweep{stream: in.stream, subject: in.of(id)})
			}
		}
	}
	return nil
}

// restore enters a message from the depot.
func (l *ledger) restore(m *depot.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m = m.Trim()
	l.messages[m.ID] = &tracked{msg: m, stored: m.Seq, bytesStored: m.Body.Chunks == 0}
	l.view.Put(m)
}

// found makes what recovery returns of the ledger. No Relay is open any more that this process knows of; what was
// may still have its outcome, so that nothing is run before that is over.
func (s *Shard) found(idle bool) *Recovered {
	f := &Recovered{}
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if !idle && len(l.messages) > 0 {
		f.NotBefore = s.opts.Clock.Now().Add(s.opts.Times.Unknown)
	}
	for _, t := range l.messages {
		t.msg = t.msg.TakeOver(f.NotBefore)
		if len(t.msg.Running) > 0 {
			m := t.msg
			f.Run = append(f.Run, &Accepted{
				ID: m.ID, Received: m.Received, Envelope: m.Envelope, Starts: m.Running, Reports: m.Reports, Body: m.Body,
			})
		}
		if len(t.msg.Groups) > 0 {
			l.view.Put(t.msg)
			f.Waiting = append(f.Waiting, t.msg)
		}
	}
	return f
}

// readRecord reads one record of the log back.
func (s *Shard) readRecord(ctx context.Context, seq uint64) (*spoolv1.Record, error) {
	m, err := s.spool.GetMsg(ctx, seq)
	if err != nil {
		return nil, fmt.Errorf("spool: reading the log at %d: %w", seq, err)
	}
	r := &spoolv1.Record{}
	if err := proto.Unmarshal(m.Data, r); err != nil {
		return nil, fmt.Errorf("spool: record %d: %w", seq, err)
	}
	return r, nil
}
