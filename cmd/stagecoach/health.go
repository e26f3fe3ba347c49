package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/cli"
	"github.com/stagecoachmail/stagecoach/internal/service"
)

// healthPatience bounds one question. Who asks, asks again.
const healthPatience = 4 * time.Second

type healthOptions struct{ address, service, file string }

func healthCommand() *cobra.Command {
	var o healthOptions
	names := slices.Sorted(maps.Keys(services()))
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask whether a service serves, for the health checks of containers",
		Long: `Ask by the gRPC health protocol whether a service serves: "stagecoach up" at its admin socket, or one that runs by itself
(--service) at its address in the configuration, with the certificate of that service if there is pki.

That mail flows is another question: "stagecoach status" answers it.

The exit code is 0 if it serves, and 1 if it does not or does not answer within 4 seconds.`,
		Example: `  stagecoach health
  stagecoach health --service antivirus -c /etc/stagecoach/stagecoach.yaml
  stagecoach health --address 127.0.0.1:7001`,
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
	c.Flags().StringVar(&o.address, "address", "", "`address` to ask, host:port or unix:path (default: that of the service, else the admin socket)")
	c.Flags().StringVar(&o.service, "service", "", "`name` of a service that runs by itself: "+strings.Join(names, ", "))
	c.Flags().StringVarP(&o.file, "config", "c", "", "configuration `file` (default: stagecoach.yaml, if it is there)")
	return c
}

// askHealth is nil if the service says that it serves.
func askHealth(ctx context.Context, o healthOptions) error {
	ctx, cancel := context.WithTimeout(ctx, healthPatience)
	defer cancel()
	address, pki, err := healthTarget(o)
	if err != nil {
		return err
	}
	conns := service.NewConnections(pki)
	defer conns.Close()
	conn, err := conns.Conn(address, o.service)
	if err != nil {
		return err
	}
	answer, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return fmt.Errorf("%s: %s", address, status.Convert(err).Message())
	}
	if answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		return fmt.Errorf("%s says %s", address, answer.GetStatus())
	}
	return nil
}

// healthTarget is what to ask, and as whom (nil: nobody).
func healthTarget(o healthOptions) (address string, _ *service.PKI, err error) {
	if o.service == "" {
		if o.address != "" {
			return o.address, nil, nil
		}
		path, err := cli.Socket(o.file)
		return "unix:" + path, nil, err
	}
	l, err := readLayout(cmp.Or(o.file, defaultFile))
	if err != nil {
		return "", nil, err
	}
	if address = o.address; address == "" {
		if address, err = l.address(o.service); err != nil {
			return "", nil, err
		}
	}
	if l.PKI.Directory == "" {
		return address, nil, nil
	}
	pki, err := service.OpenPKI(l.PKI.Directory, o.service)
	return address, pki, err
}

// layout is what the question needs of a configuration file: where the services are. Whether the file is right is not
// asked, since a service goes on with what it had when a file with errors is put under it.
type layout struct {
	PKI struct {
		Directory string `yaml:"directory"`
	} `yaml:"pki"`
	Ingress endpoint            `yaml:"ingress"`
	Egress  endpoint            `yaml:"egress"`
	Stages  map[string]endpoint `yaml:"stages"`
}

type endpoint struct {
	Type    string `yaml:"type"`
	Address string `yaml:"address"`
}

func readLayout(file string) (*layout, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("find the service: %w: name another file with -c", err)
	}
	l := new(layout)
	if err := yaml.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("find the service: %s is not to be read: see `stagecoach check %s`", file, file)
	}
	if d := l.PKI.Directory; d != "" && !filepath.IsAbs(d) {
		l.PKI.Directory = filepath.Join(filepath.Dir(file), d)
	}
	return l, nil
}

// address is where the service listens.
func (l *layout) address(name string) (string, error) {
	switch name {
	case "ingress":
		return theOne(name, []string{l.Ingress.Address})
	case "egress":
		return theOne(name, []string{l.Egress.Address})
	}
	var found []string
	for stage, e := range l.Stages {
		if cmp.Or(e.Type, stage) == name {
			found = append(found, e.Address)
		}
	}
	return theOne(name, found)
}

func theOne(name string, addresses []string) (string, error) {
	slices.Sort(addresses)
	addresses = slices.DeleteFunc(slices.Compact(addresses), func(a string) bool { return a == "" })
	switch len(addresses) {
	case 0:
		return "", fmt.Errorf("%s has no address in the configuration: name it with --address", name)
	case 1:
		return addresses[0], nil
	}
	return "", errors.New(name + " has several addresses (" + strings.Join(addresses, ", ") + "): name one with --address")
}
