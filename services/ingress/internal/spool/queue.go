package spool

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	spoolv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/spool/v1"
)

// What is packed into one record, in bytes (measured: packed small entries give seven times the rate of single
// ones, packed large ones half of it).
const (
	packBelow  = 32 << 10
	packTarget = 512 << 10
	// windowBytes bounds what is in flight; the server's own queue takes 128 MB for all.
	windowBytes = 8 << 20
	window      = 16
	// unitLimit leaves half of the server's max_payload.
	unitLimit = 2 * EntryLimit
)

// unit is entries that become durable together or not at all: one Accept, or one Settle with its reports.
type unit struct {
	entries []entry
	data    []byte // the entries as they stand in a record
	// durable is closed when the unit is durable and the ledger knows it.
	durable chan struct{}
	taken   bool
}

// entry is one entry of the log; exactly one field is set.
type entry struct {
	accepted *Accepted
	settled  *Settled
	void     string
	takeover *spoolv1.Takeover
}

func (e *entry) encode() *spoolv1.Entry {
	switch {
	case e.accepted != nil:
		return encodeAccepted(e.accepted)
	case e.settled != nil:
		return encodeSettled(e.settled)
	case e.void != "":
		return &spoolv1.Entry{Kind: &spoolv1.Entry_Void{Void: &spoolv1.Void{Id: e.void}}}
	default:
		return &spoolv1.Entry{Kind: &spoolv1.Entry_Takeover{Takeover: e.takeover}}
	}
}

func newUnit(entries ...entry) (*unit, error) {
	u := &unit{entries: entries, durable: make(chan struct{})}
	for i := range entries {
		e := entries[i].encode()
		if s := e.GetSettled(); s != nil {
			if err := shrink(e, s.Reports, EntryLimit); err != nil {
				return nil, err
			}
		}
		n := proto.Size(e)
		u.data = protowire.AppendTag(u.data, 2, protowire.BytesType)
		u.data = protowire.AppendVarint(u.data, uint64(n))
		var err error
		if u.data, err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(u.data, e); err != nil {
			return nil, fmt.Errorf("spool: encoding an entry: %w", err)
		}
	}
	if len(u.data) > unitLimit {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(u.data), unitLimit)
	}
	return u, nil
}

// queue packs the units that wait together into one record: group commit. While one record is being made durable
// the next fills.
type queue struct {
	subject string
	// stored is told of every record when it is durable, before the waiters are.
	stored func(seq uint64, entries []entry)
	// appended is told how long a record took; may be nil.
	appended func(took time.Duration, entries int)

	mu     sync.Mutex
	units  []*unit
	bytes  int
	closed bool
	flying int // records taken and not yet durable
	ids    recordIDs
	wake   chan struct{}
}

func newQueue(subject, process string, stored func(uint64, []entry)) *queue {
	return &queue{subject: subject, ids: recordIDs{prefix: process + "-"}, stored: stored, wake: make(chan struct{}, 1)}
}

// put queues u; false after close. A void is queued even then: it belongs to an append that is still on its way.
func (q *queue) put(u *unit) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed && (len(u.entries) != 1 || u.entries[0].void == "") {
		return false
	}
	q.units = append(q.units, u)
	q.bytes += len(u.data)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// withdraw takes u out of the queue; false when it may already be on its way.
func (q *queue) withdraw(u *unit) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if u.taken {
		return false
	}
	for i, o := range q.units {
		if o == u {
			q.units = append(q.units[:i], q.units[i+1:]...)
			q.bytes -= len(u.data)
			return true
		}
	}
	return false
}

// close lets nothing more in.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// dry says that everything queued is durable.
func (q *queue) dry() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.units) == 0 && q.flying == 0
}

func (q *queue) ready() <-chan struct{} { return q.wake }

// take packs a record. With records in flight it waits until the next is worth a sync of its own.
func (q *queue) take(_ context.Context, inFlight, bytes int) *record {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.units) == 0 {
		return nil
	}
	if inFlight > 0 && (inFlight >= window || bytes >= windowBytes || q.bytes < packTarget && len(q.units[0].data) < packBelow) {
		return nil
	}
	n, size := 1, len(q.units[0].data)
	if size < packBelow {
		for n < len(q.units) && len(q.units[n].data) < packBelow && size+len(q.units[n].data) <= packTarget {
			size += len(q.units[n].data)
			n++
		}
	}
	units := make([]*unit, n)
	copy(units, q.units)
	clear(q.units[:n])
	q.units = q.units[n:]
	q.bytes -= size
	data := make([]byte, 0, size+8)
	data = protowire.AppendTag(data, 1, protowire.VarintType)
	data = protowire.AppendVarint(data, format)
	var entries []entry
	for _, u := range units {
		u.taken = true
		data = append(data, u.data...)
		u.data = nil
		entries = append(entries, u.entries...)
	}
	q.flying++
	began := time.Now()
	return &record{
		subject: q.subject, id: q.ids.next(), data: data,
		done: func(seq uint64) {
			q.stored(seq, entries)
			if q.appended != nil {
				q.appended(time.Since(began), len(entries))
			}
			q.mu.Lock()
			q.flying--
			q.mu.Unlock()
			for _, u := range units {
				close(u.durable)
			}
		},
	}
}
