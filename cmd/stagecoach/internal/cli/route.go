package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (a *app) routeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "route",
		Short: "Look at the ways out, and stop them",
		Example: `  stagecoach route list
  stagecoach route pause provider --reason "they are moving"
  stagecoach route resume provider`,
	}
	a.connection(c)
	a.printing(c)
	c.AddCommand(a.routeList(), a.routePause(), a.routeResume())
	return c
}

func (a *app) routeList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the routes and how they are",
		Long: `List the routes and how they are.

In a pipe the columns are: name, kind, where to, state (ok, down, paused), waiting messages, chains (with commas between), why.
The kind "gone" is that of a paused route which the configuration does not have any more.`,
		Example: `  stagecoach route list
  stagecoach route list --json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewRouteServiceClient(conn).ListRoutes(ctx, &adminv1.ListRoutesRequest{})
				if err != nil {
					return err
				}
				if o.asJSON {
					return o.message(resp)
				}
				if len(resp.GetRoutes()) == 0 {
					note(cmd, o, "there are no routes")
					return nil
				}
				o.routes(resp.GetRoutes())
				return nil
			})
		},
	}
}

func (a *app) routePause() *cobra.Command {
	var why string
	c := &cobra.Command{
		Use:   "pause NAME",
		Short: "Send nothing by a route any more",
		Long: `Send nothing by a route any more, until it is resumed, over restarts too. Mail for it is accepted, runs through its chain, and
waits in the room park. What is at its final dot gets there.`,
		Example:           `  stagecoach route pause provider --reason "they are moving"`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.routeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewRouteServiceClient(conn).PauseRoute(ctx, &adminv1.PauseRouteRequest{Name: args[0], Reason: why})
				return o.route(resp, err)
			})
		},
	}
	c.Flags().StringVar(&why, "reason", "", "`why`: for whoever looks next")
	return c
}

func (a *app) routeResume() *cobra.Command {
	return &cobra.Command{
		Use:               "resume NAME",
		Short:             "Send by a paused route again",
		Long:              "Send by a paused route again. What waits for it follows by itself.",
		Example:           "  stagecoach route resume provider",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.routeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewRouteServiceClient(conn).ResumeRoute(ctx, &adminv1.ResumeRouteRequest{Name: args[0]})
				return o.route(resp, err)
			})
		},
	}
}

// route prints one route after a change of it.
func (o *output) route(resp interface{ GetRoute() *adminv1.RouteState }, err error) error {
	switch {
	case isCode(err, codes.NotFound):
		return &exitError{ExitFailed, fmt.Errorf("%w: `stagecoach route list` shows the routes", words(err))}
	case err != nil:
		return err
	case o.asJSON:
		return o.message(&adminv1.ListRoutesResponse{Routes: []*adminv1.RouteState{resp.GetRoute()}})
	}
	o.routes([]*adminv1.RouteState{resp.GetRoute()})
	return nil
}

func (o *output) routes(list []*adminv1.RouteState) {
	t := &table{head: []string{"NAME", "KIND", "TO", "STATE", "WAITING", "CHAINS", "WHY"}, flexible: []int{2, 5, 6}}
	for _, r := range list {
		state, why := in(green, "ok"), ""
		switch {
		case r.GetPause() != nil:
			state, why = in(yellow, "paused"), pauseText(o, r.GetPause())
		case r.GetDown() != "":
			state, why = in(red, "down"), r.GetDown()
		}
		separator := ","
		if o.terminal {
			separator = ", "
		}
		kind := r.GetKind()
		if kind == "" {
			kind = "gone"
		}
		t.add(text("%s", r.GetName()), text("%s", kind), text("%s", r.GetTo()), state, text("%d", r.GetWaiting()), text("%s", strings.Join(r.GetChains(), separator)), text("%s", why))
	}
	o.table(0, t)
}

func pauseText(o *output, p *adminv1.Pause) string {
	return because(strings.TrimSpace("by "+p.GetBy()+" "+o.when(p.GetAt())), p.GetReason())
}
