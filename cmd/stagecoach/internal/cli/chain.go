package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (a *app) chainCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "chain",
		Short: "Look at the chains, and change their stages",
		Long: `Look at the chains of the configuration file, and change their stages while mail flows.

A change is an edit of the file, whose comments and layout stay. It is checked as a whole first, and with errors nothing is
changed. It holds from the next message on; what is under way goes on as it began. Where the file is read-only, the change is
shown as a patch.`,
		Example: `  stagecoach chain list
  stagecoach chain insert outbound footer --before archive --on-error skip
  stagecoach chain remove outbound footer --dry-run
  stagecoach chain rollback`,
	}
	a.connection(c)
	a.printing(c)
	c.AddCommand(a.chainList(), a.chainShow(), a.chainInsert(), a.chainRemove(), a.chainMove(), a.chainReplace(), a.chainShadow(),
		a.chainHistory(), a.revisionDiff("chain"), a.rollback("chain"))
	return c
}

// chains gets those of the file.
func chains(ctx context.Context, conn clientConn) (*adminv1.GetConfigResponse, error) {
	resp, err := adminv1.NewConfigServiceClient(conn).GetConfig(ctx, &adminv1.GetConfigRequest{})
	if err != nil {
		return nil, err
	}
	resp.Text = "" // `config show` gives it
	return resp, nil
}

func (a *app) chainList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the chains",
		Long: `List the chains of the configuration file, in its order: the first one that matches a recipient takes it.

In a pipe the columns are: name, stages (with commas between), route.`,
		Example: `  stagecoach chain list
  stagecoach chain list --json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := chains(ctx, conn)
				if err != nil {
					return err
				}
				notInForce(cmd, resp)
				if o.asJSON {
					return o.message(resp)
				}
				separator := ","
				if o.terminal {
					separator = ", "
				}
				t := &table{head: []string{"NAME", "STAGES", "DELIVER"}, flexible: []int{1}}
				for _, c := range resp.GetChains() {
					var names []string
					for _, u := range c.GetUses() {
						names = append(names, u.GetStage())
					}
					t.add(text("%s", c.GetName()), text("%s", strings.Join(names, separator)), text("%s", c.GetDeliver()))
				}
				o.table(0, t)
				return nil
			})
		},
	}
}

func (a *app) chainShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show CHAIN",
		Short: "Show the stages of a chain",
		Long: `Show the stages of a chain, in the order in which they run.

In a pipe the columns are: stage, what happens on an error (defer, skip, quarantine), when it runs (inline: before the message is
accepted; shadow: beside the chain, without effect; queue).`,
		Example:           `  stagecoach chain show outbound`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.chainNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := chains(ctx, conn)
				if err != nil {
					return err
				}
				var known []string
				for _, c := range resp.GetChains() {
					if known = append(known, c.GetName()); c.GetName() == args[0] {
						notInForce(cmd, resp)
						return o.chain(c)
					}
				}
				return unknownChain(args[0], known)
			})
		},
	}
}

func (o *output) chain(c *adminv1.ConfigChain) error {
	if o.asJSON {
		return o.message(c)
	}
	t := &table{head: []string{"STAGE", "ON ERROR", "RUNS"}}
	for _, u := range c.GetUses() {
		onError, runs := u.GetOnError(), "queue"
		if onError == "" {
			onError = "defer"
		}
		switch {
		case u.GetInline():
			runs = "inline"
		case u.GetShadow():
			runs = "shadow"
		}
		t.add(text("%s", u.GetStage()), text("%s", onError), text("%s", runs))
	}
	o.table(0, t)
	return nil
}

// placeFlags say where a stage goes.
type placeFlags struct {
	before, after string
	first, last   bool
}

func (p *placeFlags) add(a *app, c *cobra.Command) {
	c.Flags().StringVar(&p.before, "before", "", "before this `stage` of the chain")
	c.Flags().StringVar(&p.after, "after", "", "after this `stage` of the chain")
	c.Flags().BoolVar(&p.first, "first", false, "at the beginning")
	c.Flags().BoolVar(&p.last, "last", false, "at the end")
	complete(c, "before", a.stageNames)
	complete(c, "after", a.stageNames)
}

func (p *placeFlags) place() (*adminv1.UsePlace, error) {
	var out []*adminv1.UsePlace
	if p.before != "" {
		out = append(out, &adminv1.UsePlace{Place: &adminv1.UsePlace_Before{Before: p.before}})
	}
	if p.after != "" {
		out = append(out, &adminv1.UsePlace{Place: &adminv1.UsePlace_After{After: p.after}})
	}
	if p.first {
		out = append(out, &adminv1.UsePlace{Place: &adminv1.UsePlace_First{First: true}})
	}
	if p.last {
		out = append(out, &adminv1.UsePlace{Place: &adminv1.UsePlace_Last{Last: true}})
	}
	if len(out) != 1 {
		return nil, usagef("say where: one of --before STAGE, --after STAGE, --first, --last")
	}
	return out[0], nil
}

func (a *app) chainInsert() *cobra.Command {
	var p placeFlags
	var dryRun bool
	use := &adminv1.ConfigUse{}
	c := a.chainEdit(&dryRun, "insert CHAIN STAGE", "Put a stage into a chain", 2, func(args []string) (*adminv1.EditChainRequest, error) {
		place, err := p.place()
		use.Stage = args[1]
		return &adminv1.EditChainRequest{Edit: &adminv1.EditChainRequest_Insert{Insert: &adminv1.InsertUse{Use: use, Place: place}}}, err
	})
	c.Long = `Put a stage into a chain. The stage is one of "stages" in the configuration file.`
	c.Example = `  stagecoach chain insert outbound footer --before archive --on-error skip
  stagecoach chain insert inbound tagger --last --shadow --dry-run`
	p.add(a, c)
	c.Flags().StringVar(&use.OnError, "on-error", "", "`what` happens to a message when the stage fails: defer (as if nothing is said), skip, quarantine")
	c.Flags().BoolVar(&use.Inline, "inline", false, "run it before the message is accepted")
	c.Flags().BoolVar(&use.Shadow, "shadow", false, "run it beside the chain, without effect")
	complete(c, "on-error", func(*cobra.Command) []string { return []string{"defer", "skip", "quarantine"} })
	return c
}

func (a *app) chainRemove() *cobra.Command {
	var dryRun bool
	c := a.chainEdit(&dryRun, "remove CHAIN STAGE", "Take a stage out of a chain", 2, func(args []string) (*adminv1.EditChainRequest, error) {
		return &adminv1.EditChainRequest{Edit: &adminv1.EditChainRequest_Remove{Remove: &adminv1.RemoveUse{Stage: args[1]}}}, nil
	})
	c.Long = `Take a stage out of a chain. Under "stages" it stays. A comment above it in the file stays too; one on its lines goes.`
	c.Example = `  stagecoach chain remove outbound footer`
	return c
}

func (a *app) chainMove() *cobra.Command {
	var p placeFlags
	var dryRun bool
	c := a.chainEdit(&dryRun, "move CHAIN STAGE", "Let a stage of a chain run earlier or later", 2, func(args []string) (*adminv1.EditChainRequest, error) {
		place, err := p.place()
		return &adminv1.EditChainRequest{Edit: &adminv1.EditChainRequest_Move{Move: &adminv1.MoveUse{Stage: args[1], Place: place}}}, err
	})
	c.Example = `  stagecoach chain move outbound archive --after footer`
	p.add(a, c)
	return c
}

func (a *app) chainReplace() *cobra.Command {
	var dryRun bool
	c := a.chainEdit(&dryRun, "replace CHAIN OLD NEW", "Put another stage into the place of one", 3, func(args []string) (*adminv1.EditChainRequest, error) {
		return &adminv1.EditChainRequest{Edit: &adminv1.EditChainRequest_Replace{Replace: &adminv1.ReplaceUse{Stage: args[1], By: args[2]}}}, nil
	})
	c.Long = `Put another stage into the place of one. What the file says of its use (on_error, inline, shadow) holds for the new one.`
	c.Example = `  stagecoach chain replace outbound footer footer-de`
	return c
}

// chainEdit makes a command that edits the chain named first.
func (a *app) chainEdit(dryRun *bool, use, short string, args int, edit func(args []string) (*adminv1.EditChainRequest, error)) *cobra.Command {
	var comment string
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(args),
		ValidArgsFunction: func(c *cobra.Command, given []string, s string) ([]string, cobra.ShellCompDirective) {
			if len(given) == 0 {
				return completeArgs(1, a.chainNames)(c, given, s)
			}
			return completeArgs(args, a.stageNames)(c, given, s)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := edit(args)
			if err != nil {
				return err
			}
			r.Chain, r.DryRun, r.Comment = args[0], *dryRun, comment
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				resp, err := adminv1.NewConfigServiceClient(conn).EditChain(ctx, r)
				if err != nil {
					return err
				}
				return o.edited(cmd, resp.GetChange(), *dryRun)
			})
		},
	}
	c.Flags().BoolVar(dryRun, "dry-run", false, "show what would change in the file, and change nothing")
	commentFlag(c, &comment)
	return c
}
