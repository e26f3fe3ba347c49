package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/services/signer"
)

func dkimCommand() *cobra.Command {
	c := &cobra.Command{Use: "dkim", Short: "Keys for DKIM signatures"}
	c.AddCommand(dkimNewCommand())
	return c
}

func dkimNewCommand() *cobra.Command {
	var dir, selector string
	c := &cobra.Command{
		Use:   "new DOMAIN",
		Short: "Make an RSA-2048 and an Ed25519 key for a domain, and print the DNS records to publish",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if selector == "" {
				selector = "s" + time.Now().UTC().Format("20060102")
			}
			keys, err := signer.WriteKeys(dir, args[0], selector)
			if errors.Is(err, os.ErrExist) {
				return fmt.Errorf("%w: choose another --selector; a selector that was published is never given another key", err)
			}
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			for _, k := range keys {
				if _, err := fmt.Fprintf(out, "; %s\n%s\n", k.File, k.Record); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&dir, "keys", filepath.Join("data", "keys"), "`folder` of the keys")
	c.Flags().StringVar(&selector, "selector", "", "selector (default: s and today's date)")
	return c
}
