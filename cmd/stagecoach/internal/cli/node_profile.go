package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// profileKinds are those that a process can make.
var profileKinds = []string{"cpu", "heap", "allocs", "goroutine", "mutex", "block", "trace"}

func (a *app) nodeProfile() *cobra.Command {
	var file string
	var seconds uint32
	c := &cobra.Command{
		Use:   "profile NAME KIND",
		Short: "Get a profile of a process, for go tool pprof",
		Long: `Get a profile of a process: cpu, heap, allocs, goroutine, mutex or block for "go tool pprof", trace for "go tool trace". What
happens is gathered for --seconds; heap, allocs and goroutine are as they are now. It may show names of users and parts of mail.`,
		Example: `  stagecoach node profile ingress@172.18.0.4:7001 cpu --seconds 30
  stagecoach node profile ingress@172.18.0.4:7001 heap -o - | go tool pprof -top -`,
		Args: cobra.ExactArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return profileKinds, cobra.ShellCompDirectiveNoFileComp
			}
			return completeArgs(1, a.nodeNames)(cmd, args, toComplete)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				return a.profile(ctx, conn, cmd, &adminv1.GetProfileRequest{Node: args[0], Kind: args[1], Seconds: seconds}, file)
			})
		},
	}
	c.Flags().StringVarP(&file, "output", "o", "", "`file` to write, which must not be there yet; - is the standard output (default: stagecoach-KIND.pprof)")
	c.Flags().Uint32Var(&seconds, "seconds", 0, "how long it is gathered, 1 to 60 (default 10)")
	return c
}

// profile writes a profile to a file that is new. One that breaks off leaves none behind.
func (a *app) profile(ctx context.Context, conn clientConn, cmd *cobra.Command, r *adminv1.GetProfileRequest, name string) (err error) {
	out := cmd.OutOrStdout()
	if name == "" {
		name = "stagecoach-" + r.GetKind() + ".pprof"
	}
	stream, err := adminv1.NewNodeServiceClient(conn).GetProfile(ctx, r)
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if name == "-" {
		if a.isTerminal(out) {
			return usagef("a profile is not for a terminal: name a file with -o")
		}
	} else {
		file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer func() {
			if closed := file.Close(); err == nil {
				err = closed
			}
		}()
		out = file
	}
	for {
		if _, err := out.Write(first.GetChunk()); err != nil {
			return err
		}
		first, err = stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			if name != "-" {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), escape(name, true))
				return err
			}
			return nil
		case err != nil:
			if name != "-" {
				err = errors.Join(err, os.Remove(name))
			}
			return err
		}
	}
}
