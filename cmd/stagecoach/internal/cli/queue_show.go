package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

func (a *app) queueShow() *cobra.Command {
	var raw bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Tell everything about a message that waits",
		Long: `Tell everything about a message that waits: its envelope, and for each group of recipients why it waits, which stages are
behind it, and what comes next. With --raw its bytes, as they were accepted; on a terminal they are escaped.`,
		Example: `  stagecoach queue show 1k0tx62h9vmw5e4089twre9ng9
  stagecoach queue show 1k0tx62h9vmw5e4089twre9ng9 --raw > message.eml`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeArgs(1, a.waitingIDs()),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				client := adminv1.NewQueueServiceClient(conn)
				if raw {
					return showRaw(ctx, client, o, args[0])
				}
				resp, err := client.GetMessage(ctx, &adminv1.GetMessageRequest{Id: args[0]})
				if err != nil {
					return err
				}
				if o.asJSON {
					return o.message(resp)
				}
				o.waiting(resp.GetMessage())
				return nil
			})
		},
	}
	c.Flags().BoolVar(&raw, "raw", false, "the bytes of the message")
	return c
}

func showRaw(ctx context.Context, client adminv1.QueueServiceClient, o *output, id string) error {
	stream, err := client.GetContent(ctx, &adminv1.GetContentRequest{Id: id})
	if err != nil {
		return err
	}
	w := o.bytes()
	for {
		resp, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			w.end()
			return nil
		case err != nil:
			return err
		}
		w.write(resp.GetChunk())
	}
}

// rawWriter prints the bytes of a message: as they are, but on a terminal line by line and escaped.
type rawWriter struct {
	o    *output
	rest []byte
}

func (o *output) bytes() *rawWriter { return &rawWriter{o: o} }

func (w *rawWriter) write(p []byte) {
	if !w.o.terminal {
		w.o.raw(p)
		return
	}
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			return
		}
		w.o.put(escape(strings.TrimSuffix(string(line), "\r"), true) + "\n")
		w.rest = rest
	}
}

func (w *rawWriter) end() {
	if len(w.rest) > 0 {
		w.o.put(escape(string(w.rest), true) + "\n")
	}
}

// waiting tells of a message that waits.
func (o *output) waiting(m *adminv1.WaitingMessage) {
	e := m.GetEnvelope()
	to := addressesOf(e)
	o.line(0, in(bold, "%s", m.GetId()))
	o.facts(2, append([]fact{
		{"from", text("%s", path(e.GetReversePath()))},
		{"accepted", text("%s", o.moment(m.GetReceived()))},
		{"size", text("%s", bytesText(m.GetSize()))},
		{"shard", text("%s", m.GetShard())},
	}, originFacts(e)...)...)
	for _, g := range m.GetGroups() {
		o.blank()
		o.line(0, in(roomStyle(g.GetRoom()), "%s", g.GetRoom()), text(": %s of chain %s", count(len(g.GetRecipients()), "recipient"), g.GetChain()))
		facts := []fact{{"to", text("%s", to.list(g.GetRecipients(), 0))}, {"since", text("%s", o.moment(g.GetSince()))}, {"attempts", text("%d", g.GetAttempts())}}
		if g.GetLast() != nil {
			facts = append(facts, fact{"last answer", in(fateStyle(g.GetLast()), "%s", fateText(g.GetLast()))})
		}
		facts = append(facts, fact{"done", text("%s", hopsDone(g))}, fact{"released", text("%s", strings.Join(g.GetReleased(), ", "))}, fact{"next", text("%s", o.comesNext(m.GetId(), g))})
		o.facts(2, facts...)
	}
}

// originFacts tell how a message came in.
func originFacts(e *stagev1.Envelope) []fact {
	r := e.GetOrigin()
	if r == nil {
		return nil
	}
	let := "a stranger"
	if r.GetRelay() != "" {
		let = "relay rule " + r.GetRelay()
	}
	client := r.GetClient()
	if r.GetHelo() != "" {
		client += " (" + r.GetHelo() + ")"
	}
	crypt := "no TLS"
	if r.GetTls() {
		crypt = "TLS"
	}
	parts := []string{client, crypt}
	if r.GetUser() != "" {
		parts = append(parts, "logged in as "+r.GetUser())
	}
	if r.GetListener() != "" {
		parts = append(parts, "listener "+r.GetListener())
	}
	return []fact{{"came from", text("%s", strings.Join(parts, ", "))}, {"let in by", text("%s, %s", let, r.GetDirection())}}
}

// hopsDone names the stages behind a group, with what they did.
func hopsDone(g *adminv1.WaitingGroup) string {
	var parts []string
	for _, r := range g.GetDone() {
		what := ""
		switch {
		case r.GetOutcome() == relayv1.Outcome_OUTCOME_SKIPPED:
			what = " (skipped)"
		case r.GetEditsOmitted():
			what = " (its edits were too large to be kept: it is run again)"
		case edits(r.GetEdits()):
			what = " (changed it)"
		}
		parts = append(parts, r.GetInstance()+what)
	}
	return strings.Join(parts, ", ")
}

func edits(e *stagev1.Edits) bool {
	return len(e.GetSplices()) > 0 || len(e.GetRewrites()) > 0 || e.GetReversePath() != nil
}

// comesNext says in words what wakes a group, and where it goes on.
func (o *output) comesNext(id string, g *adminv1.WaitingGroup) string {
	where := "from the start of the chain"
	if n := len(g.GetDone()); n > 0 {
		where = "after " + g.GetDone()[n-1].GetInstance()
	}
	then := fmt.Sprintf("it goes on %s", where)
	if g.GetRoute() != "" {
		then += ", out by route " + g.GetRoute()
	} else {
		then = "its chain is gone, so another is looked for"
	}
	switch g.GetRoom() {
	case "retry":
		return fmt.Sprintf("%s %s; now: `stagecoach queue retry %s`", o.moment(g.GetNext()), then, id)
	case "park":
		what := waitedFor(g.GetLast())
		if what == "" {
			what = "what it needs"
		}
		return fmt.Sprintf("when %s is back %s, by itself", what, then)
	case "demand":
		return "when someone asks for it, " + then
	case "quarantine":
		if g.GetLast().GetByError() || g.GetLast().GetAbout() == "" {
			return fmt.Sprintf("a person decides: `stagecoach quarantine release %s`, and %s; or delete", id, then)
		}
		return fmt.Sprintf("a person decides: `stagecoach quarantine release %s` lets it pass %s; or delete", id, g.GetLast().GetAbout())
	case "dead":
		return fmt.Sprintf("nothing by itself: `stagecoach queue release %s` tries it once more where it is; or delete", id)
	}
	return then
}
