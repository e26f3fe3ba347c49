package spool

import (
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
)

// Accepted is a message for which a 250 may be sent once this entry is durable.
type Accepted struct {
	ID       string
	Received time.Time
	Envelope mail.Envelope
	Starts   []Start
	// Reports is, for a DSN of our own, the id of the message it reports on; else empty.
	Reports string
	Body    Body
}

// Start is the recipients of a message that one chain takes, with the hops that were run inline.
type Start struct {
	Chain      string
	Recipients []mail.RecipientID
	Done       []chain.Report
}

// Body is the message's bytes: Inline up to 256 KiB, else chunks in the BODY stream under the message's id.
type Body struct {
	Inline []byte
	Size   int64
	// Chunks is the number of chunks; 0 for an inline body.
	Chunks int
	// CRC is the CRC-32C of the whole body.
	CRC uint32
}

// Settled says what became of some recipients of a message: each has ended, or waits. A later Settled of the same
// recipient replaces a wait; nothing replaces an end.
type Settled struct {
	ID    string
	Ends  []End
	Waits []Wait
}

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
}

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

// Wait is a group of recipients of one message that wait for the same thing.
type Wait struct {
	Recipients []mail.RecipientID
	Chain      string
	Room       Room
	Attempts   int
	// Since is when the group first waited; the schedule's five days run from the message's reception.
	Since time.Time
	// Next is when the retry is due; for Park, when it is probed at the latest.
	Next time.Time
	Last chain.Fate // its Recipient is not used
	Done []chain.Report
	// Open: a Relay for these recipients has had no fate for 15 s and goes on; not woken while it does.
	Open bool
	// Released are instances whose quarantine a person has overruled for this group.
	Released []string
}
