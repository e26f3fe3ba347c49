package cli

import (
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/pki"
)

// renewBefore is how long before its end a certificate is renewed by `pki keep`.
const renewBefore = 30 * day

func (a *app) pkiKeep(f *pki.Folder) *cobra.Command {
	var every string
	c := &cobra.Command{
		Use:   "keep NAME...",
		Short: "Keep a folder for each service, for containers",
		Long: `Make a CA in --ca-dir, if there is none, and below --dir for each NAME a folder with ca.pem, the certificate and the key of that
service, and nothing else: what its container may see. What ends within 30 days is renewed; where nothing is to be done nothing
changes. With --every this goes on until it is stopped.

The exit code is 0 if all is well, 1 if some could not be made, 2 if nothing could be done.
In a pipe the columns are: name, made or renewed or kept or failed, end, why.`,
		Example: `  stagecoach pki keep --dir /pki --ca-dir /ca ingress egress admin nats
  stagecoach pki keep --dir /pki --ca-dir /ca --every 12h ingress egress admin nats`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, names []string) error {
			if f.KeyDir == "" {
				return usagef("--ca-dir is missing: who has the key of the CA can be any service")
			}
			for _, name := range names {
				if err := pki.CheckName(name); err != nil {
					return usagef("%w", err)
				}
			}
			pause, err := time.Duration(0), error(nil)
			if every != "" {
				if pause, err = period("every", every); err != nil {
					return err
				}
			}
			k := pki.Keeper{Dir: f.Dir, CADir: f.KeyDir, Before: renewBefore, Now: a.Now}
			return a.printed(cmd, func(o *output) error { return a.keepPKI(cmd, o, k, names, pause) })
		},
	}
	c.Flags().StringVar(&every, "every", "", "look again after this `time`, such as 12h (default: once)")
	return c
}

// keepPKI looks once, or each time that pause has gone by. What is as it was is told the first time alone.
func (a *app) keepPKI(cmd *cobra.Command, o *output, k pki.Keeper, names []string, pause time.Duration) error {
	for first := true; ; first = false {
		results, err := k.Keep(names)
		if err != nil && (pause == 0 || first) {
			return err
		}
		if err != nil {
			warn(cmd, "%v", err)
		}
		failed := 0
		for _, r := range results {
			if r.Change == pki.Failed {
				failed++
			}
		}
		if !first {
			results = slices.DeleteFunc(results, func(r pki.Result) bool { return r.Change == pki.Kept })
		}
		if first || len(results) > 0 {
			if err := o.pkiResults(results, true); err != nil {
				return err
			}
			if err := o.w.Flush(); err != nil {
				return err
			}
		}
		if pause == 0 {
			if failed > 0 {
				return partlyf("%s could not be made or renewed", count(failed, "certificate"))
			}
			return nil
		}
		t := time.NewTimer(pause)
		select {
		case <-cmd.Context().Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}
