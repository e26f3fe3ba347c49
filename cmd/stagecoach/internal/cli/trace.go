package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

type traceFlags struct {
	since, until string
	diff         bool
	limit        int
}

func (a *app) traceCommand() *cobra.Command {
	var f traceFlags
	c := &cobra.Command{
		Use:   "trace ID|MESSAGE-ID|ADDRESS",
		Short: "Tell the way of a message, also of one that is long gone",
		Long: `Tell the way of a message, also of one that is long gone: the trail is kept for 30 days.

It is found by its id (the one from the 250), its Message-ID, or the address of its sender or of a recipient; addresses may
be patterns: *@example.com, *@*.example.com, and <> for the null reverse-path. If several match, they are listed, newest first.

The story has, in order: how it was accepted; what each stage said, how long it took and what it changed (lines with + and -;
quoted-printable as it stands, long base64 shortened); each attempt to deliver, with the host and its answer; why it waited;
what persons did; and how it is now for each recipient.

With --json one match is {"trace": …}, several are {"traces": […]}. In a pipe the columns of a list are: id, accepted,
reverse-path, recipients (with commas between), states, size, Message-ID, subject.`,
		Example: `  stagecoach trace 1k0tx62h9vmw5e4089twre9ng9
  stagecoach trace bob@example.net --since 7d
  stagecoach trace '<20261122.1@example.com>' --diff=false`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.waitingIDs()),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				return trace(ctx, cmd, adminv1.NewTraceServiceClient(conn), o, args[0], f)
			})
		},
	}
	a.connection(c)
	a.printing(c)
	c.Flags().StringVar(&f.since, "since", "", "accepted since this `time`: 24h, 7d, 2026-11-22 (default 24h; for an id no bound)")
	c.Flags().StringVar(&f.until, "until", "", "accepted before this `time`")
	c.Flags().BoolVar(&f.diff, "diff", true, "show what each stage changed")
	limitFlag(c, &f.limit)
	return c
}

func trace(ctx context.Context, cmd *cobra.Command, client adminv1.TraceServiceClient, o *output, what string, f traceFlags) error {
	since, err := o.pastTime("since", f.since)
	if err != nil {
		return err
	}
	until, err := o.pastTime("until", f.until)
	if err != nil {
		return err
	}
	if isID(what) {
		resp, err := client.GetTrace(ctx, &adminv1.GetTraceRequest{Id: what})
		if isCode(err, codes.NotFound) {
			return fmt.Errorf("the trail knows nothing of %s: it is kept for 30 days, and has what was accepted with a 250", what)
		}
		if err != nil {
			return err
		}
		return o.trace(resp, f.diff)
	}
	list, more, err := findTraces(ctx, client, what, since, until, most(cmd, o, f.limit))
	if err != nil {
		return err
	}
	switch {
	case len(list) == 0:
		hint := "look further back with --since 30d"
		if f.since != "" {
			hint = "look further back with a greater --since"
		}
		return fmt.Errorf("no message of %s was accepted in that time: %s", what, hint)
	case len(list) == 1:
		resp, err := client.GetTrace(ctx, &adminv1.GetTraceRequest{Id: list[0].GetId()})
		if err != nil {
			return err
		}
		return o.trace(resp, f.diff)
	case o.asJSON:
		return o.message(&adminv1.FindTracesResponse{Traces: list})
	}
	o.summaries(list)
	if more {
		note(cmd, o, "there are more: --limit 0 shows all")
	}
	note(cmd, o, "the story of one: stagecoach trace %s", list[0].GetId())
	return nil
}

// trace prints a story, or its JSON.
func (o *output) trace(resp *adminv1.GetTraceResponse, diff bool) error {
	if o.asJSON {
		if !diff {
			dropDiffs(resp.GetTrace())
		}
		return o.message(resp)
	}
	o.story(resp.GetTrace(), diff)
	return nil
}

func dropDiffs(t *adminv1.Trace) {
	for _, e := range t.GetEvents() {
		for _, h := range e.GetHops() {
			h.Diff = nil
		}
	}
}

// findTraces asks by what the argument looks like: a Message-ID without its brackets looks like an address.
func findTraces(ctx context.Context, client adminv1.TraceServiceClient, what string, since, until *timestamppb.Timestamp, limit int) ([]*adminv1.TraceSummary, bool, error) {
	var requests []*adminv1.FindTracesRequest
	switch {
	case what == "<>":
		requests = []*adminv1.FindTracesRequest{{Sender: what}}
	case strings.HasPrefix(what, "<"):
		requests = []*adminv1.FindTracesRequest{{MessageId: what}}
	case strings.Contains(what, "@"):
		requests = []*adminv1.FindTracesRequest{{Address: what}, {MessageId: what}}
	default:
		return nil, false, usagef("%q is no id (26 digits and small letters), no Message-ID and no address", what)
	}
	var failed error
	for _, r := range requests {
		r.Since, r.Until = since, until
		list, more, err := traces(ctx, client, r, limit)
		if err != nil && len(requests) > 1 && isCode(err, codes.InvalidArgument) {
			failed = err
			continue
		}
		if err != nil || len(list) > 0 {
			return list, more, err
		}
		failed = nil
	}
	return nil, false, failed
}

func traces(ctx context.Context, client adminv1.TraceServiceClient, r *adminv1.FindTracesRequest, limit int) (list []*adminv1.TraceSummary, more bool, err error) {
	for {
		r.PageSize = page(limit, len(list))
		resp, err := client.FindTraces(ctx, r)
		if err != nil {
			return nil, false, err
		}
		list = append(list, resp.GetTraces()...)
		r.PageToken = resp.GetNextPageToken()
		if r.PageToken == "" || limit > 0 && len(list) >= limit {
			return list, r.PageToken != "", nil
		}
	}
}

// isID says whether s is an id as mail.NewID makes them.
func isID(s string) bool {
	if len(s) != 26 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z') {
			return false
		}
	}
	return true
}

func (o *output) summaries(list []*adminv1.TraceSummary) {
	t := &table{head: []string{"ID", "ACCEPTED", "FROM", "TO", "STATE", "SUBJECT"}, flexible: []int{2, 3, 5}}
	for _, s := range list {
		id, when, from := text("%s", s.GetId()), text("%s", o.when(s.GetReceived())), text("%s", path(s.GetReversePath()))
		states := statesText(s.GetStates())
		if !o.terminal {
			t.add(id, when, from, text("%s", strings.Join(s.GetRecipients(), ",")), text("%s", states), text("%d", s.GetSize()), text("%s", s.GetMessageId()), text("%s", s.GetSubject()))
			continue
		}
		t.add(id, when, from, text("%s", few(s.GetRecipients())), in(statesStyle(s.GetStates()), "%s", states), text("%s", s.GetSubject()))
	}
	o.table(0, t)
}

// states, the worst first.
var states = []string{"waiting", "running", "reported", "deleted", "discarded", "delivered"}

// statesText is "delivered", or "1 waiting, 2 delivered".
func statesText(m map[string]uint32) string {
	names := slices.Collect(func(yield func(string) bool) {
		for _, s := range states {
			if m[s] > 0 && !yield(s) {
				return
			}
		}
		for _, s := range slices.Sorted(maps.Keys(m)) {
			if m[s] > 0 && !slices.Contains(states, s) && !yield(s) {
				return
			}
		}
	})
	if len(names) == 1 {
		return names[0]
	}
	for i, n := range names {
		names[i] = fmt.Sprintf("%d %s", m[n], n)
	}
	return strings.Join(names, ", ")
}

func statesStyle(m map[string]uint32) style {
	switch {
	case m["reported"] > 0:
		return red
	case m["waiting"] > 0:
		return yellow
	case m["delivered"] > 0 && len(m) == 1:
		return green
	}
	return normal
}
