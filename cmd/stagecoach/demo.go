package main

import (
	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/demo"
)

func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show a whole installation at work on this machine, in a minute",
		Long: `Start everything with a smarthost that demands TLS and a login, send a handful of messages, and tell what becomes
of each and the way it took: one with an attachment, a large one, one that its author has signed, one with a virus,
one to a mailbox that is not there, one whose smarthost is down for ten seconds.

Nothing leaves the machine, and nothing is left behind.`,
		Example: "  stagecoach demo",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo.Run(cmd.Context(), demo.Options{Out: cmd.OutOrStdout(), Factories: factories()})
		},
	}
}
