package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/pki"
)

// maxPersonDays is the longest that the certificate of a person is good for.
const maxPersonDays = 3650

func (a *app) pkiPerson(f *pki.Folder) *cobra.Command {
	var days int
	c := &cobra.Command{
		Use:   "person NAME",
		Short: "Make the certificate by which a person calls the admin API",
		Long: `Make a key and a certificate for a person: people/NAME.pem and people/NAME-key.pem in the folder. Hand both to that person
with ca.pem, and take the key away here. It opens nothing but the admin API, and only while NAME stands in admin.people of the
configuration: taken out there, it ends at once. Nothing is overwritten; "stagecoach pki renew people/NAME" renews it.

In a pipe the columns are: name, made, end, why.`,
		Example: `  stagecoach pki person alice
  stagecoach pki person bob@example.com --days 30 --dir /etc/stagecoach/pki --ca-dir /root/stagecoach-ca`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := pki.CheckPerson(args[0]); err != nil {
				return usagef("%w", err)
			}
			if days < 1 || days > maxPersonDays {
				return usagef("--days %d: 1 to %d", days, maxPersonDays)
			}
			return a.printed(cmd, func(o *output) error {
				res, files, err := f.Person(args[0], time.Duration(days)*day)
				if err != nil {
					return err
				}
				if err := o.pkiResults([]pki.Result{res}, true); err != nil {
					return err
				}
				note(cmd, o, "the certificate is %s, the key %s: hand them over with %s, and name %s in admin.people of the configuration", files[0], files[1], f.CAFile(), args[0])
				return nil
			})
		},
	}
	c.Flags().IntVar(&days, "days", int(pki.Valid/day), "how long it is good for, in `days`")
	return c
}
