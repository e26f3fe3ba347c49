package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (a *app) queueRetry() *cobra.Command {
	var f filterFlags
	var from string
	c := &cobra.Command{
		Use:   "retry [ID…]",
		Short: "Try messages in retry and park again, now",
		Long: `Try messages in the rooms retry and park again, now.

They go on where they are in their chain. With --from they are run again from a stage on: what it and those after it did
before is dropped. That is what to do after its configuration was mended.`,
		Example: `  stagecoach queue retry 1k0tx62h9vmw5e4089twre9ng9
  stagecoach queue retry --recipient '*@example.net'
  stagecoach queue retry --all --from footer-de`,
		ValidArgsFunction: completeArgs(0, a.waitingIDs("retry", "park")),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.chosen(cmd, args, []string{"retry", "park"})
			if err != nil {
				return err
			}
			return a.change(cmd, args, "tried again", func(ctx context.Context, client adminv1.QueueServiceClient, page string) (changed, error) {
				return client.RetryMessages(ctx, &adminv1.RetryMessagesRequest{Filter: filter, FromStage: from, PageToken: page})
			})
		},
	}
	f.register(c, a, true)
	f.allFlag(c, "every message in retry and park")
	c.Flags().StringVar(&from, "from", "", "run them again from the stage of this `name` on")
	complete(c, "from", a.stageNames)
	return c
}

func (a *app) queueHold() *cobra.Command {
	var f filterFlags
	var why string
	c := &cobra.Command{
		Use:   "hold [ID…]",
		Short: "Keep messages that wait by themselves until a person releases them",
		Long: `Keep messages that wait by themselves (in retry, park or demand) until a person releases them: they move to the room
quarantine.`,
		Example: `  stagecoach queue hold 1k0tx62h9vmw5e4089twre9ng9 --reason "asked the sender"
  stagecoach queue hold --sender newsletter@example.com`,
		ValidArgsFunction: completeArgs(0, a.waitingIDs(roomsByThemselves...)),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.chosen(cmd, args, roomsByThemselves)
			if err != nil {
				return err
			}
			return a.change(cmd, args, "held", func(ctx context.Context, client adminv1.QueueServiceClient, page string) (changed, error) {
				return client.HoldMessages(ctx, &adminv1.HoldMessagesRequest{Filter: filter, Reason: why, PageToken: page})
			})
		},
	}
	f.register(c, a, true)
	f.allFlag(c, "every message in retry, park and demand")
	c.Flags().StringVar(&why, "reason", "", "`why`: for the record")
	return c
}

func (a *app) queueRelease() *cobra.Command {
	var f filterFlags
	c := &cobra.Command{
		Use:   "release [ID…]",
		Short: "Let messages in quarantine and dead go on",
		Long: `Let messages in quarantine and dead go on.

What a stage held by its verdict goes on after it, and that stage does not hold this message again. What was held since a
stage could not judge it, and what is dead, is tried again at the stage where it is.`,
		Example: `  stagecoach queue release 1k0tx62h9vmw5e4089twre9ng9
  stagecoach queue release --room dead --chain inbound`,
		ValidArgsFunction: completeArgs(0, a.waitingIDs(roomsOfPersons...)),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.chosen(cmd, args, roomsOfPersons)
			if err != nil {
				return err
			}
			return a.release(cmd, args, filter)
		},
	}
	f.register(c, a, true)
	f.allFlag(c, "every message in quarantine and dead")
	return c
}

func (a *app) release(cmd *cobra.Command, ids []string, filter *adminv1.Filter) error {
	return a.change(cmd, ids, "released", func(ctx context.Context, client adminv1.QueueServiceClient, page string) (changed, error) {
		return client.ReleaseMessages(ctx, &adminv1.ReleaseMessagesRequest{Filter: filter, PageToken: page})
	})
}

func (a *app) queueBounce() *cobra.Command {
	var f filterFlags
	var why string
	c := &cobra.Command{
		Use:   "bounce [ID…]",
		Short: "Give messages up, and tell their senders",
		Long: `Give messages up, in any room, and tell their senders: with the reason, and the last answer of the next server.

Mail from strangers is not bounced, since nobody knows whether it was they who sent it, and mail with the null sender has
nobody to tell: delete those.`,
		Example: `  stagecoach queue bounce 1k0tx62h9vmw5e4089twre9ng9 --reason "this address is gone"
  stagecoach queue bounce --room retry --recipient '*@closed.example'`,
		ValidArgsFunction: completeArgs(0, a.waitingIDs()),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.chosen(cmd, args, allRooms())
			if err != nil {
				return err
			}
			return a.change(cmd, args, "bounced", func(ctx context.Context, client adminv1.QueueServiceClient, page string) (changed, error) {
				return client.BounceMessages(ctx, &adminv1.BounceMessagesRequest{Filter: filter, Reason: why, PageToken: page})
			})
		},
	}
	f.register(c, a, true)
	f.allFlag(c, "every message that waits, in all rooms")
	c.Flags().StringVar(&why, "reason", "", "`why`: the sender reads it")
	return c
}

func (a *app) queueDelete() *cobra.Command {
	var f filterFlags
	var d deletion
	c := &cobra.Command{
		Use:   "delete [ID…]",
		Short: "Delete messages: nobody is told",
		Long: `Delete messages, in any room. Nobody is told, neither sender nor recipient; the trail has who did it.

On a terminal it asks before, and deletes what it has shown the number of; elsewhere it has to be told --yes.`,
		Example: `  stagecoach queue delete 1k0tx62h9vmw5e4089twre9ng9
  stagecoach queue delete --room retry --sender '*@spam.example' --reason "spam run" --yes`,
		ValidArgsFunction: completeArgs(0, a.waitingIDs()),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.chosen(cmd, args, allRooms())
			if err != nil {
				return err
			}
			return a.delete(cmd, args, filter, d)
		},
	}
	f.register(c, a, true)
	f.allFlag(c, "every message that waits, in all rooms")
	d.register(c)
	return c
}

// deletion is how a command deletes.
type deletion struct {
	yes    bool
	reason string
}

func (d *deletion) register(c *cobra.Command) {
	c.Flags().BoolVar(&d.yes, "yes", false, "do not ask")
	c.Flags().StringVar(&d.reason, "reason", "", "`why`: for the record")
}

// delete asks the person, if there is one, and deletes then what the answer was about and no more.
func (a *app) delete(cmd *cobra.Command, ids []string, filter *adminv1.Filter, d deletion) error {
	if !d.yes && !a.isTerminal(cmd.InOrStdin()) {
		return usagef("deleting needs --yes where nobody can be asked")
	}
	return a.change(cmd, ids, "deleted", func(ctx context.Context, client adminv1.QueueServiceClient, page string) (changed, error) {
		if !d.yes && page == "" {
			list, _, err := waiting(ctx, client, filter, 0)
			if err != nil {
				return nil, err
			}
			if len(list) == 0 {
				return &adminv1.DeleteMessagesResponse{}, nil
			}
			if err := askDelete(cmd, filter, list); err != nil {
				return nil, err
			}
			filter = proto.Clone(filter).(*adminv1.Filter)
			filter.Ids = nil
			for _, m := range list {
				filter.Ids = append(filter.Ids, m.GetId())
			}
		}
		return client.DeleteMessages(ctx, &adminv1.DeleteMessagesRequest{Filter: filter, Reason: d.reason, PageToken: page})
	})
}

// askedMost is how many messages are named in a question.
const askedMost = 10

func askDelete(cmd *cobra.Command, filter *adminv1.Filter, list []*adminv1.WaitingMessage) error {
	recipients := 0
	for i, m := range list {
		to := addressesOf(m.GetEnvelope())
		var ids []string
		for _, g := range m.GetGroups() {
			if shown(filter, g) {
				ids = append(ids, g.GetRecipients()...)
			}
		}
		recipients += len(ids)
		if i < askedMost {
			cmd.PrintErrln("  " + clean(fmt.Sprintf("%s  from %s to %s", m.GetId(), path(m.GetEnvelope().GetReversePath()), to.list(ids, 3))))
		}
	}
	if len(list) > askedMost {
		cmd.PrintErrln(fmt.Sprintf("  … and %s more", count(len(list)-askedMost, "message")))
	}
	cmd.PrintErr(fmt.Sprintf("Delete %s (%s)? Nobody is told. [y/N] ", count(len(list), "message"), count(recipients, "recipient")))
	return confirmed(cmd.InOrStdin())
}

func confirmed(r io.Reader) error {
	answer, err := bufio.NewReader(io.LimitReader(r, 1024)).ReadString('\n')
	if err != nil && answer == "" {
		return partlyf("not confirmed: nothing was done")
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return partlyf("not confirmed: nothing was done")
}

// changed is what all changes answer.
type changed interface {
	proto.Message
	GetChanges() []*adminv1.Change
	GetNextPageToken() string
}

// change makes a change and tells for each message what became of it, for those too that were named and not found.
func (a *app) change(cmd *cobra.Command, ids []string, done string, do func(ctx context.Context, client adminv1.QueueServiceClient, page string) (changed, error)) error {
	return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
		client := adminv1.NewQueueServiceClient(conn)
		resp, err := do(ctx, client, "")
		if err != nil {
			return err
		}
		changes := resp.GetChanges()
		for resp.GetNextPageToken() != "" {
			if resp, err = do(ctx, client, resp.GetNextPageToken()); err != nil {
				// What was changed before is told all the same.
				told := tellChanges(cmd, o, changes, done)
				return &exitError{ExitPartly, errors.Join(told, fmt.Errorf("the rest was not %s: %w", done, words(err)))}
			}
			changes = append(changes, resp.GetChanges()...)
		}
		for _, id := range ids {
			if !slices.ContainsFunc(changes, func(c *adminv1.Change) bool { return c.GetId() == id }) {
				changes = append(changes, &adminv1.Change{Id: id, Reason: "it does not wait here (any more): `stagecoach trace " + id + "` tells its way"})
			}
		}
		return tellChanges(cmd, o, changes, done)
	})
}

func tellChanges(cmd *cobra.Command, o *output, changes []*adminv1.Change, done string) error {
	failed := 0
	t := &table{flexible: []int{3}}
	for _, c := range changes {
		if c.GetRecipients() == 0 {
			failed++
			t.add(text("%s", c.GetId()), in(yellow, "unchanged"), text("0"), text("%s", c.GetReason()))
			continue
		}
		t.add(text("%s", c.GetId()), in(green, "%s", done), text("%s", o.recipients(c.GetRecipients())), text("%s", c.GetReason()))
	}
	if o.asJSON {
		// All changes answer the same fields.
		if err := o.message(&adminv1.RetryMessagesResponse{Changes: changes}); err != nil {
			return err
		}
	} else {
		o.table(0, t)
	}
	switch {
	case len(changes) == 0:
		note(cmd, o, "no message matches: nothing was done")
	case failed == len(changes):
		return &exitError{ExitFailed, fmt.Errorf("nothing was %s", done)}
	case failed > 0:
		return partlyf("%d of %s were not %s", failed, count(len(changes), "message"), done)
	}
	return nil
}

func (o *output) recipients(n uint32) string {
	if !o.terminal {
		return fmt.Sprint(n)
	}
	return count(int(n), "recipient")
}
