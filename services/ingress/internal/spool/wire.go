package spool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// wire is how one stream is appended to and read back: all that the fence needs of JetStream.
type wire interface {
	// send publishes without waiting. Acknowledgements come in the order of sending.
	send(r *record) (ticket, error)
	// repeat publishes and waits.
	repeat(ctx context.Context, r *record) (uint64, error)
	// read gives the Msg-Id and the data at a sequence; errAbsent if there is nothing.
	read(ctx context.Context, seq uint64) (id string, data []byte, err error)
	// last is the stream's last sequence.
	last(ctx context.Context) (uint64, error)
}

// ticket is a published record that waits for its acknowledgement.
type ticket interface {
	Ok() <-chan *jetstream.PubAck
	Err() <-chan error
}

// record is one message for a stream, with the sequence it must get.
type record struct {
	subject string
	id      string // Msg-Id
	data    []byte
	// after is the last sequence that the stream must have when this is appended.
	after uint64
	// done is called once, when the record is durable, in the order of the sequences.
	done func(seq uint64)
}

var (
	errAbsent = errors.New("spool: nothing at this sequence")
	// errOutOfTurn is the refusal of an append: the stream has another last sequence. At one replica it is also the
	// answer to the repeat of an append that was stored, so it proves nothing.
	errOutOfTurn = errors.New("spool: the stream has another last sequence")
)

// Codes of the JetStream API that nats.go does not name.
const (
	codeWrongLast         jetstream.ErrorCode = 10071
	codeWrongLastConstant jetstream.ErrorCode = 10164
	codeNoPeers           jetstream.ErrorCode = 10005
	codeNotAvailable      jetstream.ErrorCode = 10008
	codeStoreFailed       jetstream.ErrorCode = 10077
	codeStorage           jetstream.ErrorCode = 10047
	codeResources         jetstream.ErrorCode = 10023
)

// streamWire is the wire to a real stream.
type streamWire struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	name   string
}

func (w *streamWire) options(r *record) []jetstream.PublishOpt {
	opts := []jetstream.PublishOpt{jetstream.WithMsgID(r.id), jetstream.WithExpectStream(w.name)}
	if fenced {
		opts = append(opts, jetstream.WithExpectLastSequence(r.after))
	}
	return opts
}

func (w *streamWire) send(r *record) (ticket, error) {
	return w.js.PublishMsgAsync(&nats.Msg{Subject: r.subject, Data: r.data}, append(w.options(r), jetstream.WithRetryAttempts(0))...)
}

func (w *streamWire) repeat(ctx context.Context, r *record) (uint64, error) {
	ack, err := w.js.PublishMsg(ctx, &nats.Msg{Subject: r.subject, Data: r.data}, append(w.options(r), jetstream.WithRetryAttempts(0))...)
	if err != nil {
		return 0, outOfTurn(err)
	}
	return ack.Sequence, nil
}

func (w *streamWire) read(ctx context.Context, seq uint64) (string, []byte, error) {
	m, err := w.stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return "", nil, errAbsent
	}
	if err != nil {
		return "", nil, fmt.Errorf("spool: reading %s at %d: %w", w.name, seq, err)
	}
	return m.Header.Get(nats.MsgIdHdr), m.Data, nil
}

func (w *streamWire) last(ctx context.Context) (uint64, error) {
	info, err := w.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("spool: %s: %w", w.name, err)
	}
	return info.State.LastSeq, nil
}

// outOfTurn makes the refusals of an expected sequence one error.
func outOfTurn(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == codeWrongLast || api.ErrorCode == codeWrongLastConstant) {
		return errOutOfTurn
	}
	return err
}

// streamSpec is what all streams of a shard have in common: on disk, bounded, and refusing what is too much.
func streamSpec(name string, subjects []string, replicas int, limit int64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: name, Subjects: subjects, Replicas: replicas, MaxBytes: limit,
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		// The expected sequence is what keeps a repeat from being stored twice; the server remembers ids for no longer
		// than a repeat lasts, as it keeps them all in memory.
		Duplicates: time.Minute,
		// Read back from the leader alone: a follower may not have yet what was acknowledged.
		AllowDirect: false,
	}
}

// ensureStream creates a stream, or brings its limits to what the configuration now says. A cluster that has not
// formed yet drops such a request or finds no place for the stream: it is asked again until ctx ends. A stream that
// does not keep what it acknowledges is refused.
func (o *Options) ensureStream(ctx context.Context, js jetstream.JetStream, spec jetstream.StreamConfig) (jetstream.Stream, error) {
	for {
		step, cancel := context.WithTimeout(ctx, o.Times.Ack)
		s, err := js.CreateOrUpdateStream(step, spec)
		cancel()
		if err == nil {
			if c := s.CachedInfo().Config; c.Storage != jetstream.FileStorage || c.PersistMode == jetstream.AsyncPersistMode {
				return nil, fmt.Errorf("%w: the stream %s is not on disk, or is written behind", ErrNotDurable, spec.Name)
			}
			return s, nil
		}
		if forming(err) && ctx.Err() == nil {
			o.Logger.Info("spool: waiting for JetStream", "stream", spec.Name, "err", err)
			if o.Clock.Sleep(ctx, o.Times.Pause) == nil {
				continue
			}
		}
		return nil, fmt.Errorf("spool: stream %s: %w", spec.Name, err)
	}
}

func forming(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode == codeNoPeers || api.ErrorCode == codeNotAvailable
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout)
}
