package cli

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// revisionsPage is how many revisions are asked for: all that are kept.
const revisionsPage = 200

// revisions gets the history of the file, the newest first.
func revisions(ctx context.Context, conn clientConn) (*adminv1.ListRevisionsResponse, error) {
	c := adminv1.NewConfigServiceClient(conn)
	all := &adminv1.ListRevisionsResponse{}
	for token := ""; ; {
		resp, err := c.ListRevisions(ctx, &adminv1.ListRevisionsRequest{PageSize: revisionsPage, PageToken: token})
		if err != nil {
			return nil, err
		}
		all.Revisions = append(all.Revisions, resp.GetRevisions()...)
		if token = resp.GetNextPageToken(); token == "" {
			return all, nil
		}
	}
}

const historyColumns = `
In a pipe the columns are: revision, time, who, what, comment, "current" for the file as it stands.`

func (a *app) configHistory() *cobra.Command {
	return &cobra.Command{
		Use:   "history",
		Short: "List what the configuration file was, the newest first",
		Long: `List what the configuration file was, the newest first: what was changed by command, with who did it and why, and what was
changed in the file and came into force. The last 200 are kept.
` + historyColumns,
		Example: `  stagecoach config history
  stagecoach config history --json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := revisions(ctx, conn)
				if err != nil {
					return err
				}
				return o.history(resp)
			})
		},
	}
}

func (a *app) chainHistory() *cobra.Command {
	return &cobra.Command{
		Use:   "history [CHAIN]",
		Short: "List what the configuration file was, or when a chain changed",
		Long: `List what the configuration file was, the newest first. With the name of a chain, only the revisions in which that chain came,
changed or went; what became of its stages' own settings, or of other chains before it, is not looked at.
` + historyColumns,
		Example: `  stagecoach chain history
  stagecoach chain history outbound`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeArgs(1, a.chainNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := revisions(ctx, conn)
				if err == nil && len(args) > 0 {
					err = ofChain(ctx, conn, args[0], resp)
				}
				if err != nil {
					return err
				}
				return o.history(resp)
			})
		},
	}
}

// ofChain leaves the revisions in which a chain is another than in the one before.
func ofChain(ctx context.Context, conn clientConn, name string, r *adminv1.ListRevisionsResponse) error {
	var kept []*adminv1.ConfigRevision
	var known []string
	var was any // nothing before the first revision
	for i := len(r.GetRevisions()) - 1; i >= 0; i-- {
		rev := r.GetRevisions()[i].GetRevision()
		resp, err := adminv1.NewConfigServiceClient(conn).GetRevision(ctx, &adminv1.GetRevisionRequest{Revision: rev, With: rev})
		if err != nil {
			return err
		}
		is, names := chainIn(resp.GetText(), name)
		if !reflect.DeepEqual(was, is) {
			kept = append([]*adminv1.ConfigRevision{r.GetRevisions()[i]}, kept...)
		}
		was, known = is, names
	}
	r.Revisions = kept
	if len(kept) == 0 {
		return unknownChain(name, known)
	}
	return nil
}

// chainIn is what a file says of a chain, nil if nothing, and the names of all its chains. Whether the file is right is
// not looked at.
func chainIn(text, name string) (chain any, names []string) {
	var file struct {
		Chains []map[string]any `yaml:"chains"`
	}
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		return nil, nil
	}
	for _, c := range file.Chains {
		n, ok := c["name"].(string)
		if ok {
			names = append(names, n)
		}
		if ok && n == name && chain == nil {
			chain = c
		}
	}
	return chain, names
}

// history prints the revisions.
func (o *output) history(r *adminv1.ListRevisionsResponse) error {
	if o.asJSON {
		return o.message(r)
	}
	t := &table{head: []string{"REVISION", "WHEN", "BY", "WHAT", "COMMENT", ""}, flexible: []int{3, 4}}
	for _, e := range r.GetRevisions() {
		revision, current := e.GetRevision(), ""
		if o.terminal {
			revision = short(revision)
		}
		if e.GetCurrent() {
			current = "current"
		}
		t.add(text("%s", revision), text("%s", o.when(e.GetAt())), text("%s", e.GetBy()), text("%s", e.GetWhat()), text("%s", e.GetComment()), in(green, "%s", current))
	}
	o.table(0, t)
	return nil
}

// short is as much of a revision as a person needs.
func short(revision string) string { return fmt.Sprintf("%.12s", revision) }

// rollback makes the command of that name, which stands below chain as well as below config.
func (a *app) rollback(parent string) *cobra.Command {
	r := &adminv1.RollbackConfigRequest{}
	c := &cobra.Command{
		Use:   "rollback [REVISION]",
		Short: "Put an earlier revision of the configuration file in force again",
		Long: `Put an earlier revision of the configuration file in force again: the whole file, with all that it says. Without a revision it is
the one before the file as it stands, so doing that twice changes nothing. The history has this as a new entry.

It is checked first, as any other change: a revision that names what is no longer there is refused.`,
		Example: `  stagecoach ` + parent + ` rollback --dry-run
  stagecoach ` + parent + ` rollback 1f0c9a2e77b4 --comment "the footer broke signatures"`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeArgs(1, a.revisionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Revision = strings.Join(args, "")
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewConfigServiceClient(conn).RollbackConfig(ctx, r)
				if err != nil {
					return err
				}
				return o.edited(cmd, resp.GetChange(), r.GetDryRun())
			})
		},
	}
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "show what would change in the file, and change nothing")
	commentFlag(c, &r.Comment)
	return c
}

func commentFlag(c *cobra.Command, comment *string) {
	c.Flags().StringVar(comment, "comment", "", "`why`, in one line, for the history")
}

// revisionDiff makes the command diff.
func (a *app) revisionDiff(parent string) *cobra.Command {
	return &cobra.Command{
		Use:   "diff [REVISION] [REVISION]",
		Short: "Show how two revisions of the configuration file differ",
		Long: `Show how two revisions of the configuration file differ. The second one is the file as it stands unless it is named, the first
one that before it.

In a pipe the output is a patch.`,
		Example: `  stagecoach ` + parent + ` diff
  stagecoach ` + parent + ` diff 1f0c9a2e77b4`,
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: completeArgs(2, a.revisionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := &adminv1.GetRevisionRequest{}
			if len(args) > 0 {
				r.Revision = args[0]
			}
			if len(args) > 1 {
				r.With = args[1]
			}
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewConfigServiceClient(conn).GetRevision(ctx, r)
				if err != nil {
					return err
				}
				if o.asJSON {
					return o.message(resp)
				}
				if resp.GetDiff() == "" {
					note(cmd, o, "they are the same")
				}
				o.plan(resp.GetPlan())
				o.unified(resp.GetDiff())
				return nil
			})
		},
	}
}

// revisionNames are those of the history, for the shell.
func (a *app) revisionNames(c *cobra.Command) []string {
	var names []string
	a.briefly(c, func(ctx context.Context, conn clientConn) {
		resp, err := adminv1.NewConfigServiceClient(conn).ListRevisions(ctx, &adminv1.ListRevisionsRequest{PageSize: completeMost})
		if err != nil {
			return
		}
		for _, r := range resp.GetRevisions() {
			names = append(names, short(r.GetRevision())+"\t"+clean(r.GetWhat()))
		}
	})
	return names
}
