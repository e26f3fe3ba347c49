package smtpd

import (
	"context"
	"io"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Intake takes messages in. Errors that are a *mail.Reply are what the client is told; any other becomes
// 451 4.3.0, with the cause in the log. It is called by many sessions at once.
type Intake interface {
	// Admit is called at MAIL: nil, or a *mail.Reply (451: the log is down, 452: disk or limits full).
	// Origin.Direction is not yet known. Where the reverse-path is null, Origin.Relay may turn out to be another.
	Admit(ctx context.Context, origin mail.Origin) error
	// Begin reserves room for a message, before the 354. starts are the recipients by the chain that takes each; the
	// envelope is the Intake's own. size is the most octets that will be written, the Received field included: it follows
	// the client's SIZE (with an eighth and 64 KiB of tolerance), and is the limit for messages where the client gave none.
	// A nil Reception comes with an error: 452 if there is no room.
	Begin(ctx context.Context, env *mail.Envelope, starts map[string][]mail.RecipientID, size int64) (Reception, error)
}

// Reception is one message on its way in. It is used by one session; exactly one of Commit and Abort ends it, and
// neither is called while a Write runs.
type Reception interface {
	// Write takes the message as it was received (lines end with CRLF, dots of the transfer removed), our Received
	// field first. After an error Abort follows; a *mail.Reply is what the client is told.
	io.Writer
	// Commit returns the id when the message is on stable storage. ctx does not end when the client leaves: it may have
	// gone without waiting for the reply (RFC 1047). After an error the Reception is over; Abort is not called.
	Commit(ctx context.Context, head Head) (id string, err error)
	// Abort gives the message up.
	Abort()
	// ID is the id of the message, known from the beginning: it stands in the Received field, and in the 250.
	ID() string
}

// Head is what the session has seen of a message's header as it passed.
type Head struct {
	// Received is the field that was written above the message.
	Received string
	// MessageID and Subject are the values of the first such fields, unfolded, up to 16 KiB; as far as the lines before
	// them are fields.
	MessageID, Subject string
}

// Loop is a message that was refused because it goes in a circle. The postmaster is to be told, the sender is not.
type Loop struct {
	From     mail.Address
	To       []mail.Address
	Client   string
	Listener string
	// Received is the number of Received fields, Passes how many of them are ours.
	Received, Passes int
}
