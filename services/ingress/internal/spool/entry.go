package spool

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

// InlineLimit is the size in bytes up to which a body stands in its accepted entry; above it, in BODY chunks.
const InlineLimit = 256 << 10

// EntryLimit is the size in bytes that one entry, and one call of Settle with its reports, may have.
const EntryLimit = 2 << 20

// Accepted is a message for which a 250 may be sent once this entry is durable.
type Accepted struct {
	// ID is unique in the installation: letters, digits, '-' and '_', at most 128.
	ID       string
	Received time.Time
	Envelope mail.Envelope
	// Starts name every recipient of the envelope exactly once.
	Starts []Start
	// Reports is, for a DSN of our own, the id of the message it reports on; else empty.
	Reports string
	Body    Body
	// About is for the trail alone; the log does not keep it.
	About
}

// What the depot keeps is named here too: it is the same thing in an entry and in the view.
type (
	// Start is the recipients of a message that one chain takes, with the hops that were run inline.
	Start = depot.Start
	// Body is the message's bytes, or where they are.
	Body = depot.Body
	// EndKind is how a recipient ended.
	EndKind = depot.EndKind
	// End is the end of some recipients.
	End = depot.End
	// Room is where a message waits, named by what wakes it.
	Room = depot.Room
	// Wait is a group of recipients of one message that wait for the same thing.
	Wait = depot.Wait
)

// The ends of a recipient.
const (
	EndDelivered = depot.EndDelivered
	EndReported  = depot.EndReported
	EndDiscarded = depot.EndDiscarded
	EndDeleted   = depot.EndDeleted
)

// The rooms of the depot.
const (
	Retry      = depot.Retry
	Park       = depot.Park
	Demand     = depot.Demand
	Quarantine = depot.Quarantine
	Dead       = depot.Dead
)

// Settled says what became of some recipients of a message: each has ended, or waits. A later Settled of the same
// recipient replaces a wait; nothing replaces an end.
type Settled struct {
	ID    string
	Ends  []End
	Waits []Wait
	// Revision of the configuration the message ran under, for the trail.
	Revision string
}

func (a *Accepted) validate() error {
	if err := checkID(a.ID); err != nil {
		return err
	}
	if len(a.Envelope.Recipients) == 0 {
		return fmt.Errorf("spool: accepted %s: no recipients", a.ID)
	}
	left := make(map[mail.RecipientID]bool, len(a.Envelope.Recipients))
	for _, r := range a.Envelope.Recipients {
		if left[r.ID] {
			return fmt.Errorf("spool: accepted %s: recipient id %q stands twice in the envelope", a.ID, r.ID)
		}
		left[r.ID] = true
	}
	for _, s := range a.Starts {
		for _, r := range s.Recipients {
			if !left[r] {
				return fmt.Errorf("spool: accepted %s: recipient %q is not in the envelope, or in two starts", a.ID, r)
			}
			delete(left, r)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("spool: accepted %s: %d recipients are in no start", a.ID, len(left))
	}
	b := &a.Body
	switch {
	case b.Chunks == 0 && int64(len(b.Inline)) != b.Size:
		return fmt.Errorf("spool: accepted %s: body of %d bytes says that it has %d", a.ID, len(b.Inline), b.Size)
	case len(b.Inline) > InlineLimit:
		return fmt.Errorf("spool: accepted %s: inline body of %d bytes is over %d", a.ID, len(b.Inline), InlineLimit)
	case b.Chunks > 0 && len(b.Inline) > 0:
		return fmt.Errorf("spool: accepted %s: body is both inline and in chunks", a.ID)
	}
	return nil
}

func (s *Settled) validate() error {
	seen := make(map[mail.RecipientID]bool)
	once := func(rs []mail.RecipientID) error {
		if len(rs) == 0 {
			return fmt.Errorf("spool: settled %s: an end or wait without recipients", s.ID)
		}
		for _, r := range rs {
			if seen[r] {
				return fmt.Errorf("spool: settled %s: recipient %q twice", s.ID, r)
			}
			seen[r] = true
		}
		return nil
	}
	if len(s.Ends)+len(s.Waits) == 0 {
		return fmt.Errorf("spool: settled %s: says nothing", s.ID)
	}
	for i := range s.Ends {
		if err := once(s.Ends[i].Recipients); err != nil {
			return err
		}
		if s.Ends[i].Kind == "" {
			return fmt.Errorf("spool: settled %s: an end without kind", s.ID)
		}
	}
	for i := range s.Waits {
		if err := once(s.Waits[i].Recipients); err != nil {
			return err
		}
		if s.Waits[i].Trimmed() {
			return fmt.Errorf("spool: settled %s: made from a trimmed wait; load the message first", s.ID)
		}
		if !s.Waits[i].Room.Valid() {
			return fmt.Errorf("spool: settled %s: no such room: %q", s.ID, s.Waits[i].Room)
		}
	}
	return nil
}

// checkID keeps ids fit for a token of a subject.
func checkID(id string) error {
	if err := token(id); err != nil {
		return fmt.Errorf("spool: message id %q: %w", id, err)
	}
	return nil
}

func token(s string) error {
	if s == "" || len(s) > 128 {
		return errors.New("must have 1 to 128 characters")
	}
	if strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
	}) {
		return errors.New("only letters, digits, '-' and '_'")
	}
	return nil
}
