package egress

import (
	"context"
	"errors"
	"log/slog"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/maildir"
)

// folder delivers into a maildir of this machine.
type folder struct {
	name string
	path string
}

func newFolder(c *config.Config, name string, conf config.Maildir) (*folder, error) {
	if conf.Path == "" {
		return nil, errors.New("a maildir needs a path")
	}
	base := c.Dir
	if base == "" {
		base = c.DataDir
	}
	return &folder{name: name, path: within(base, conf.Path)}, nil
}

func (f *folder) close() {}

// deliver writes a file for each recipient. Moving them into new is what the final dot is elsewhere: it needs leave.
func (f *folder) deliver(ctx context.Context, d *delivery, to []mail.Recipient) {
	dir, err := maildir.Open(f.path)
	if err != nil {
		f.failed(d, to, err)
		return
	}
	if err := dir.Sweep(d.now()); err != nil {
		d.logger.Warn("sweeping the maildir", slog.String("route", f.name), slog.String("error", err.Error()))
	}
	var ready []mail.Recipient
	var ids []mail.RecipientID
	var drafts []*maildir.Draft
	defer func() {
		for _, draft := range drafts {
			draft.Discard()
		}
	}()
	for _, r := range to {
		if ctx.Err() != nil {
			break
		}
		draft, err := dir.Prepare(d.parcel.ID, d.parcel.Envelope.ReversePath, r, d.parcel.Content)
		if err != nil {
			f.failed(d, []mail.Recipient{r}, err)
			continue
		}
		ready, ids, drafts = append(ready, r), append(ids, r.ID), append(drafts, draft)
	}
	if len(ids) > 0 {
		_, err = d.leaveFor(ctx, nil, ids)
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		for _, id := range d.left() {
			d.settle(id, "", "", abandoned(err))
		}
		return
	}
	for i, r := range ready {
		if err := drafts[i].Commit(); err != nil {
			f.failed(d, []mail.Recipient{r}, err)
			continue
		}
		d.settle(r.ID, "", "", chain.Fate{Kind: chain.Delivered, Concern: chain.AboutRecipient, Reply: &mail.Reply{Code: 250, Enhanced: "2.0.0", Text: "Stored in the maildir"}})
	}
}

// failed: the disk is ours, so this is never the message's fault.
func (f *folder) failed(d *delivery, to []mail.Recipient, err error) {
	for _, r := range to {
		d.settle(r.ID, "", "", chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRoute, About: f.name, Reason: err.Error()})
	}
}
