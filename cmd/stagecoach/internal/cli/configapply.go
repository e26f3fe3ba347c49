package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// largestConfig is the largest configuration in bytes.
const largestConfig = 256 << 10

// readConfig reads a configuration from a file, or from the standard input ("-").
func readConfig(cmd *cobra.Command, name string) (string, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, largestConfig+1))
	switch {
	case err != nil:
		return "", err
	case len(data) > largestConfig:
		return "", fmt.Errorf("%s has over %d bytes, the limit of a configuration", name, largestConfig)
	}
	text := string(data)
	if valid := strings.ToValidUTF8(text, "\ufffd"); valid != text {
		return "", fmt.Errorf("%s is not UTF-8", name)
	}
	return text, nil
}

func (a *app) configValidate() *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE|-",
		Short: "Check a configuration as the running Stagecoach would, and show what it would change",
		Long: `Let the running Stagecoach check a configuration (a file, or - for the standard input), and show what it would change. Nothing is
changed. "stagecoach check" does the first without a running Stagecoach, on the machine where it is typed.

On a terminal the output is what would be different, and the diff of the file; in a pipe the diff alone. Relative paths in the
configuration start at the folder of the file that runs.`,
		Example: `  stagecoach config validate new.yaml
  stagecoach config show | sed s/relay-1/relay-2/ | stagecoach config validate -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := readConfig(cmd, args[0])
			if err != nil {
				return err
			}
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewConfigServiceClient(conn).ValidateConfig(ctx, &adminv1.ValidateConfigRequest{Text: config})
				if err != nil {
					return err
				}
				c := resp.GetChange()
				if err := o.change(cmd, c); err != nil {
					return err
				}
				if len(c.GetErrors()) > 0 {
					return fmt.Errorf("the configuration is wrong:\n%s", strings.Join(c.GetErrors(), "\n"))
				}
				note(cmd, o, "no errors: revision %s; nothing was changed", short(c.GetRevision()))
				return nil
			})
		},
	}
}

func (a *app) configApply() *cobra.Command {
	r := &adminv1.ApplyConfigRequest{}
	c := &cobra.Command{
		Use:   "apply FILE|-",
		Short: "Put a configuration into the place of the file, and in force",
		Long: `Put a configuration (a file, or - for the standard input) into the place of the one that runs, and in force. It is checked as a
whole first, and with errors nothing is changed. The former one stays in the history: "stagecoach config rollback" puts it back.

On a terminal the output is what becomes different, and the diff of the file; in a pipe the diff alone. Given the file itself it
puts in force what was written there, also with "reload: manual".`,
		Example: `  stagecoach config apply new.yaml --dry-run
  stagecoach config apply new.yaml --comment "the new smarthost"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.Text, err = readConfig(cmd, args[0]); err != nil {
				return err
			}
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewConfigServiceClient(conn).ApplyConfig(ctx, r)
				if err != nil {
					return err
				}
				return o.edited(cmd, resp.GetChange(), r.GetDryRun())
			})
		},
	}
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "show what would change, and change nothing")
	commentFlag(c, &r.Comment)
	return c
}

// change prints what becomes of the file.
func (o *output) change(cmd *cobra.Command, r *adminv1.ConfigChange) error {
	if o.asJSON {
		return o.message(r)
	}
	o.plan(r.GetPlan())
	o.unified(r.GetDiff())
	for _, w := range r.GetWarnings() {
		cmd.PrintErrln("warning: " + cleanLines(w))
	}
	for _, service := range restarts(r.GetPlan()) {
		cmd.PrintErrln(clean(service))
	}
	return nil
}

// restarts say what does not come into force by itself.
func restarts(plan []*adminv1.PlanItem) []string {
	var services []string
	keys := map[string][]string{}
	for _, i := range plan {
		if s := i.GetRestart(); s != "" {
			if !slices.Contains(services, s) {
				services = append(services, s)
			}
			keys[s] = append(keys[s], planName(i))
		}
	}
	for i, s := range services {
		services[i] = "warning: " + strings.Join(keys[s], ", ") + ": taken up at the next start only, of " + s
	}
	return services
}

func planName(i *adminv1.PlanItem) string { return strings.TrimSpace(i.GetKind() + " " + i.GetName()) }

// plan prints on a terminal what a change means; a pipe has the diff alone.
func (o *output) plan(items []*adminv1.PlanItem) {
	if !o.terminal || len(items) == 0 {
		return
	}
	t := &table{head: []string{"WHAT", "", "NOW", "THEN"}, flexible: []int{2, 3}}
	for _, i := range items {
		s := yellow
		switch i.GetAction() {
		case "added":
			s = green
		case "removed":
			s = red
		}
		t.add(text("%s", planName(i)), in(s, "%s", i.GetAction()), text("%s", i.GetFrom()), text("%s", i.GetTo()))
	}
	o.table(0, t)
	o.blank()
}
