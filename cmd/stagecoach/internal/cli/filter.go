package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// Rooms, in the order in which they are shown.
var (
	roomsByThemselves = []string{"retry", "park", "demand"}
	roomsOfPersons    = []string{"quarantine", "dead"}
)

func allRooms() []string { return slices.Concat(roomsByThemselves, roomsOfPersons) }

// filterFlags are those by which waiting messages are chosen.
type filterFlags struct {
	rooms                                   []string
	chain, route, about, sender, recipients string
	all                                     bool
}

func (f *filterFlags) register(c *cobra.Command, a *app, rooms bool) {
	fl := c.Flags()
	if rooms {
		fl.StringSliceVar(&f.rooms, "room", nil, "in this `room`: "+strings.Join(allRooms(), ", "))
		complete(c, "room", func(*cobra.Command) []string { return allRooms() })
	}
	fl.StringVar(&f.chain, "chain", "", "of the chain of this `name`")
	fl.StringVar(&f.route, "route", "", "whose chain delivers by the route of this `name`")
	fl.StringVar(&f.about, "about", "", "whose last answer was about the stage, route or host of this `name`")
	fl.StringVar(&f.sender, "sender", "", "from this `address`, or a pattern: *@example.com, *@*.example.com, <>")
	fl.StringVar(&f.recipients, "recipient", "", "to this `address`, or a pattern")
	complete(c, "chain", a.chainNames)
	complete(c, "route", a.routeNames)
}

func (f *filterFlags) allFlag(c *cobra.Command, what string) {
	c.Flags().BoolVar(&f.all, "all", false, what)
}

func (f *filterFlags) empty() bool {
	return len(f.rooms) == 0 && f.chain == "" && f.route == "" && f.about == "" && f.sender == "" && f.recipients == ""
}

// filter is what was chosen by ids and flags, in the rooms at most.
func (f *filterFlags) filter(ids, rooms []string) *adminv1.Filter {
	out := &adminv1.Filter{Ids: ids, Rooms: f.rooms, Chain: f.chain, Route: f.route, About: f.about, Sender: f.sender, Recipient: f.recipients}
	if len(out.Rooms) == 0 {
		out.Rooms = rooms
	}
	return out
}

// chosen is filter for a change: everything is meant only where the person said so. rooms are those that the change
// is for; the server is asked about no others.
func (f *filterFlags) chosen(c *cobra.Command, ids, rooms []string) (*adminv1.Filter, error) {
	for _, r := range f.rooms {
		if !slices.Contains(allRooms(), r) {
			return nil, usagef("there is no room %q: one of %s", r, strings.Join(allRooms(), ", "))
		}
	}
	named := len(ids) > 0 || !f.empty()
	switch {
	case !named && !f.all:
		return nil, usagef("which messages? Give their ids, a filter such as --recipient '*@example.com', or --all\nSee `%s --help`.", c.CommandPath())
	case f.all && (len(ids) > 0 || f.chain+f.route+f.about+f.sender+f.recipients != ""):
		return nil, usagef("--all means every message: leave it out where ids or filters are given")
	case len(ids) > 0 && f.empty():
		// The server says of each why it did not change, a wrong room among the reasons.
		return &adminv1.Filter{Ids: ids}, nil
	}
	return f.filter(ids, rooms), nil
}
