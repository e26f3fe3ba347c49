package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// eventKinds are the parts of an event, in the order in which they are told.
var eventKinds = []string{"accepted", "hop", "fate", "end", "wait", "text"}

func (a *app) tailCommand() *cobra.Command {
	r := &adminv1.TailEventsRequest{}
	c := &cobra.Command{
		Use:   "tail",
		Short: "Follow what happens to messages, as it happens",
		Long: `Follow what happens to messages from now on, until it is interrupted: a line for each event.

Who reads too slowly misses some, and is told how many. What the stages changed is left out: "stagecoach trace ID" has it.

In a pipe the columns are: time, id, what (accepted, the name of a stage, attempt, end, waits, person, note), for whom, and what
happened. With --json each line is one document.`,
		Example: `  stagecoach tail
  stagecoach tail --address '*@example.com' --kind end,wait
  stagecoach tail --chain outbound --json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				stream, err := adminv1.NewEventServiceClient(conn).TailEvents(ctx, r)
				if err != nil {
					return err
				}
				for {
					e, err := stream.Recv()
					switch {
					case errors.Is(err, io.EOF), err != nil && ctx.Err() != nil:
						return nil // that is how it ends
					case err != nil:
						return err
					}
					if err := o.followed(e); err != nil {
						return err
					}
				}
			})
		},
	}
	a.connection(c)
	a.printing(c)
	c.Flags().StringVar(&r.Id, "id", "", "of this message alone, by its `id`")
	c.Flags().StringVar(&r.Address, "address", "", "sender or recipient: an `address` or a pattern such as *@example.com; <> is the null sender")
	c.Flags().StringVar(&r.Chain, "chain", "", "of this `chain`")
	c.Flags().StringSliceVar(&r.Kinds, "kind", nil, "of these `kinds`: "+strings.Join(eventKinds, ", ")+" (default: all)")
	complete(c, "chain", a.chainNames)
	complete(c, "kind", func(*cobra.Command) []string { return eventKinds })
	return c
}

// followed prints what a response tells, at once.
func (o *output) followed(e *adminv1.TailEventsResponse) error {
	if o.asJSON {
		doc, err := protoJSON(e)
		if err != nil {
			return err
		}
		var line bytes.Buffer
		if err := json.Compact(&line, doc); err != nil {
			return err
		}
		o.raw(append(escapeJSON(line.Bytes()), '\n'))
		return o.w.Flush()
	}
	if e.GetMissed() > 0 {
		o.row(nil, "", "missed", "", in(yellow, "%s left out: they came too fast", count(int(e.GetMissed()), "event")))
	}
	if e.GetEvent() != nil {
		o.followedEvent(e)
	}
	return o.w.Flush()
}

func (o *output) followedEvent(r *adminv1.TailEventsResponse) {
	e, m := r.GetEvent(), r.GetMessage()
	row := func(at *timestamppb.Timestamp, what, to string, spans ...span) {
		o.row(at, r.GetId(), what, to, spans...)
	}
	to := func(ids []string) string {
		all := len(m.GetRecipients())
		if all > 0 && len(ids) < all {
			return fmt.Sprintf("%d of %d recipients", len(ids), all)
		}
		return few(m.GetRecipients())
	}
	if r.GetAccepted() {
		row(e.GetAt(), "accepted", few(m.GetRecipients()), text("from %s", path(m.GetReversePath())), in(faint, "  %s  %s", bytesText(m.GetSize()), m.GetSubject()))
	}
	for _, h := range e.GetHops() {
		spans := []span{hopText(h.GetReport()), tookSpan(h.GetReport())}
		if h.GetShadow() || h.GetReport().GetShadow() {
			spans = append(spans, in(faint, "  in shadow: without effect"))
		}
		at := h.GetAt()
		if at == nil {
			at = e.GetAt()
		}
		row(at, h.GetReport().GetInstance(), to(h.GetReport().GetRecipients()), spans...)
	}
	for _, f := range e.GetFates() {
		row(e.GetAt(), "attempt", to([]string{f.GetRecipient()}), in(fateStyle(f), "%s", fateText(f)))
	}
	for _, end := range e.GetEnds() {
		what, style := endText(end)
		row(e.GetAt(), "end", to(end.GetRecipients()), in(style, "%s", what))
	}
	for _, w := range e.GetWaits() {
		how := "in " + w.GetRoom()
		if w.GetNext() != nil {
			how += ", next " + o.stamp(w.GetNext())
		}
		row(e.GetAt(), "waits", to(w.GetRecipients()), in(yellow, "%s", because(how, fateText(w.GetLast()))))
	}
	switch {
	case e.GetText() != "" && e.GetActor() != "":
		row(e.GetAt(), "person", "", text("%s: %s", e.GetActor(), e.GetText()))
	case e.GetText() != "":
		row(e.GetAt(), "note", "", text("%s", e.GetText()))
	}
}

// row is one line of what is followed.
func (o *output) row(at *timestamppb.Timestamp, id, what, to string, spans ...span) {
	clock := ""
	if at != nil {
		t := at.AsTime()
		switch {
		case !o.terminal:
			clock = t.Format(time.RFC3339Nano)
		case o.utc:
			clock = t.Format("15:04:05.000")
		default:
			clock = t.In(o.location).Format("15:04:05.000")
		}
	}
	if !o.terminal {
		var b strings.Builder
		for _, s := range spans {
			b.WriteString(s.text)
		}
		o.table(0, &table{rows: [][]span{{text("%s", clock), text("%s", id), text("%s", what), text("%s", to), text("%s", b.String())}}})
		return
	}
	if to != "" {
		to += ": "
	}
	line := append([]span{in(faint, "%-12s  %-26s  ", clock, id), text("%-12s  ", clean(what)), text("%s", clean(to))}, spans...)
	for i := range line {
		line[i].text = clean(line[i].text)
	}
	o.line(0, line...)
}
