package depot

import (
	"slices"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
)

// Room is where a message waits, named by what wakes it.
type Room string

// The rooms of the depot.
const (
	Retry      Room = "retry"      // a time
	Park       Room = "park"       // a hop or route comes back
	Demand     Room = "demand"     // someone asks for it: ETRN, ATRN
	Quarantine Room = "quarantine" // a person
	Dead       Room = "dead"       // a person
)

// Valid says that r is one of the rooms.
func (r Room) Valid() bool {
	switch r {
	case Retry, Park, Demand, Quarantine, Dead:
		return true
	}
	return false
}

// Start is the recipients of a message that one chain takes, with the hops that were run inline.
type Start struct {
	Chain      string
	Recipients []mail.RecipientID
	Done       []chain.Report
}

// Wait is a group of recipients of one message that wait for the same thing.
type Wait struct {
	Recipients []mail.RecipientID
	Chain      string
	Room       Room
	Attempts   int
	// Since is when the group came into its room; the schedule's five days run from the message's reception.
	Since time.Time
	// Next is when the retry is due; for Park, when it is probed at the latest (zero: never by time).
	Next time.Time
	Last chain.Fate // its Recipient is not used
	// Done are the hops that need not be run again. In a View, those of a stored message come without their edits
	// (EditsOmitted): load the message from its shard before it is run or settled by a copy of this Wait.
	Done []chain.Report
	// Open: a Relay for these recipients has had no fate for 15 s and goes on; not woken while it does.
	Open bool
	// Released are instances whose quarantine a person has overruled for this group.
	Released []string

	trimmed bool
}

// Trimmed says that Done comes without its edits: such a group must not be run or settled again before its
// message is loaded from the shard.
func (w *Wait) Trimmed() bool { return w.trimmed }

// EndKind is how a recipient ended.
type EndKind string

// The ends of a recipient.
const (
	EndDelivered EndKind = "delivered"
	EndReported  EndKind = "reported"  // a DSN went to the sender
	EndDiscarded EndKind = "discarded" // by the rule in Reason
	EndDeleted   EndKind = "deleted"   // by the person in Reason
)

// End is the end of some recipients.
type End struct {
	Recipients []mail.RecipientID
	Kind       EndKind
	Reason     string
	Fate       chain.Fate // the last fate; its Recipient is not used
	// Chain that they took, where it is known: for who counts, and not kept.
	Chain string
}

// Body is the message's bytes: Inline up to 256 KiB, else chunks in the BODY stream under the message's id. With
// neither Inline nor Chunks (a message that was read back) the shard fetches the bytes by the message's id.
type Body struct {
	Inline []byte
	Size   int64
	// Chunks is the number of chunks; 0 for an inline body.
	Chunks int
	// CRC is the CRC-32C of the whole body.
	CRC uint32
}

// Message is one message and where each of its recipients stands. Every recipient is in exactly one of Running,
// Groups and Ended. It is immutable.
type Message struct {
	ID       string
	Received time.Time
	Envelope mail.Envelope
	Reports  string
	// Body is without Inline.
	Body Body
	// Seq is the log sequence that this value reflects.
	Seq uint64
	// Running are the recipients that neither ended nor wait.
	Running []Start
	Groups  []Wait
	Ended   []mail.RecipientID
}

// Over says that every recipient has ended.
func (m *Message) Over() bool { return len(m.Running) == 0 && len(m.Groups) == 0 }

// Trimmed says that hops done of some group come without their edits; see Wait.Done.
func (m *Message) Trimmed() bool {
	return slices.ContainsFunc(m.Groups, func(w Wait) bool { return w.trimmed })
}

// Settle gives the message after some recipients have ended or wait, with the ends that took effect and the
// recipients that changed. A wait replaces a wait; nothing replaces an end; a recipient named by an end and a wait
// has ended; one that is not of the message is ignored. So settling twice by the same entry changes nothing more.
func (m *Message) Settle(seq uint64, ends []End, waits []Wait) (next *Message, took []End, changed []mail.RecipientID) {
	here := make(map[mail.RecipientID]bool)
	for _, s := range m.Running {
		for _, r := range s.Recipients {
			here[r] = true
		}
	}
	for _, w := range m.Groups {
		for _, r := range w.Recipients {
			here[r] = true
		}
	}
	take := func(rs []mail.RecipientID) []mail.RecipientID {
		var got []mail.RecipientID
		for _, r := range rs {
			if here[r] {
				delete(here, r)
				got = append(got, r)
			}
		}
		return got
	}
	n := *m
	n.Seq = max(seq, m.Seq)
	n.Ended = slices.Clone(m.Ended)
	for _, e := range ends {
		if got := take(e.Recipients); len(got) > 0 {
			e.Recipients = got
			took = append(took, e)
			changed = append(changed, got...)
			n.Ended = append(n.Ended, got...)
		}
	}
	var fresh []Wait
	for _, w := range waits {
		if got := take(w.Recipients); len(got) > 0 {
			w.Recipients = got
			fresh = append(fresh, w)
			changed = append(changed, got...)
		}
	}
	// What is still here has not been named: it stays where it was.
	stay := func(rs []mail.RecipientID) []mail.RecipientID {
		var left []mail.RecipientID
		for _, r := range rs {
			if here[r] {
				left = append(left, r)
			}
		}
		return left
	}
	n.Running, n.Groups = nil, nil
	for _, s := range m.Running {
		if s.Recipients = stay(s.Recipients); len(s.Recipients) > 0 {
			n.Running = append(n.Running, s)
		}
	}
	for _, w := range m.Groups {
		if w.Recipients = stay(w.Recipients); len(w.Recipients) > 0 {
			n.Groups = append(n.Groups, w)
		}
	}
	n.Groups = append(n.Groups, fresh...)
	return &n, took, changed
}

// End gives the message with every recipient ended.
func (m *Message) End(seq uint64) *Message {
	n := *m
	n.Seq = max(seq, m.Seq)
	n.Ended = slices.Clone(m.Ended)
	for _, s := range m.Running {
		n.Ended = append(n.Ended, s.Recipients...)
	}
	for _, w := range m.Groups {
		n.Ended = append(n.Ended, w.Recipients...)
	}
	n.Running, n.Groups = nil, nil
	return &n
}

// Trim gives the message without the edits of its hops done, for keeping many in memory. They are marked as
// omitted, so that a trimmed report that is used by mistake costs a second run of its hop, not a lost edit.
func (m *Message) Trim() *Message {
	n := *m
	n.Groups = slices.Clone(m.Groups)
	for i := range n.Groups {
		w := &n.Groups[i]
		if w.trimmed || !slices.ContainsFunc(w.Done, func(r chain.Report) bool { return !r.Edits.Empty() }) {
			continue
		}
		w.Done = slices.Clone(w.Done)
		w.trimmed = true
		for j := range w.Done {
			if r := &w.Done[j]; !r.Edits.Empty() {
				r.Edits, r.EditsOmitted = mail.Edits{}, true
			}
		}
	}
	return &n
}

// Restore gives m with the edits that Trim took away, from the stored value of the same message. A group that
// stored does not know stays trimmed.
func (m *Message) Restore(stored *Message) *Message {
	n := *m
	n.Groups = slices.Clone(m.Groups)
	for i := range n.Groups {
		w := &n.Groups[i]
		if !w.trimmed {
			continue
		}
		for _, s := range stored.Groups {
			if !s.trimmed && slices.Contains(s.Recipients, w.Recipients[0]) {
				w.Done, w.trimmed = s.Done, false
				break
			}
		}
	}
	return &n
}

// TakeOver gives the message as a new owner finds it: no Relay is open, and what waits for a time does not wake
// before notBefore, because an outcome may still be on its way.
func (m *Message) TakeOver(notBefore time.Time) *Message {
	n := *m
	n.Groups = slices.Clone(m.Groups)
	for i := range n.Groups {
		w := &n.Groups[i]
		w.Open = false
		if byTime(w) && w.Next.Before(notBefore) {
			w.Next = notBefore
		}
	}
	return &n
}
