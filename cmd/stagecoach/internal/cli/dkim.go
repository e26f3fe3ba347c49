package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/signer"
)

func (a *app) dkimCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "dkim",
		Short: "Make keys for DKIM signatures, and show what to publish",
		Example: `  stagecoach dkim new example.com
  stagecoach dkim show example.com`,
	}
	a.connection(c)
	a.printing(c)
	c.AddCommand(a.dkimNew(), a.dkimList(), a.dkimShow())
	return c
}

func (a *app) dkimNew() *cobra.Command {
	var dir, selector, stage string
	c := &cobra.Command{
		Use:   "new DOMAIN",
		Short: "Make an RSA-2048 and an Ed25519 key for a domain, and print the DNS records to publish",
		Long: `Make an RSA-2048 and an Ed25519 key for a domain, and print the DNS records to publish, as lines of a zone file.

The running signer makes them, and takes them up within seconds if it signs with what lies in its key folder. With --keys they
are made here, in a folder: before the first start, or for another machine.`,
		Example: `  stagecoach dkim new example.com
  stagecoach dkim new example.com --keys data/keys --selector s2026`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if dir != "" {
				if err := a.onFiles("--keys"); err != nil {
					return err
				}
				return a.printed(cmd, func(o *output) error { return a.writeKeys(o, dir, args[0], selector) })
			}
			err := a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewDkimServiceClient(conn).CreateDkimKeys(ctx, &adminv1.CreateDkimKeysRequest{Stage: stage, Domain: args[0], Selector: selector})
				switch {
				case isCode(err, codes.AlreadyExists):
					return &exitError{ExitFailed, fmt.Errorf("%w\nAnother one is named with --selector", words(err))}
				case err != nil:
					return err
				case o.asJSON:
					return o.message(&adminv1.ListDkimKeysResponse{Keys: resp.GetKeys()})
				}
				o.records(resp.GetKeys())
				return nil
			})
			if errors.Is(err, errNotRunning) {
				return fmt.Errorf("%w\nBefore the first start, --keys data/keys makes them without it", err)
			}
			return err
		},
	}
	c.Flags().StringVar(&dir, "keys", "", "make them in this `folder`, without a running Stagecoach")
	c.Flags().StringVar(&selector, "selector", "", "`selector`, to which each key appends its algorithm (default: s and today's date)")
	c.Flags().StringVar(&stage, "stage", "", "for the signer of this `name`, if there are several")
	complete(c, "stage", a.stageNames)
	return c
}

// writeKeys makes keys in a folder.
func (a *app) writeKeys(o *output, dir, domain, selector string) error {
	if selector == "" {
		selector = "s" + a.Now().UTC().Format("20060102")
	}
	keys, err := signer.WriteKeys(dir, domain, selector)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: choose another --selector; a selector that was published is never given another key", err)
	}
	if err != nil {
		return err
	}
	var list []*adminv1.DkimKey
	for _, k := range keys {
		list = append(list, &adminv1.DkimKey{Domain: domain, Selector: k.Selector, File: k.File, ZoneLine: k.Record.String()})
	}
	if o.asJSON {
		return o.message(&adminv1.ListDkimKeysResponse{Keys: list})
	}
	o.records(list)
	return nil
}

func (a *app) dkimList() *cobra.Command {
	var stage string
	c := &cobra.Command{
		Use:   "list [DOMAIN]",
		Short: "List the keys that the signers have",
		Long: `List the keys that the signers have.

In a pipe the columns are: domain, selector, algorithm, bits, active or inactive, stage, file.`,
		Example: `  stagecoach dkim list
  stagecoach dkim list example.com --json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := listKeys(ctx, conn, stage, strings.Join(args, ""))
				if err != nil {
					return err
				}
				if o.asJSON {
					return o.message(resp)
				}
				if len(resp.GetKeys()) == 0 {
					note(cmd, o, "there are no keys: `stagecoach dkim new DOMAIN` makes some")
					return nil
				}
				t := &table{head: []string{"DOMAIN", "SELECTOR", "ALGORITHM", "BITS", "STATE", "STAGE", "FILE"}, flexible: []int{6}}
				for _, k := range resp.GetKeys() {
					state := in(faint, "inactive")
					if k.GetActive() {
						state = in(green, "active")
					}
					bits := ""
					if k.GetBits() > 0 {
						bits = fmt.Sprint(k.GetBits())
					}
					t.add(text("%s", k.GetDomain()), text("%s", k.GetSelector()), text("%s", k.GetAlgorithm()), text("%s", bits), state, text("%s", k.GetStage()), text("%s", k.GetFile()))
				}
				o.table(0, t)
				return nil
			})
		},
	}
	c.Flags().StringVar(&stage, "stage", "", "of the signer of this `name` (default: all)")
	complete(c, "stage", a.stageNames)
	return c
}

func (a *app) dkimShow() *cobra.Command {
	var stage, selector string
	c := &cobra.Command{
		Use:   "show DOMAIN",
		Short: "Show the DNS records to publish for a domain",
		Long:  "Show the DNS records to publish for a domain, as lines of a zone file.",
		Example: `  stagecoach dkim show example.com
  stagecoach dkim show example.com --selector s20261122-rsa`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := listKeys(ctx, conn, stage, args[0])
				if err != nil {
					return err
				}
				var keys []*adminv1.DkimKey
				for _, k := range resp.GetKeys() {
					if selector == "" || k.GetSelector() == selector {
						keys = append(keys, k)
					}
				}
				switch {
				case len(keys) == 0:
					return fmt.Errorf("there is no such key: `stagecoach dkim list` shows all, `stagecoach dkim new %s` makes some", args[0])
				case o.asJSON:
					return o.message(&adminv1.ListDkimKeysResponse{Keys: keys})
				}
				o.records(keys)
				return nil
			})
		},
	}
	c.Flags().StringVar(&stage, "stage", "", "of the signer of this `name` (default: all)")
	c.Flags().StringVar(&selector, "selector", "", "of this `selector` alone")
	complete(c, "stage", a.stageNames)
	return c
}

func listKeys(ctx context.Context, conn clientConn, stage, domain string) (*adminv1.ListDkimKeysResponse, error) {
	return adminv1.NewDkimServiceClient(conn).ListDkimKeys(ctx, &adminv1.ListDkimKeysRequest{Stage: stage, Domain: domain})
}

// records prints what to publish: a piece of a zone file.
func (o *output) records(keys []*adminv1.DkimKey) {
	for _, k := range keys {
		o.line(0, in(faint, "; %s", k.GetFile()))
		for line := range strings.Lines(k.GetZoneLine()) {
			o.line(0, text("%s", strings.TrimRight(line, "\r\n")))
		}
	}
}
