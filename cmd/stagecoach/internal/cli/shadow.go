package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func (a *app) chainShadow() *cobra.Command {
	var beside, since, until string
	c := &cobra.Command{
		Use:   "shadow CHAIN STAGE",
		Short: "Report what a stage in shadow would have done",
		Long: `Compare what a stage in shadow said and would have changed with what the stage beside it did: the one of its type in the same
chain, or that of --beside; without one, with a stage that lets all pass unchanged. It is computed from the trail.

Edits are the same if they replace the same bytes of the message by the same: put the stage in shadow right before the one that it is
compared with, so that both receive the same message.

In a pipe the lines are: verdicts, in shadow, beside, messages, examples (ids with commas between); and edits, same, other or
unknown, nothing, messages, examples.`,
		Example: `  stagecoach chain shadow outbound footer-new
  stagecoach chain shadow inbound scanner --beside antivirus --since 7d`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeArgs(1, a.chainNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				r := &adminv1.GetShadowReportRequest{Chain: args[0], Stage: args[1], Beside: beside}
				var err error
				if r.Since, err = o.pastTime("since", since); err != nil {
					return err
				}
				if r.Until, err = o.pastTime("until", until); err != nil {
					return err
				}
				resp, err := adminv1.NewTraceServiceClient(conn).GetShadowReport(ctx, r)
				if err != nil {
					return err
				}
				if o.asJSON {
					return o.message(resp)
				}
				if resp.GetMessages() == 0 {
					return fmt.Errorf("%s has judged nothing in shadow in chain %s in that time: look further back with --since, or see `stagecoach chain show %s`", args[1], args[0], args[0])
				}
				o.shadowReport(args[1], resp)
				return nil
			})
		},
	}
	c.Flags().StringVar(&beside, "beside", "", "compare with this `stage`")
	c.Flags().StringVar(&since, "since", "", "judged since this `time`: 24h, 7d, 2026-11-22 (default 24h)")
	c.Flags().StringVar(&until, "until", "", "judged before this `time`")
	complete(c, "beside", a.stageNames)
	return c
}

func (o *output) shadowReport(stage string, r *adminv1.GetShadowReportResponse) {
	beside := r.GetBeside()
	if beside == "" {
		beside = "nothing"
	}
	edits := []struct {
		what     string
		n        uint64
		examples []string
	}{{"same", r.GetSameEdits(), nil}, {"other", r.GetOtherEdits(), r.GetOtherEditsExamples()}, {"unknown", r.GetUnknownEdits(), nil}}
	if !o.terminal {
		t := &table{}
		for _, v := range r.GetVerdicts() {
			t.add(text("verdicts"), text("%s", v.GetShadow()), text("%s", v.GetBeside()), text("%d", v.GetMessages()), text("%s", strings.Join(v.GetExamples(), ",")))
		}
		for _, e := range edits {
			t.add(text("edits"), text("%s", e.what), text(""), text("%d", e.n), text("%s", strings.Join(e.examples, ",")))
		}
		o.table(0, t)
		return
	}
	facts := []fact{{"in shadow", text("%s judged %s", stage, count(int(r.GetMessages()), "message"))}, {"took", text("%s in the mean, %s at most", took(r.GetTook()), took(r.GetTookMost()))}}
	if r.GetFailed() > 0 {
		facts = append(facts, fact{"failed", in(red, "%s", count(int(r.GetFailed()), "message"))})
	}
	facts = append(facts, fact{"beside", text("%s", beside)})
	if r.GetBesideTook() != nil {
		facts = append(facts, fact{"it took", text("%s in the mean", took(r.GetBesideTook()))})
	}
	if r.GetAlone() > 0 {
		facts = append(facts, fact{"not compared", text("%s that it did not judge", count(int(r.GetAlone()), "message"))})
	}
	if r.GetPartly() {
		facts = append(facts, fact{"partly", in(yellow, "there were more messages than could be read in time: these are the newest")})
	}
	o.facts(0, facts...)
	o.blank()
	t := &table{head: []string{"IN SHADOW", strings.ToUpper(clean(beside)), "MESSAGES", "FOR EXAMPLE"}, flexible: []int{3}}
	for _, v := range r.GetVerdicts() {
		style := normal
		if v.GetShadow() != v.GetBeside() {
			style = yellow
		}
		t.add(in(style, "%s", v.GetShadow()), in(style, "%s", v.GetBeside()), text("%d", v.GetMessages()), text("%s", strings.Join(v.GetExamples(), " ")))
	}
	o.table(0, t)
	o.blank()
	o.line(0, text("Where both let it pass, the edits are:"))
	e := &table{}
	for _, one := range edits {
		if one.n > 0 {
			e.add(text("%s", one.what), text("%d", one.n), text("%s", strings.Join(one.examples, " ")))
		}
	}
	o.table(2, e)
}
