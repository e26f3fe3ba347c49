package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

func checkCommand() *cobra.Command {
	var forUp bool
	var file string
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file, with everything that it names",
		Long: `Check a configuration file, with everything that it names, and tell all that is wrong with it at once. Warnings leave the exit
code at 0.`,
		Example: `  stagecoach check --up
  stagecoach check /etc/stagecoach/stagecoach.yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				file = args[0]
			}
			reading := config.Options{Factories: factories()}
			if forUp {
				reading.Mode = config.ModeUp
			}
			c, err := reading.Load(file)
			if err != nil {
				return err
			}
			for _, w := range c.Warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d stages, %d chains, %d routes: no errors (revision %.12s)\n", file, len(c.Stages), len(c.Chains), len(c.Routes), c.Revision)
			return err
		},
	}
	c.Flags().StringVarP(&file, "config", "c", defaultFile, "configuration `file`; the argument does the same")
	c.Flags().BoolVar(&forUp, "up", false, "as \"stagecoach up\" reads it: stages and egress need no address")
	return c
}
