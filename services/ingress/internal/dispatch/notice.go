package dispatch

import (
	"context"
	"errors"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// errNoChain says that mail of our own cannot be sent.
var errNoChain = errors.New("no chain takes mail of our own to that address")

// Notify makes a message of our own durable and lets it run: from the null reverse-path, matched as if the relay rule `self`
// had let it in. write gives its bytes, at most spool.InlineLimit.
func (d *Dispatcher) Notify(ctx context.Context, to mail.Address, write func(id string, at time.Time) []byte) error {
	now := d.o.Now()
	id := mail.NewID(now)
	a, content := d.own(id, now, to, write(id, now))
	if a == nil {
		return errNoChain
	}
	defer content.Release()
	return d.Accept(ctx, a, content, nil, nil)
}

// own is a message of ours to one recipient; nil if no chain takes it.
func (d *Dispatcher) own(id string, now time.Time, to mail.Address, raw []byte) (*spool.Accepted, mail.Content) {
	view := d.o.Policy.View()
	a := &spool.Accepted{ID: id, Received: now, Body: spool.InlineBody(raw),
		Envelope: mail.Envelope{Recipients: []mail.Recipient{{ID: "1", Address: to, Notify: "NEVER"}},
			SMTPUTF8: !to.IsASCII(), EightBitMIME: !to.IsASCII(), Origin: mail.Origin{Relay: policy.Self}}}
	a.Envelope.Origin.Direction = view.Direction(a.Envelope.Origin, to)
	c, ok := view.Match(&a.Envelope, a.Envelope.Recipients[0])
	if !ok {
		return nil, nil
	}
	a.Starts = []spool.Start{{Chain: c.Name, Recipients: []mail.RecipientID{"1"}}}
	content := mail.FromBytes(raw)
	a.About = spool.AboutOf(content.Header(), id)
	return a, content
}
