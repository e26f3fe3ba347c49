package spool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	spoolv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/spool/v1"
)

// trailAsk is how long JetStream may take to say that there is a trail.
const trailAsk = 5 * time.Second

// Sketch is an event of the trail that has not been read yet, but for what says whether it is worth it.
type Sketch struct {
	ID []byte
	// Accepted, Hops, Ends, Waits: the event has some.
	Accepted, Hops, Ends, Waits bool

	data []byte
}

// Event reads the whole event.
func (s *Sketch) Event() (*Event, error) {
	p := &spoolv1.TrailEvent{}
	if err := proto.Unmarshal(s.data, p); err != nil {
		return nil, fmt.Errorf("spool: trail: event of %q: %w", s.ID, err)
	}
	return decodeEvent(p)
}

// ScanTrail looks through the trail of all instances from what was written at since (zero: from its beginning) up to
// its present end, in the order in which it was written. each is told when an event was written; it says whether to go
// on, and may use the Sketch during the call alone. Events that were written again after a crash come twice (see Once).
// A trail that does not exist is empty. It reads everything in between: about 3 KiB for each message accepted then.
func ScanTrail(ctx context.Context, conn *nats.Conn, since time.Time, each func(written time.Time, s *Sketch) (more bool, err error)) error {
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("spool: JetStream: %w", err)
	}
	if !conn.IsConnected() {
		return fmt.Errorf("spool: trail: %w", ErrDown)
	}
	step, cancel := context.WithTimeout(ctx, trailAsk)
	stream, err := js.Stream(step, trailStream)
	cancel()
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("spool: trail: %w", err)
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 || !since.IsZero() && state.LastTime.Before(since) {
		return nil
	}
	cfg := jetstream.OrderedConsumerConfig{}
	if !since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	err = readWith(ctx, stream, cfg, state.LastSeq, func(m jetstream.Msg, _ uint64) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		return sketches(m.Data(), func(s *Sketch) error {
			more, err := each(meta.Timestamp, s)
			if err == nil && !more {
				err = errEnough
			}
			return err
		})
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

var errEnough = errors.New("spool: enough")

// sketches takes a record of the trail apart without reading its events: most of them nobody asked for.
func sketches(record []byte, each func(*Sketch) error) error {
	version := uint64(0)
	for b := record; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("record of the trail: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case num == 1 && typ == protowire.VarintType:
			if version, n = protowire.ConsumeVarint(b); version != format {
				return fmt.Errorf("record of format %d in the trail; this release reads %d", version, format)
			}
		case num == 2 && typ == protowire.BytesType:
			var data []byte
			if data, n = protowire.ConsumeBytes(b); n < 0 {
				break
			}
			s, err := sketch(data)
			if err != nil {
				return err
			}
			if err := each(s); err != nil {
				return err
			}
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return fmt.Errorf("record of the trail: %w", protowire.ParseError(n))
		}
		b = b[n:]
	}
	return nil
}

// sketch looks at the fields of a TrailEvent.
func sketch(data []byte) (*Sketch, error) {
	s := &Sketch{data: data}
	for b := data; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, fmt.Errorf("event of the trail: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch num {
		case 1:
			if typ == protowire.BytesType {
				s.ID, n = protowire.ConsumeBytes(b)
			} else {
				n = protowire.ConsumeFieldValue(num, typ, b)
			}
		default:
			s.Hops, s.Ends, s.Waits, s.Accepted = s.Hops || num == 6, s.Ends || num == 8, s.Waits || num == 9, s.Accepted || num == 12
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return nil, fmt.Errorf("event of the trail: %w", protowire.ParseError(n))
		}
		b = b[n:]
	}
	return s, nil
}

// Once tells events that were written again from those that were not. What was settled has the same sequence of the
// same log when it is written again after a crash; other events are the same if they happened at the same moment: those
// of a record whose acknowledgement was lost for long. The zero value has seen nothing.
type Once struct {
	seen map[onceKey]bool
}

type onceKey struct {
	id, instance, chain, text string
	seq                       uint64
	at                        int64
	hops                      int
	accepted                  bool
}

// First says that e has not been seen before.
func (o *Once) First(e *Event) bool {
	k := onceKey{id: e.ID, instance: e.Instance, seq: e.Seq}
	if e.Seq == 0 {
		k.chain, k.text, k.at, k.hops, k.accepted = e.Chain, e.Text, e.At.UnixNano(), len(e.Hops), e.Accepted != nil
	}
	if o.seen[k] {
		return false
	}
	if o.seen == nil {
		o.seen = map[onceKey]bool{}
	}
	o.seen[k] = true
	return true
}
