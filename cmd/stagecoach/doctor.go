package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/cli"
	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/doctor"
	"github.com/stagecoachmail/stagecoach/internal/config"
)

func doctorCommand() *cobra.Command {
	var file string
	var up, asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong with an installation, and what to do",
		Long: `Look at the configuration, the ports, the DNS (hostname, MX, SPF, DKIM, DMARC), the routes with their logins, NATS,
clamd, the clock and the disk, from this machine, and say what is wrong and what to do. No mail is sent, and nothing is
changed. It takes less than 30 seconds. Run it as the user that stagecoach runs as.

The exit code is 0 if all is well, 1 with warnings, 2 with errors.`,
		Example: `  stagecoach doctor --up
  stagecoach doctor -c /etc/stagecoach/stagecoach.yaml --json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := doctor.Run(cmd.Context(), patient(file, up), doctor.Checks())
			out := cmd.OutOrStdout()
			var err error
			if asJSON {
				err = doctor.PrintJSON(out, findings)
			} else {
				f, ok := out.(*os.File)
				err = doctor.Print(out, findings, ok && term.IsTerminal(int(f.Fd())))
			}
			if err != nil {
				return err
			}
			return cli.ExitWith(exitCode(doctor.Worst(findings)))
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "configuration `file` (default: stagecoach.yaml; with --up the built-in one, if that is not there)")
	c.Flags().BoolVar(&up, "up", false, "as stagecoach up reads it: stages and egress need no address")
	c.Flags().BoolVar(&asJSON, "json", false, "print an array of findings")
	return c
}

// patient reads what is to be looked at, the way `up` and `run` do.
func patient(file string, up bool) *doctor.Env {
	reading := config.Options{Factories: factories()}
	if up {
		reading.Mode = config.ModeUp
		cfg, used, err := loadUp(reading, upOptions{file: file, dataDir: "data"})
		if used == "" {
			used = file
		}
		return doctor.System(cfg, used, true, err)
	}
	if file == "" {
		file = defaultFile
	}
	cfg, err := reading.Load(file)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w (there is a built-in one for `stagecoach up`: --up)", err)
	}
	return doctor.System(cfg, file, false, err)
}

func exitCode(worst doctor.Level) int {
	switch worst {
	case doctor.Warning:
		return cli.ExitPartly
	case doctor.Error:
		return cli.ExitFailed
	}
	return cli.ExitDone
}
