package chain

import (
	"log/slog"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// FateKind is what became of a recipient.
type FateKind string

// The kinds of fates.
const (
	Delivered   FateKind = "delivered"
	Discarded   FateKind = "discarded"
	Rejected    FateKind = "rejected"
	Deferred    FateKind = "deferred"
	Quarantined FateKind = "quarantined"
	// Refused: nothing was handed on; it may be tried again at once.
	Refused FateKind = "refused"
	// Unknown: the connection broke after the message was handed on.
	Unknown FateKind = "unknown"
)

// Concern is what a fate is about.
type Concern string

// The concerns of a fate.
const (
	AboutRecipient   Concern = "recipient"
	AboutDestination Concern = "destination" // the next host, for every message to it
	AboutRoute       Concern = "route"
	AboutHop         Concern = "hop"
)

// Fate is what became of one recipient in one Relay.
type Fate struct {
	Recipient mail.RecipientID
	Kind      FateKind
	Concern   Concern
	// About names the destination, route or hop.
	About string
	// Reply of the next host or the stage; nil if there was none.
	Reply *mail.Reply
	// After: not before this has passed; zero leaves it to the schedule.
	After time.Duration
	// Host gave the reply.
	Host string
	// Reason: for Discarded the rule, for Quarantined the reason, else the private cause.
	Reason string
	// ByError: Quarantined by the chain's on_error, not by a verdict.
	ByError bool
}

// Outcome is what running a hop came to.
type Outcome string

// The outcomes of a hop.
const (
	ByVerdict Outcome = "verdict"
	Skipped   Outcome = "skipped"
	Failed    Outcome = "failed"
)

// MaxReportedEdits is the size in bytes of the edits that travel in a Report; larger ones are left out.
const MaxReportedEdits = 64 << 10

// Report tells that a hop was run for some recipients. Reports of Continue, kept with waiting mail, are the "hops
// done": on waking their edits are applied to the original bytes again, and the message goes on after them.
type Report struct {
	Instance   string
	Hash       string
	Recipients []mail.RecipientID
	Outcome    Outcome
	Verdict    stage.Kind
	Took       time.Duration
	Edits      mail.Edits
	// EditsOmitted: there were edits, too large to travel.
	EditsOmitted bool
	Notes        []slog.Attr
	Reason       string
	// Diff is what the splices did to the bytes that the stage received, for the trail. Who keeps a Report with waiting
	// mail drops it.
	Diff mail.Diff
	// Shadow: the hop ran in shadow, and what it said has no effect.
	Shadow bool
}
