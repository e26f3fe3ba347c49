package main

import (
	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/demo"
)

func demoCommand() *cobra.Command {
	c := &cobra.Command{
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
	c.AddCommand(smarthostCommand())
	return c
}

func smarthostCommand() *cobra.Command {
	var o demo.SmarthostOptions
	c := &cobra.Command{
		Use:   "smarthost",
		Short: "Run a provider's mail server with a mailbox to look into",
		Long: `Run an SMTP server that demands STARTTLS and a login, takes mail for everybody, and keeps it in a maildir: the other side of a demo
in containers. It sends nothing on.`,
		Example:           "  stagecoach demo smarthost --listen :587 --user coach --password-file password --pki pki --maildir mailbox",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return demo.Smarthost(cmd.Context(), o) },
	}
	c.Flags().StringVar(&o.Listen, "listen", "127.0.0.1:2587", "`address` to listen on")
	c.Flags().StringVar(&o.User, "user", "coach", "`name` of the login")
	c.Flags().StringVar(&o.PasswordFile, "password-file", "password", "`file` with its password")
	c.Flags().StringVar(&o.PKI, "pki", "pki", "`folder` with ca.pem, smarthost.pem and smarthost-key.pem")
	c.Flags().StringVar(&o.Name, "name", "smarthost", "`name` of the certificate in it")
	c.Flags().StringVar(&o.Maildir, "maildir", "mailbox", "`folder` where its mail goes")
	return c
}
