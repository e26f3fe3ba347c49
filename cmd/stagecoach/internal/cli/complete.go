package cli

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// completeWithin bounds what the shell waits for.
	completeWithin = 500 * time.Millisecond
	completeMost   = 100
)

// complete lets the shell complete the values of a flag.
func complete(c *cobra.Command, flag string, values func(*cobra.Command) []string) {
	// The only error is a flag that does not exist or that has one already.
	if err := c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return values(c), cobra.ShellCompDirectiveNoFileComp
	}); err != nil {
		panic(err)
	}
}

// completeArgs lets the shell complete up to most arguments (0: any number), each value once.
func completeArgs(most int, values func(*cobra.Command) []string) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list := slices.DeleteFunc(values(c), func(s string) bool {
			value, _, _ := strings.Cut(s, "\t") // what follows describes it
			return slices.Contains(args, value)
		})
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// chainNames and stageNames are those of the configuration file, or of the Stagecoach on the network that is meant.
func (a *app) chainNames(c *cobra.Command) []string {
	var names []string
	for _, c := range a.configured(c).Chains {
		names = append(names, c.Name)
	}
	return names
}

func (a *app) stageNames(c *cobra.Command) []string {
	return slices.Sorted(maps.Keys(a.configured(c).Stages))
}

// configured is what is configured where the command goes; empty if that cannot be found out soon.
func (a *app) configured(c *cobra.Command) (o outline) {
	_, remote, err := a.target()
	switch {
	case err != nil:
	case remote == nil:
		o, _, _ = a.outline() //nolint:errcheck // then it is empty
	default:
		a.briefly(c, func(ctx context.Context, conn clientConn) {
			resp, err := adminv1.NewConfigServiceClient(conn).GetConfig(ctx, &adminv1.GetConfigRequest{})
			if err == nil {
				_ = yaml.Unmarshal([]byte(resp.GetText()), &o) //nolint:errcheck // then it is empty
			}
		})
	}
	return o
}

// routeNames are those of the running Stagecoach.
func (a *app) routeNames(c *cobra.Command) []string {
	var names []string
	a.briefly(c, func(ctx context.Context, conn clientConn) {
		resp, err := adminv1.NewRouteServiceClient(conn).ListRoutes(ctx, &adminv1.ListRoutesRequest{})
		if err != nil {
			return
		}
		for _, r := range resp.GetRoutes() {
			names = append(names, r.GetName())
		}
	})
	return names
}

// nodeNames are those of the processes.
func (a *app) nodeNames(c *cobra.Command) []string {
	var names []string
	a.briefly(c, func(ctx context.Context, conn clientConn) {
		if resp, err := adminv1.NewNodeServiceClient(conn).ListNodes(ctx, &adminv1.ListNodesRequest{}); err == nil {
			for _, n := range resp.GetNodes() {
				names = append(names, nodeName(n))
			}
		}
	})
	return names
}

// waitingIDs are the ids of messages in the rooms, with who sent them as the description.
func (a *app) waitingIDs(rooms ...string) func(*cobra.Command) []string {
	return func(c *cobra.Command) []string {
		var ids []string
		a.briefly(c, func(ctx context.Context, conn clientConn) {
			resp, err := adminv1.NewQueueServiceClient(conn).ListMessages(ctx, &adminv1.ListMessagesRequest{Filter: &adminv1.Filter{Rooms: rooms}, PageSize: completeMost})
			if err != nil {
				return
			}
			for _, m := range resp.GetMessages() {
				ids = append(ids, clean(m.GetId())+"\tfrom "+clean(path(m.GetEnvelope().GetReversePath())))
			}
		})
		return ids
	}
}

func (a *app) userNames(c *cobra.Command) []string {
	var names []string
	a.briefly(c, func(ctx context.Context, conn clientConn) {
		if resp, err := adminv1.NewUserServiceClient(conn).ListUsers(ctx, &adminv1.ListUsersRequest{}); err == nil {
			names = resp.GetNames()
		}
	})
	return names
}

// briefly asks the running Stagecoach, if it is there and quick.
func (a *app) briefly(c *cobra.Command, ask func(context.Context, clientConn)) {
	ctx := c.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeWithin)
	defer cancel()
	conn, err := a.dial(ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	ask(ctx, conn)
}
