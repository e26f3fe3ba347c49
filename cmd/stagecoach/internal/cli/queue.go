package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (a *app) queueCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "queue",
		Short: "Look at the mail that waits, and decide about it",
		Long: `Look at the mail that waits, and decide about it. It waits in rooms, named by what wakes it:

  retry       a time: a recipient or host said 4xx, or a stage failed
  park        a stage or route that is down or paused comes back
  demand      someone asks for it
  quarantine  a person: a stage held it, or it was held by hand
  dead        a person: it cannot go on, and its sender cannot be told

Commands that change something take ids, or filters, of which all that are given must hold, or --all. They tell for each
message what became of it.`,
		Example: `  stagecoach queue list
  stagecoach queue show 1k0tx62h9vmw5e4089twre9ng9
  stagecoach queue retry --route provider
  stagecoach queue delete --sender '*@spam.example' --yes`,
	}
	a.connection(c)
	a.printing(c)
	c.AddCommand(a.queueList(), a.queueShow(), a.queueRetry(), a.queueHold(), a.queueRelease(), a.queueBounce(), a.queueDelete())
	return c
}

func (a *app) queueList() *cobra.Command {
	var f filterFlags
	var limit int
	c := &cobra.Command{
		Use:   "list [ID…]",
		Short: "List the messages that wait, oldest first",
		Long: `List the messages that wait, oldest first: a line for each group of recipients that waits for the same thing.

In a pipe the columns are: id, accepted, reverse-path, recipients (with commas between), room, chain, route, attempts, next
attempt, size in bytes, last answer.`,
		Example: `  stagecoach queue list
  stagecoach queue list --room retry,park --recipient '*@example.net'
  stagecoach queue list --json`,
		ValidArgsFunction: completeArgs(0, a.waitingIDs()),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				return listWaiting(ctx, cmd, conn, o, f.filter(args, nil), limit)
			})
		},
	}
	f.register(c, a, true)
	limitFlag(c, &limit)
	return c
}

func limitFlag(c *cobra.Command, limit *int) {
	c.Flags().IntVar(limit, "limit", 0, "at most so `many`; 0: all (default: 100 on a terminal, else all)")
}

// shownMost is how many entries of a list are for eyes, where nobody said how many.
const shownMost = 100

// most is how many entries of a list are wanted; 0: all. A program that did not ask for less must not get less.
func most(cmd *cobra.Command, o *output, limit int) int {
	if !cmd.Flags().Changed("limit") && o.terminal && !o.asJSON {
		return shownMost
	}
	return limit
}

// listWaiting prints what the filter picks.
func listWaiting(ctx context.Context, cmd *cobra.Command, conn clientConn, o *output, f *adminv1.Filter, limit int) error {
	list, more, err := waiting(ctx, adminv1.NewQueueServiceClient(conn), f, most(cmd, o, limit))
	if err != nil {
		return err
	}
	if o.asJSON {
		return o.message(&adminv1.ListMessagesResponse{Messages: list})
	}
	t := &table{head: []string{"ID", "ACCEPTED", "FROM", "TO", "ROOM", "NEXT", "LAST ANSWER"}, flexible: []int{2, 3, 6}}
	for _, m := range list {
		to := addressesOf(m.GetEnvelope())
		for _, g := range m.GetGroups() {
			if shown(f, g) {
				t.add(o.waitingRow(m, g, to)...)
			}
		}
	}
	if len(list) == 0 {
		note(cmd, o, "nothing waits")
		return nil
	}
	o.table(0, t)
	if more {
		note(cmd, o, "there are more: --limit 0 shows all")
	}
	return nil
}

// shown says whether a group is among those that the filter means, as far as that is plain: a message is listed with all.
func shown(f *adminv1.Filter, g *adminv1.WaitingGroup) bool {
	return (len(f.GetRooms()) == 0 || slices.Contains(f.GetRooms(), g.GetRoom())) &&
		(f.GetChain() == "" || f.GetChain() == g.GetChain()) && (f.GetRoute() == "" || f.GetRoute() == g.GetRoute())
}

func (o *output) waitingRow(m *adminv1.WaitingMessage, g *adminv1.WaitingGroup, to addresses) []span {
	from, why := path(m.GetEnvelope().GetReversePath()), fateText(g.GetLast())
	if g.GetLast() == nil {
		why = ""
	}
	if !o.terminal {
		return []span{text("%s", m.GetId()), text("%s", o.when(m.GetReceived())), text("%s", from), text("%s", strings.ReplaceAll(to.list(g.GetRecipients(), 0), ", ", ",")),
			text("%s", g.GetRoom()), text("%s", g.GetChain()), text("%s", g.GetRoute()), text("%d", g.GetAttempts()), text("%s", o.when(g.GetNext())), text("%d", m.GetSize()), text("%s", why)}
	}
	next := "a person"
	switch g.GetRoom() {
	case "retry":
		next = o.when(g.GetNext())
	case "park":
		next = "when it is back"
	case "demand":
		next = "when asked"
	}
	return []span{text("%s", m.GetId()), text("%s", o.when(m.GetReceived())), text("%s", from), text("%s", to.few(g.GetRecipients())), in(roomStyle(g.GetRoom()), "%s", g.GetRoom()), text("%s", next), text("%s", why)}
}

func roomStyle(room string) style {
	switch room {
	case "quarantine":
		return yellow
	case "dead":
		return red
	}
	return normal
}

// pageSize keeps a page, with the edits that its messages carry, well below what a connection takes.
const pageSize = 200

// waiting gets the messages that a filter picks, up to limit (0: all), and says whether there are more.
func waiting(ctx context.Context, client adminv1.QueueServiceClient, f *adminv1.Filter, limit int) (list []*adminv1.WaitingMessage, more bool, err error) {
	req := &adminv1.ListMessagesRequest{Filter: f}
	for {
		req.PageSize = page(limit, len(list))
		resp, err := client.ListMessages(ctx, req)
		if err != nil {
			return nil, false, err
		}
		list = append(list, resp.GetMessages()...)
		req.PageToken = resp.GetNextPageToken()
		if req.PageToken == "" || limit > 0 && len(list) >= limit {
			return list, req.PageToken != "", nil
		}
	}
}

func page(limit, have int) uint32 {
	if limit <= 0 || limit-have > pageSize {
		return pageSize
	}
	return uint32(limit - have)
}

// note tells the person something beside the output: on a terminal alone, so that a pipe has nothing but data.
func note(cmd *cobra.Command, o *output, format string, args ...any) {
	if o.terminal {
		cmd.PrintErrln(clean(fmt.Sprintf(format, args...)))
	}
}
