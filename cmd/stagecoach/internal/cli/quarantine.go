package cli

import (
	"context"

	"github.com/spf13/cobra"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (a *app) quarantineCommand() *cobra.Command {
	var dead bool
	rooms := func() []string {
		if dead {
			return roomsOfPersons
		}
		return roomsOfPersons[:1]
	}
	c := &cobra.Command{
		Use:   "quarantine",
		Short: "Decide about the mail that is held for a person",
		Long: `Decide about the mail that is held for a person: what stages held, in the room quarantine. With --dead also what is in the
room dead: mail that cannot go on, and whose sender cannot be told.`,
		Example: `  stagecoach quarantine list --dead
  stagecoach quarantine show 1k0tx62h9vmw5e4089twre9ng9
  stagecoach quarantine release 1k0tx62h9vmw5e4089twre9ng9`,
	}
	a.connection(c)
	a.printing(c)
	c.PersistentFlags().BoolVar(&dead, "dead", false, "the room dead as well")
	show := a.queueShow()
	show.Short = "Tell everything about a held message"
	show.Example = `  stagecoach quarantine show 1k0tx62h9vmw5e4089twre9ng9
  stagecoach quarantine show 1k0tx62h9vmw5e4089twre9ng9 --raw > held.eml`
	show.ValidArgsFunction = completeArgs(1, a.waitingIDs(roomsOfPersons...))
	c.AddCommand(a.quarantineList(rooms), show, a.quarantineRelease(rooms), a.quarantineDelete(rooms))
	return c
}

func (a *app) quarantineList(rooms func() []string) *cobra.Command {
	var f filterFlags
	var limit int
	c := &cobra.Command{
		Use:   "list [ID…]",
		Short: "List the messages that are held, oldest first",
		Long:  "List the messages that are held, oldest first. In a pipe the columns are those of `stagecoach queue list`.",
		Example: `  stagecoach quarantine list
  stagecoach quarantine list --dead --recipient '*@example.com'`,
		ValidArgsFunction: completeArgs(0, a.waitingIDs(roomsOfPersons...)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				return listWaiting(ctx, cmd, conn, o, f.filter(args, rooms()), limit)
			})
		},
	}
	f.register(c, a, false)
	limitFlag(c, &limit)
	return c
}

func (a *app) quarantineRelease(rooms func() []string) *cobra.Command {
	var f filterFlags
	c := &cobra.Command{
		Use:   "release [ID…]",
		Short: "Let held messages go on",
		Long: `Let held messages go on.

What a stage held by its verdict goes on after it, and that stage does not hold this message again. What was held since a
stage could not judge it, and what is dead, is tried again at the stage where it is.`,
		Example: `  stagecoach quarantine release 1k0tx62h9vmw5e4089twre9ng9
  stagecoach quarantine release --about antivirus --sender '*@partner.example'`,
		ValidArgsFunction: completeArgs(0, a.waitingIDs(roomsOfPersons...)),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := heldOnly(cmd, &f, args, rooms())
			if err != nil {
				return err
			}
			return a.release(cmd, args, filter)
		},
	}
	f.register(c, a, false)
	f.allFlag(c, "every message that is held")
	return c
}

func (a *app) quarantineDelete(rooms func() []string) *cobra.Command {
	var f filterFlags
	var d deletion
	c := &cobra.Command{
		Use:   "delete [ID…]",
		Short: "Delete held messages: nobody is told",
		Long: `Delete held messages. Nobody is told, neither sender nor recipient; the trail has who did it.

On a terminal it asks before, and deletes what it has shown the number of; elsewhere it has to be told --yes.`,
		Example: `  stagecoach quarantine delete 1k0tx62h9vmw5e4089twre9ng9
  stagecoach quarantine delete --dead --all --yes`,
		ValidArgsFunction: completeArgs(0, a.waitingIDs(roomsOfPersons...)),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := heldOnly(cmd, &f, args, rooms())
			if err != nil {
				return err
			}
			return a.delete(cmd, args, filter, d)
		},
	}
	f.register(c, a, false)
	f.allFlag(c, "every message that is held")
	d.register(c)
	return c
}

// heldOnly keeps a change to the rooms of persons, even where ids are given.
func heldOnly(cmd *cobra.Command, f *filterFlags, ids, rooms []string) (*adminv1.Filter, error) {
	filter, err := f.chosen(cmd, ids, rooms)
	if err == nil {
		filter.Rooms = rooms
	}
	return filter, err
}
