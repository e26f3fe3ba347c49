package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/cli"
	"github.com/stagecoachmail/stagecoach/internal/service"
)

type healthOptions struct{ address, service, file string }

func healthCommand() *cobra.Command {
	var o healthOptions
	names := slices.Sorted(maps.Keys(services()))
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask whether a service serves, for the health checks of containers",
		Long: `Ask by the gRPC health protocol whether a service serves: "stagecoach up" at its admin socket, or one that runs by itself
(--service) at its address in the configuration, with the certificate of that service if there is pki. An --address that begins with http://
is asked by HTTP, as that of the NATS monitor: 200 is good.

That mail flows is another question: "stagecoach status" answers it.

The exit code is 0 if it serves, and 1 if it does not or does not answer within 4 seconds.`,
		Example: `  stagecoach health
  stagecoach health --service antivirus -c /etc/stagecoach/stagecoach.yaml
  stagecoach health --address 127.0.0.1:7001
  stagecoach health --address http://127.0.0.1:8222/healthz`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.service != "" && !slices.Contains(names, o.service) {
				_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "stagecoach: no service %q: one of %s\n", o.service, strings.Join(names, ", ")) //nolint:errcheck // there is nowhere else to say it
				return cli.ExitWith(cli.ExitUsage)
			}
			if err := askHealth(cmd.Context(), o); err != nil {
				cli.Report(cmd.ErrOrStderr(), err)
				return cli.ExitWith(cli.ExitPartly) // 1, which is what an engine takes for unhealthy
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "serving")
			return err
		},
	}
	c.Flags().StringVar(&o.address, "address", "", "`address` to ask: host:port, unix:path or a URL (default: that of the service, else the admin socket)")
	c.Flags().StringVar(&o.service, "service", "", "`name` of a service that runs by itself: "+strings.Join(names, ", "))
	c.Flags().StringVarP(&o.file, "config", "c", "", "configuration `file` (default: stagecoach.yaml, if it is there)")
	return c
}

// askHealth is nil if what is meant says that it serves: a service, else the admin socket, which is that of admin as well.
func askHealth(ctx context.Context, o healthOptions) error {
	q := service.HealthQuestion{Service: o.service, Address: o.address, File: cmp.Or(o.file, defaultFile)}
	if (o.service == "" || o.service == "admin") && o.address == "" {
		path, err := cli.Socket(o.file)
		if err != nil {
			return err
		}
		q.Service, q.Address = "", "unix:"+path
	}
	return service.AskHealth(ctx, q)
}
