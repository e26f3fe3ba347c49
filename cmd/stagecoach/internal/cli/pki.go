package cli

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/pki"
	"github.com/stagecoachmail/stagecoach/internal/config"
)

// endsSoon is when a certificate is worth a warning; doctor has the same.
const endsSoon = 14 * day

func (a *app) pkiCommand() *cobra.Command {
	var f pki.Folder
	f.Now = a.Now
	c := &cobra.Command{
		Use:   "pki",
		Short: "Make and renew the certificates between services, and those of persons",
		Long: `Keep a certificate authority (CA) for this installation alone, and the certificates by which its services know each other:
the files of pki.directory. In its folder people are those by which persons call the admin API. Nothing that runs is asked.
The services read the files again when they change.`,
		Example: `  stagecoach pki init --dir pki --ca-dir ca
  stagecoach pki renew --dir pki --ca-dir ca
  stagecoach pki list --dir pki`,
	}
	a.printing(c)
	c.PersistentFlags().StringVar(&f.Dir, "dir", "pki", "`folder` of ca.pem and the certificates: pki.directory of the configuration")
	c.PersistentFlags().StringVar(&f.KeyDir, "ca-dir", "", "`folder` of ca-key.pem, which no service needs (default: that of --dir)")
	c.AddCommand(a.pkiInit(&f), a.pkiPerson(&f), a.pkiRenew(&f), a.pkiKeep(&f), a.pkiList(&f))
	return c
}

func (a *app) pkiInit(f *pki.Folder) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a CA and the certificates of all services",
		Long: `Make a CA, which is good for 10 years, and for each service a certificate for a year, with its key: for ingress, egress, admin,
and the types of stages in a configuration (-c), or all built-in ones. The keys are ECDSA P-256, the files readable for their
owner alone. Nothing is overwritten.

Who has ca-key.pem can be any service: keep it in a folder (--ca-dir) that they cannot read, best on another machine.

In a pipe the columns are: name, end.`,
		Example: `  stagecoach pki init --dir /etc/stagecoach/pki --ca-dir /root/stagecoach-ca
  stagecoach pki init -c stagecoach.yaml`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			services, err := servicesOf(file)
			if err != nil {
				return err
			}
			return a.printed(cmd, func(o *output) error {
				results, err := f.Init(services)
				if err != nil {
					return err
				}
				if f.KeyDir == "" {
					warn(cmd, "%s lies where the services can read it, and who has it can be any of them: move it to a folder of its own, and name that with --ca-dir", f.CAKeyFile())
				}
				return o.pkiResults(results, false)
			})
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "for the stages of this configuration `file` (default: all built-in ones)")
	return c
}

// servicesOf are the services that need an identity. Whether the file is right `check` says: it wants the identities first.
func servicesOf(file string) ([]pki.Service, error) {
	also := map[string][]string{"ingress": nil, "egress": nil, "admin": nil}
	if file == "" {
		for typ := range config.Builtin() {
			also[typ] = nil
		}
	} else {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("find the types of stages: %w", err)
		}
		var doc struct {
			Stages map[string]struct {
				Type     string `yaml:"type"`
				Identity string `yaml:"identity"`
			} `yaml:"stages"`
		}
		if err := yaml.Unmarshal(data, &doc); err != nil {
			return nil, fmt.Errorf("find the types of stages: %s is not to be read: see `stagecoach check %s`", file, file)
		}
		for _, name := range slices.Sorted(maps.Keys(doc.Stages)) {
			s := doc.Stages[name]
			if s.Type == "" {
				s.Type = name
			}
			names := also[s.Type]
			if s.Identity != "" && s.Identity != s.Type && !slices.Contains(names, s.Identity) {
				names = append(names, s.Identity)
			}
			also[s.Type] = names
		}
	}
	var services []pki.Service
	for _, name := range slices.Sorted(maps.Keys(also)) {
		services = append(services, pki.Service{Name: name, Also: also[name]})
	}
	return services, nil
}

func (a *app) pkiRenew(f *pki.Folder) *cobra.Command {
	r := pki.Renewal{}
	before := "30d"
	c := &cobra.Command{
		Use:   "renew [NAME...]",
		Short: "Renew the certificates that end soon, and add others",
		Long: `Give a new key and a certificate for a year to the services whose certificate ends within --before, or does not fit its key;
where nothing is to be done nothing changes, so a daily timer may run it. Services that run take the new ones up by themselves.
The files keep their owner and mode, and the certificates their names. A new one can be read by whom ca.pem can be read, but not by
everybody. Only who may be any service should be able to write the folder.

With NAMEs only those are meant. What is not there yet is made: for a foreign stage, the type that it has in the configuration.
What is of another CA is replaced; without NAMEs it is left alone.

The certificates of persons are people/NAME here, and are made by "pki person". They are renewed for as long as they were good
for; one whose key was taken away is told of only when it ends soon.

The exit code is 0 if all is well, 1 if some could not be renewed or the CA itself ends soon, 2 if nothing could be done.
In a pipe the columns are: name, made or renewed or kept or failed, end, why.`,
		Example: `  stagecoach pki renew --dir /etc/stagecoach/pki --ca-dir /root/stagecoach-ca
  stagecoach pki renew tagger
  stagecoach pki renew --all`,
		ValidArgsFunction: completeArgs(0, func(*cobra.Command) []string { return identityNames(*f) }),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if r.Before, err = period("before", before); err != nil {
				return err
			}
			if r.Before >= pki.Valid {
				return usagef("--before %s: a certificate is good for 365d, so that would renew all of them each time: --all does so once", before)
			}
			for _, name := range args {
				if err := pki.CheckName(name); err != nil {
					return usagef("%w", err)
				}
			}
			r.Names = args
			return a.printed(cmd, func(o *output) error { return a.renewPKI(cmd, o, *f, r) })
		},
	}
	c.Flags().StringVar(&before, "before", before, "what ends within this `time`, such as 30d or 12h")
	c.Flags().BoolVar(&r.All, "all", false, "whenever they end")
	return c
}

func (a *app) renewPKI(cmd *cobra.Command, o *output, f pki.Folder, r pki.Renewal) error {
	results, caEnds, err := f.Renew(r)
	if err != nil {
		return err
	}
	if err := o.pkiResults(results, true); err != nil {
		return err
	}
	bad := 0
	for _, res := range results {
		if res.Change == pki.Failed {
			bad++
		}
	}
	if bad > 0 {
		return partlyf("%s could not be renewed", count(bad, "certificate"))
	}
	if caEnds.Sub(a.Now()) < max(r.Before, endsSoon) {
		return partlyf("%s ends on %s, and with it everything that it issued: `stagecoach pki init` in a new folder makes another one", f.CAFile(), caEnds.UTC().Format(time.DateOnly))
	}
	if len(results) == 0 {
		note(cmd, o, "there are no certificates of services in %s: `stagecoach pki renew NAME` makes one", f.Dir)
	}
	return nil
}

// period reads a time of a flag: 30d, 12h.
func period(flag, s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * day, nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return d, nil
	}
	return 0, usagef("--%s %q is no duration such as 12h or 30d", flag, s)
}

// identityNames are those that can be renewed.
func identityNames(f pki.Folder) []string {
	list, err := f.List()
	if err != nil {
		return nil
	}
	var names []string
	for _, i := range list[1:] {
		names = append(names, i.Name)
	}
	return names
}

// warn says on the error output what is done and yet doubtful.
func warn(cmd *cobra.Command, format string, args ...any) {
	cmd.PrintErrln("warning:", clean(fmt.Sprintf(format, args...)))
}

// pkiResult is a result in JSON.
type pkiResult struct {
	Name   string `json:"name"`
	Change string `json:"change"`
	Ends   string `json:"ends"`
	Why    string `json:"why"`
}

// pkiResults tells what became of identities.
func (o *output) pkiResults(results []pki.Result, changes bool) error {
	if o.asJSON {
		doc := struct {
			Certificates []pkiResult `json:"certificates"`
		}{[]pkiResult{}}
		for _, r := range results {
			doc.Certificates = append(doc.Certificates, pkiResult{r.Name, string(r.Change), rfc3339(r.Ends), r.Why})
		}
		return o.document(doc)
	}
	t := &table{head: []string{"NAME", "ENDS"}}
	if changes {
		t = &table{head: []string{"NAME", "CHANGE", "ENDS", "WHY"}, flexible: []int{3}}
	}
	for _, r := range results {
		name, ends := text("%s", r.Name), text("%s", o.when(stampOf(r.Ends)))
		if !changes {
			t.add(name, ends)
			continue
		}
		look := map[pki.Change]style{pki.Made: green, pki.Renewed: green, pki.Kept: faint, pki.Failed: red}
		t.add(name, in(look[r.Change], "%s", string(r.Change)), ends, text("%s", r.Why))
	}
	o.table(0, t)
	return nil
}

// stampOf is t, or nil where there is none.
func stampOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
