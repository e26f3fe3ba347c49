package cli

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stagecoachmail/stagecoach/cmd/stagecoach/internal/pki"
)

func (a *app) pkiList(f *pki.Folder) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the certificates between services, and what is wrong with them",
		Long: `List the CA and the certificates between services, and what is wrong with them.

The exit code is 0 if all is well, 1 if one ends within 14 days or does not bear its name, 2 if one cannot be used.
In a pipe the columns are: name, end, key (fits, other or none), CA (ours or other), what is wrong.`,
		Example: `  stagecoach pki list
  stagecoach pki list --dir /etc/stagecoach/pki --json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.printed(cmd, func(o *output) error {
				list, err := f.List()
				if err != nil {
					return err
				}
				return a.showPKI(o, list)
			})
		},
	}
}

// pkiIdentity is an entry of the list in JSON.
type pkiIdentity struct {
	Name    string `json:"name"`
	Ends    string `json:"ends"`
	HasKey  bool   `json:"hasKey"`
	FitsKey bool   `json:"fitsKey"`
	OfCA    bool   `json:"ofCa"`
	Problem string `json:"problem"`
}

func (a *app) showPKI(o *output, list []pki.Identity) error {
	doc := struct {
		Certificates []pkiIdentity `json:"certificates"`
	}{}
	t := &table{head: []string{"NAME", "ENDS", "KEY", "CA", "PROBLEM"}, flexible: []int{4}}
	worst := ExitDone
	for _, i := range list {
		code, problem := problemOf(i, a.Now())
		worst = max(worst, code)
		doc.Certificates = append(doc.Certificates, pkiIdentity{i.Name, rfc3339(i.Ends), i.HasKey, i.FitsKey, i.OfCA, problem})
		key, ca := "none", "other"
		switch {
		case i.FitsKey:
			key = "fits"
		case i.HasKey:
			key = "other"
		}
		if i.OfCA {
			ca = "ours"
		}
		look := map[int]style{ExitPartly: yellow, ExitFailed: red}[code]
		t.add(text("%s", i.Name), text("%s", o.when(stampOf(i.Ends))), text("%s", key), text("%s", ca), in(look, "%s", problem))
	}
	if o.asJSON {
		if err := o.document(doc); err != nil {
			return err
		}
	} else {
		o.table(0, t)
	}
	return ExitWith(worst)
}

// problemOf says what is wrong, and how bad that is. The key of the CA may well be elsewhere, and those of persons.
func problemOf(i pki.Identity, now time.Time) (code int, problem string) {
	switch {
	case i.Problem != "":
		return ExitFailed, i.Problem
	case !i.HasKey && i.Name != "ca" && !strings.HasPrefix(i.Name, pki.PeoplePrefix):
		return ExitFailed, "there is no key"
	case i.HasKey && !i.FitsKey:
		return ExitFailed, "does not fit its key"
	case !i.OfCA:
		return ExitFailed, "is not of ca.pem"
	case now.Before(i.Begins):
		return ExitFailed, "is not valid before " + i.Begins.UTC().Format(time.DateOnly)
	case now.After(i.Ends):
		return ExitFailed, "has ended"
	case i.Ends.Sub(now) < endsSoon:
		return ExitPartly, "ends within 14 days"
	case !i.Named:
		return ExitPartly, "is for " + strings.Join(i.DNS, ", ")
	}
	return ExitDone, ""
}
