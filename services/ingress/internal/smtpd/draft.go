package smtpd

import (
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/guard"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
)

// Draft is a message that nobody sends: who would send it, and to whom.
type Draft struct {
	Policy   *policy.Policy
	View     *policy.View // of Policy
	Listener string
	Client   netip.Addr
	Helo     string
	User     string
	Secured  bool // by TLS
	Grant    policy.Grant
	From     mail.Address
	To       []guard.Path
	// EightBit: BODY=8BITMIME.
	EightBit bool
	// Chain takes every recipient; nil: the chains that match.
	Chain *config.Chain
}

// Refusal is a recipient that would be refused.
type Refusal struct {
	To    guard.Path
	Reply *mail.Reply
}

// Drafted is a transaction that would be accepted.
type Drafted struct {
	Envelope mail.Envelope
	// Starts are the recipients by the chain that takes each.
	Starts map[string][]mail.RecipientID

	tx    *transaction
	stamp stamp
}

// MessageSize is the largest message that is taken, in octets.
func MessageSize(cfg *config.Config) int64 { return messageSize(cfg) }

// MaxRecipients is the number of recipients that a transaction takes.
func MaxRecipients(cfg *config.Config) int { return maxRecipients(cfg) }

// Plan is what a session would make of the draft: usually one transaction, more where recipients need one of their
// own. content is the message without our Received field; a reply refuses it. Recipients that would be refused are
// left out.
func (d *Draft) Plan(content io.Reader) ([]Drafted, []Refusal, error) {
	head, err := d.scan(content)
	if err != nil {
		return nil, nil, err
	}
	var refused []Refusal
	var out []Drafted
	for left := d.To; len(left) > 0; {
		tx := d.begin()
		var later []guard.Path
		for _, to := range left {
			_, bad := tx.recipient(guard.Rcpt{To: to})
			switch {
			case bad == nil:
			case bad == errOwnTransaction || bad == errTooMany:
				later = append(later, to)
			default:
				refused = append(refused, Refusal{to, bad})
			}
		}
		left = later
		if len(tx.env.Recipients) == 0 {
			break
		}
		if len(d.Grant.Pending) > 0 {
			if _, bad := tx.decideSender(head); bad != nil {
				return nil, nil, bad
			}
		}
		tx.env.Origin.Direction = tx.direction()
		out = append(out, Drafted{Envelope: tx.env, Starts: tx.starts, tx: tx,
			stamp: stamp{helo: d.Helo, client: d.Client, protocol: protocol(true, d.Secured, d.User != "")}})
	}
	return out, refused, nil
}

// scan looks at the header as a session does.
func (d *Draft) scan(content io.Reader) (*headerScan, error) {
	head := newHeaderScan(d.Policy)
	buf := make([]byte, copyBuffer)
	for !head.done {
		n, err := content.Read(buf)
		head.write(buf[:n])
		if err == io.EOF {
			head.end()
		} else if err != nil {
			return nil, fmt.Errorf("read the header: %w", err)
		}
		if bad := head.refused(); bad != nil {
			return nil, bad
		}
	}
	return head, nil
}

func (d *Draft) begin() *transaction {
	return &transaction{
		cfg:    d.View.Config(),
		view:   d.View,
		grant:  d.Grant,
		forced: d.Chain,
		env: mail.Envelope{
			ReversePath:  d.From,
			EightBitMIME: d.EightBit,
			Origin: mail.Origin{Listener: d.Listener, Relay: d.Grant.Relay, User: d.User, Client: d.Client.String(),
				Helo: d.Helo, TLS: d.Secured},
		},
		starts: map[string][]mail.RecipientID{},
	}
}

// Received is the field that would stand above the message. TLS is not told of: its version is the client's choice.
func (d *Drafted) Received(id, token string, at time.Time) string {
	s := d.stamp
	s.id, s.token, s.at = id, token, at
	return d.tx.receivedField(s)
}
