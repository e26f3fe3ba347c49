package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (a *app) configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Look at the configuration, change it, and take that back",
		Long: `Look at the configuration of the running Stagecoach, change it, and take that back. "stagecoach check" checks a file where no
Stagecoach runs, "stagecoach chain" changes the stages of a chain.`,
		Example: `  stagecoach config show
  stagecoach config apply new.yaml --dry-run
  stagecoach config rollback`,
	}
	a.connection(c)
	a.printing(c)
	c.AddCommand(a.configShow(), a.configValidate(), a.configApply(), a.configHistory(), a.revisionDiff("config"), a.rollback("config"))
	return c
}

func (a *app) configShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show the configuration file",
		Long: `Show the configuration file of the running Stagecoach as it stands now. Where it is not in force, that is said on the standard
error output. Without a file it is the built-in configuration, with which a file can be begun.`,
		Example: `  stagecoach config show
  stagecoach config show > stagecoach.yaml`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewConfigServiceClient(conn).GetConfig(ctx, &adminv1.GetConfigRequest{})
				if err != nil {
					return err
				}
				notInForce(cmd, resp)
				switch {
				case o.asJSON:
					return o.message(resp)
				case o.terminal:
					for line := range strings.Lines(resp.GetText()) {
						o.line(0, text("%s", strings.TrimRight(line, "\r\n")))
					}
				default:
					o.raw([]byte(resp.GetText()))
				}
				return nil
			})
		},
	}
}

// notInForce tells where the file and what runs differ.
func notInForce(cmd *cobra.Command, c *adminv1.GetConfigResponse) {
	if c.GetRunning() == c.GetRevision() {
		return
	}
	why := "it was changed just now, or reload is manual"
	if r := c.GetRefused(); r != "" {
		why = r
	}
	cmd.PrintErrln("warning: this file is not in force: " + cleanLines(why))
}

func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = clean(l)
	}
	return strings.Join(lines, "\n")
}

func unknownChain(name string, known []string) error {
	return fmt.Errorf("there is no chain %q%s", name, config.Suggest(name, known, "chains"))
}

// edited prints a change of the file: the plan, the diff, and what became of it.
func (o *output) edited(cmd *cobra.Command, r *adminv1.ConfigChange, dryRun bool) error {
	if err := o.change(cmd, r); err != nil {
		return err
	}
	switch {
	case len(r.GetErrors()) > 0:
		return fmt.Errorf("nothing was changed, for the configuration would be wrong:\n%s", strings.Join(r.GetErrors(), "\n"))
	case dryRun:
		note(cmd, o, "nothing was changed: this is what would be")
	case !r.GetWritten() && o.asJSON:
		return fmt.Errorf("nothing was changed: %s", r.GetProblem())
	case !r.GetWritten():
		return fmt.Errorf("nothing was changed: %s\nWhat is shown is the patch that makes this change: apply it where the file comes from", r.GetProblem())
	case !r.GetInForce():
		return &exitError{ExitPartly, errors.New("the file has the change, but it is not in force: " + r.GetProblem() +
			"\nWhat ran before goes on. It is tried again while the file stays as it is; undo the change to leave it at that")}
	case r.GetDiff() == "":
		note(cmd, o, "nothing changes by this")
	default:
		note(cmd, o, "in force from the next message on: revision %.12s", r.GetRevision())
	}
	return nil
}

// unified prints a diff: in colours on a terminal, as it is into a pipe.
func (o *output) unified(diff string) {
	if !o.terminal {
		o.raw([]byte(diff))
		return
	}
	for line := range strings.Lines(diff) {
		line = strings.TrimRight(line, "\r\n")
		s := normal
		switch {
		case strings.HasPrefix(line, "---"), strings.HasPrefix(line, "+++"), strings.HasPrefix(line, "@@"):
			s = faint
		case strings.HasPrefix(line, "+"):
			s = green
		case strings.HasPrefix(line, "-"):
			s = red
		}
		o.line(0, in(s, "%s", line))
	}
}
