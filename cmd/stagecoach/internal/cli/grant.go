package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (a *app) grantCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "grant",
		Short: "Let clients relay by their address, for a time",
		Long: `Let clients relay by their address, for a time: by a relay rule that says "grants: true", beside whatever else it demands. It holds
for all ingresses, and over restarts.`,
		Example: `  stagecoach grant list
  stagecoach grant add branch 192.0.2.7 --for 12h --reason "the line in Hull"
  stagecoach grant revoke branch/192.0.2.7/32`,
	}
	a.connection(c)
	a.printing(c)
	c.AddCommand(a.grantList(), a.grantAdd(), a.grantRevoke())
	return c
}

func (a *app) grantList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the grants that hold now",
		Long: `List the grants that hold now, those that end first before the others.

In a pipe the columns are: id, rule, network, when it ends, by whom, when it was made, reason.`,
		Example:           `  stagecoach grant list`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewGrantServiceClient(conn).ListGrants(ctx, &adminv1.ListGrantsRequest{})
				if err != nil {
					return err
				}
				if o.asJSON {
					return o.message(resp)
				}
				if len(resp.GetGrants()) == 0 {
					note(cmd, o, "there are no grants")
					return nil
				}
				o.grants(resp.GetGrants())
				return nil
			})
		},
	}
}

func (a *app) grantAdd() *cobra.Command {
	var life time.Duration
	var why string
	c := &cobra.Command{
		Use:   "add RULE ADDRESS",
		Short: "Let the clients of an address or network relay by a rule",
		Long: `Let the clients of an address, or of a network of at most /24 (IPv4) or /64 (IPv6), relay by a rule with "grants: true". A grant
that is there already is made to end later, never sooner.`,
		Example: `  stagecoach grant add branch 192.0.2.7
  stagecoach grant add branch 2001:db8:1:2::/64 --for 168h --reason "they are moving"`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewGrantServiceClient(conn).CreateGrant(ctx, &adminv1.CreateGrantRequest{Rule: args[0], Network: args[1], Lifetime: durationpb.New(life), Reason: why})
				return o.grant(resp, err)
			})
		},
	}
	c.Flags().DurationVar(&life, "for", day, "how `long`, 1m to 720h")
	c.Flags().StringVar(&why, "reason", "", "`why`: for whoever looks next")
	return c
}

func (a *app) grantRevoke() *cobra.Command {
	return &cobra.Command{
		Use:               "revoke ID",
		Short:             "End a grant now",
		Long:              "End a grant now. Clients that are connected hear it at their next MAIL. Its id is RULE/NETWORK, as `grant list` shows it.",
		Example:           "  stagecoach grant revoke branch/192.0.2.7/32",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.grantIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewGrantServiceClient(conn).RevokeGrant(ctx, &adminv1.RevokeGrantRequest{Id: args[0]})
				if isCode(err, codes.NotFound) {
					return &exitError{ExitFailed, fmt.Errorf("%w: `stagecoach grant list` shows the grants", words(err))}
				}
				if err != nil {
					return err
				}
				if o.asJSON {
					return o.message(resp)
				}
				o.line(0, text("%s is revoked", resp.GetGrant().GetId()))
				return nil
			})
		},
	}
}

func (a *app) grantIDs(c *cobra.Command) []string {
	var ids []string
	a.briefly(c, func(ctx context.Context, conn clientConn) {
		resp, err := adminv1.NewGrantServiceClient(conn).ListGrants(ctx, &adminv1.ListGrantsRequest{})
		if err != nil {
			return
		}
		for _, g := range resp.GetGrants() {
			ids = append(ids, clean(g.GetId()))
		}
	})
	return ids
}

// grant prints one that was made.
func (o *output) grant(resp *adminv1.CreateGrantResponse, err error) error {
	switch {
	case err != nil:
		return err
	case o.asJSON:
		return o.message(resp)
	}
	o.grants([]*adminv1.Grant{resp.GetGrant()})
	return nil
}

func (o *output) grants(list []*adminv1.Grant) {
	t := &table{head: []string{"ID", "RULE", "NETWORK", "ENDS", "BY", "MADE", "WHY"}, flexible: []int{6}}
	for _, g := range list {
		t.add(text("%s", g.GetId()), text("%s", g.GetRule()), text("%s", g.GetNetwork()), text("%s", o.when(g.GetExpires())), text("%s", g.GetBy()), text("%s", o.when(g.GetCreated())), text("%s", g.GetReason()))
	}
	o.table(0, t)
}
