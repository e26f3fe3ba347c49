package spool

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/stagecoachmail/stagecoach/mail"
)

const (
	chunkSize = 1 << 20
	// chunksOfOne and chunksInFlight bound the chunks that are published and not yet acknowledged: of one body, and
	// of all. The server's queue for the stream takes 128 MB.
	chunksOfOne    = 2
	chunksInFlight = 64
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// BodyWriter takes the bytes of one message while DATA arrives. Up to 256 KiB stay in memory; beyond that, chunks
// go to the BODY stream as they fill. It is for one goroutine. After Finish or Abort it is used no more.
type BodyWriter struct {
	s       *Shard
	ctx     context.Context
	id      string
	buf     []byte
	size    int64
	crc     hash.Hash32
	chunks  int
	flights []chunkFlight
	err     error
}

type chunkFlight struct {
	n    int
	data []byte
	tkt  jetstream.PubAckFuture // nil: could not be sent
}

// NewBody begins the body of message id. ctx holds for all of its writing.
func (s *Shard) NewBody(ctx context.Context, id string) *BodyWriter {
	return &BodyWriter{s: s, ctx: ctx, id: id, crc: crc32.New(castagnoli), err: checkID(id)}
}

// Write takes a part of the message; it keeps no reference to p. Its error is final: ErrFull means 452.
func (b *BodyWriter) Write(p []byte) (int, error) {
	written := len(p)
	if b.err == nil {
		b.err = b.s.Err()
	}
	for len(p) > 0 && b.err == nil {
		room := chunkSize - len(b.buf)
		n := min(room, len(p))
		b.buf = append(b.buf, p[:n]...)
		b.crc.Write(p[:n])
		b.size += int64(n)
		p = p[n:]
		if len(b.buf) == chunkSize {
			b.err = b.flush()
		}
	}
	if b.err != nil {
		return 0, b.err
	}
	return written, nil
}

// flush publishes the buffer as the next chunk.
func (b *BodyWriter) flush() error {
	for len(b.flights) >= chunksOfOne {
		if err := b.land(); err != nil {
			return err
		}
	}
	select {
	case b.s.chunks <- struct{}{}:
	case <-b.ctx.Done():
		return fmt.Errorf("spool: body of %s: %w", b.id, b.ctx.Err())
	case <-b.s.done:
		return b.s.gone()
	}
	f := chunkFlight{n: b.chunks, data: b.buf}
	f.tkt, _ = b.s.js.PublishMsgAsync(b.message(f), b.options(f)...) // without a ticket it is repeated by land
	b.flights = append(b.flights, f)
	b.chunks++
	b.buf = make([]byte, 0, chunkSize)
	return nil
}

func (b *BodyWriter) message(f chunkFlight) *nats.Msg {
	return &nats.Msg{Subject: b.s.names.chunk(b.id, f.n), Data: f.data}
}

func (b *BodyWriter) options(f chunkFlight) []jetstream.PublishOpt {
	return []jetstream.PublishOpt{
		jetstream.WithExpectStream(b.s.names.body()), jetstream.WithMsgID(fmt.Sprintf("%s-%s-%d", b.s.opts.Process, b.id, f.n)),
		jetstream.WithRetryAttempts(0),
	}
}

// land waits for the oldest chunk in flight, repeating it while there is no answer.
func (b *BodyWriter) land() error {
	f := b.flights[0]
	b.flights = b.flights[1:]
	defer func() { <-b.s.chunks }()
	ctx, cancel := context.WithTimeout(b.ctx, b.s.opts.Times.Append)
	defer cancel()
	var err error
	if f.tkt != nil {
		select {
		case <-f.tkt.Ok():
			return nil
		case err = <-f.tkt.Err():
		case <-b.s.done:
			return b.s.gone()
		case <-ctx.Done():
			return fmt.Errorf("spool: body of %s: %w", b.id, ctx.Err())
		}
	}
	for {
		if full := fullOr(err); errors.Is(full, ErrFull) {
			return fmt.Errorf("spool: body of %s: %w", b.id, full)
		}
		try, stop := context.WithTimeout(ctx, b.s.opts.Times.Ack)
		_, err = b.s.js.PublishMsg(try, b.message(f), b.options(f)...)
		stop()
		if err == nil {
			return nil
		}
		if gone := b.s.Err(); gone != nil {
			return gone
		}
		if serr := b.s.opts.Clock.Sleep(ctx, b.s.opts.Times.Pause); serr != nil {
			return fmt.Errorf("spool: body of %s: %w", b.id, errors.Join(serr, err))
		}
	}
}

// Size is the number of bytes written so far.
func (b *BodyWriter) Size() int64 { return b.size }

// Finish gives the body when every chunk of it is durable. On an error Abort was called. Once Accept was called
// with the body, its chunks are the shard's; a body that is not accepted after all is given back with Drop.
func (b *BodyWriter) Finish() (Body, error) {
	if b.err == nil && (b.chunks > 0 || len(b.buf) > InlineLimit) && len(b.buf) > 0 {
		b.err = b.flush()
	}
	for b.err == nil && len(b.flights) > 0 {
		b.err = b.land()
	}
	if b.err != nil {
		err := b.err
		b.Abort()
		return Body{}, err
	}
	body := Body{Size: b.size, Chunks: b.chunks, CRC: b.crc.Sum32()}
	if b.chunks == 0 {
		body.Inline = b.buf
	}
	return body, nil
}

// InlineBody is the body of a message of ours, which is at most InlineLimit long.
func InlineBody(raw []byte) Body {
	return Body{Inline: raw, Size: int64(len(raw)), CRC: crc32.Checksum(raw, castagnoli)}
}

// Abort throws the body away and deletes its chunks. It waits up to Times.Ack for those in flight: one that landed
// after the deletion would stay until the next recovery.
func (b *BodyWriter) Abort() {
	flights := b.flights
	b.flights, b.buf = nil, nil
	if b.err == nil {
		b.err = errors.New("spool: the body was aborted")
	}
	if b.chunks == 0 {
		return
	}
	for _, f := range flights {
		if f.tkt != nil {
			select {
			case <-f.tkt.Ok():
			case <-f.tkt.Err():
			case <-b.s.done:
			}
		}
		<-b.s.chunks
	}
	b.s.sweep.add(sweep{stream: b.s.bodies, subject: b.s.names.chunksOf(b.id)})
}

// Drop deletes the chunks of a finished body that was never given to Accept.
func (s *Shard) Drop(id string, body Body) {
	s.dropChunks(&Accepted{ID: id, Body: body})
}

// OpenBody writes the original bytes of a message to w. An error, and ErrCorrupt above all, means that what was
// written so far must not be used.
func (s *Shard) OpenBody(ctx context.Context, id string, body Body, w io.Writer) error {
	crc := crc32.New(castagnoli)
	var size int64
	put := func(p []byte) error {
		crc.Write(p)
		size += int64(len(p))
		_, err := w.Write(p)
		return err
	}
	switch {
	case body.Chunks > 0:
		for i := range body.Chunks {
			m, err := s.bodies.GetLastMsgForSubject(ctx, s.names.chunk(id, i))
			if err != nil {
				return fmt.Errorf("spool: body of %s, chunk %d of %d: %w", id, i, body.Chunks, err)
			}
			if err := put(m.Data); err != nil {
				return fmt.Errorf("spool: body of %s: %w", id, err)
			}
		}
	case body.Inline != nil:
		if err := put(body.Inline); err != nil {
			return fmt.Errorf("spool: body of %s: %w", id, err)
		}
	case body.Size > 0:
		data, err := s.fetch(ctx, id, body)
		if err != nil {
			return err
		}
		if err := put(data); err != nil {
			return fmt.Errorf("spool: body of %s: %w", id, err)
		}
	}
	// Reports of ours were once written without a checksum, and may still wait.
	if size != body.Size || body.CRC != 0 && crc.Sum32() != body.CRC {
		return fmt.Errorf("%w: %s has %d bytes with checksum %08x, accepted were %d with %08x", ErrCorrupt, id, size,
			crc.Sum32(), body.Size, body.CRC)
	}
	return nil
}

// Content fetches the original bytes of a message; large ones live in a temporary file in tempDir. The caller
// releases it.
func (s *Shard) Content(ctx context.Context, id string, body Body, tempDir string) (mail.Content, error) {
	b := mail.NewBuilder(tempDir)
	if err := s.OpenBody(ctx, id, body, b); err != nil {
		b.Discard()
		return nil, err
	}
	c, err := b.Content()
	if err != nil {
		return nil, fmt.Errorf("spool: body of %s: %w", id, err)
	}
	return c, nil
}

// Head gives the first bytes of a message: at least its first chunk (1 MiB), or all that there is. Their checksum is not
// looked at.
func (s *Shard) Head(ctx context.Context, id string, body Body) ([]byte, error) {
	switch {
	case body.Chunks > 0:
		m, err := s.bodies.GetLastMsgForSubject(ctx, s.names.chunk(id, 0))
		if err != nil {
			return nil, fmt.Errorf("spool: body of %s: %w", id, err)
		}
		return m.Data, nil
	case body.Inline != nil:
		return body.Inline, nil
	case body.Size > 0:
		return s.fetch(ctx, id, body)
	}
	return nil, nil
}

// fetch gives a body of up to 256 KiB from where it is now: in memory, beside the depot's value, or in the log.
func (s *Shard) fetch(ctx context.Context, id string, body Body) ([]byte, error) {
	var err error
	for range 3 { // it moves once at most while we look
		t := s.ledger.get(id)
		if t == nil {
			return nil, fmt.Errorf("%w: %s", ErrUnknownMessage, id)
		}
		s.ledger.mu.Lock()
		inline, stored, at := t.inline, t.bytesStored, t.accepted
		s.ledger.mu.Unlock()
		var data []byte
		switch {
		case inline != nil:
			return inline, nil
		case stored:
			data, err = s.fetchShelf(ctx, id)
		default:
			data, err = s.fetchLog(ctx, id, at)
		}
		if err == nil && int64(len(data)) == body.Size && crc32.Checksum(data, castagnoli) == body.CRC {
			return data, nil
		}
		if err == nil {
			err = fmt.Errorf("%w: %s", ErrCorrupt, id)
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
	}
	return nil, err
}

func (s *Shard) fetchShelf(ctx context.Context, id string) ([]byte, error) {
	m, err := s.depots.GetLastMsgForSubject(ctx, s.names.bytes(id))
	if err != nil {
		return nil, fmt.Errorf("spool: bytes of %s: %w", id, err)
	}
	return m.Data, nil
}

func (s *Shard) fetchLog(ctx context.Context, id string, seq uint64) ([]byte, error) {
	r, err := s.readRecord(ctx, seq)
	if err != nil {
		return nil, err
	}
	for _, e := range r.Entries {
		if a := e.GetAccepted(); a != nil && a.Id == id {
			return a.Inline, nil
		}
	}
	return nil, fmt.Errorf("%w: record %d does not hold %s", ErrCorrupt, seq, id)
}
