package stage

import (
	"context"
	"log/slog"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Stage judges messages. Process may run many times at once, and more than once for the same message: with the
// same id it must have the same effect as once.
type Stage interface {
	// Process judges one message and says what to change. It must not call the next stage, change m, or keep m
	// after it returns. It honours ctx: the chain's timeout for this stage is its deadline.
	// An error means "the stage failed", never a verdict; what a failure means is the chain's decision (on_error).
	Process(ctx context.Context, m *mail.Message) (Result, error)
}

// Func makes a Stage of a function.
type Func func(ctx context.Context, m *mail.Message) (Result, error)

// Process calls f.
func (f Func) Process(ctx context.Context, m *mail.Message) (Result, error) { return f(ctx, m) }

// Result is what a stage answers. The zero value continues with the message unchanged.
type Result struct {
	// Branch is for the recipients that no fork names.
	Branch
	// Forks are for recipients that need something else. A recipient stands in one fork at most.
	Forks []Fork
	// Notes go to the trail of the message. No secrets.
	Notes []slog.Attr
}

// Branch is a verdict and, if the message continues, what changes of it.
type Branch struct {
	Verdict Verdict
	Edits   mail.Edits
}

// Fork is a Branch for some of the recipients.
type Fork struct {
	To []mail.RecipientID
	Branch
}

// Kind is the kind of a Verdict.
type Kind int

// The kinds of verdicts. The zero Kind is KindContinue in Go; on the wire an unset verdict is a failure.
const (
	KindContinue Kind = iota
	KindReject
	KindDefer
	KindQuarantine
	KindDiscard
)

var kindNames = [...]string{"continue", "reject", "defer", "quarantine", "discard"}

// String gives the name as it stands in logs and trails.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return "invalid"
	}
	return kindNames[k]
}

// Verdict is what a stage says of a message. The zero Verdict is Continue.
type Verdict struct {
	Kind Kind
	// Reply is for KindReject (5xx) and KindDefer (4xx).
	Reply *mail.Reply
	// After, for KindDefer: not before this has passed; zero leaves it to the schedule.
	After time.Duration
	// Reason, for KindQuarantine: why, for a person to read. For KindDiscard: the name of the rule.
	Reason string
}

// Continue lets the message go on.
func Continue() Verdict { return Verdict{} }

// Reject refuses the message for good; r.Code is 5xx.
func Reject(r mail.Reply) Verdict { return Verdict{Kind: KindReject, Reply: &r} }

// Defer refuses it for now; r.Code is 4xx. The message is tried again no sooner than after.
func Defer(r mail.Reply, after time.Duration) Verdict {
	return Verdict{Kind: KindDefer, Reply: &r, After: after}
}

// Quarantine holds the message for a person.
func Quarantine(reason string) Verdict { return Verdict{Kind: KindQuarantine, Reason: reason} }

// Discard ends the message silently, by a named rule.
func Discard(rule string) Verdict { return Verdict{Kind: KindDiscard, Reason: rule} }

// Traits bound what a stage may do. They are enforced on every Result: an edit outside them is a failure.
type Traits struct {
	ReadsBody bool
	// EditsHeader: changes or removes existing header fields. Prepending a field needs no trait.
	EditsHeader   bool
	EditsBody     bool
	EditsEnvelope bool
	// Seals: signs or encrypts; nothing after it may edit the body or existing fields.
	Seals bool
	// Effects: does something outside the message, so it never runs inline, in shadow or in a preview.
	Effects bool
}
