package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

// progress is how far one sample has come.
type progress struct {
	sample   *sample
	id       string
	accepted time.Time
	trace    *adminv1.Trace
	told     int // events of the trace that were shown
	became   end
	at       time.Time // of its end
	reply    string
	host     string // that gave the reply
}

// look reads the trace, and gives a line for each event that is new.
func (p *progress) look(ctx context.Context, c adminv1.TraceServiceClient) ([]string, error) {
	r, err := c.GetTrace(ctx, &adminv1.GetTraceRequest{Id: p.id})
	if status.Code(err) == codes.NotFound {
		return nil, nil // not written yet
	}
	if err != nil {
		return nil, err
	}
	p.trace = r.GetTrace()
	var lines []string
	events := p.trace.GetEvents()
	for _, e := range events[min(p.told, len(events)):] {
		lines = append(lines, p.event(e)...)
	}
	p.told = len(events)
	return lines, nil
}

func (p *progress) event(e *adminv1.TraceEvent) (lines []string) {
	for _, w := range e.GetWaits() {
		switch w.GetRoom() {
		case string(held):
			p.became, p.at = held, e.GetAt().AsTime()
			lines = append(lines, "held for a person: "+w.GetLast().GetReason())
		default:
			lines = append(lines, fmt.Sprintf("waits (%s): %s", w.GetRoom(), why(w.GetLast())))
		}
	}
	for _, d := range e.GetEnds() {
		p.at, p.reply, p.host = e.GetAt().AsTime(), replyText(d.GetFate().GetReply()), d.GetFate().GetHost()
		p.became = end(d.GetKind())
		switch p.became {
		case delivered:
			lines = append(lines, "delivered: "+p.reply)
		case reported:
			lines = append(lines, "refused, and its sender told so: "+p.reply)
		default:
			lines = append(lines, d.GetKind()+" "+d.GetReason())
		}
	}
	return lines
}

func why(f *relayv1.Fate) string {
	switch {
	case f.GetReason() != "":
		return f.GetReason()
	case f.GetReply() != nil:
		return replyText(f.GetReply())
	}
	return f.GetAbout()
}

func replyText(r *stagev1.Reply) string {
	if r == nil {
		return ""
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", r.GetCode(), r.GetEnhanced(), r.GetText()))
}

// way is what the hops did, in their order: the last time each judged; then the route, if an answer came from there.
func (p *progress) way(routes map[string]string) string {
	var order []string
	last := map[string]string{}
	for _, e := range p.trace.GetEvents() {
		for _, h := range e.GetHops() {
			r := h.GetReport()
			if _, seen := last[r.GetInstance()]; !seen {
				order = append(order, r.GetInstance())
			}
			last[r.GetInstance()] = verdict(h)
		}
	}
	var parts []string
	for _, name := range order {
		parts = append(parts, strings.TrimSpace(name+" "+last[name]))
	}
	if name, ok := routes[p.host]; ok {
		parts = append(parts, name)
	}
	return strings.Join(parts, " → ")
}

// verdict is what one stage said, in a word or two.
func verdict(h *adminv1.HopStep) string {
	r := h.GetReport()
	switch {
	case r.GetOutcome() != relayv1.Outcome_OUTCOME_VERDICT:
		return strings.ToLower(strings.TrimPrefix(r.GetOutcome().String(), "OUTCOME_"))
	case r.GetVerdict() != stagev1.Verdict_VERDICT_CONTINUE:
		return strings.ToLower(strings.TrimPrefix(r.GetVerdict().String(), "VERDICT_"))
	}
	var added, removed int
	for _, k := range h.GetDiff().GetHunks() {
		added += len(k.GetInserted())
		removed += int(k.GetLength())
	}
	switch {
	case added == 0 && removed == 0:
		return "✓"
	case removed == 0:
		return fmt.Sprintf("+%d bytes", added)
	}
	return fmt.Sprintf("+%d −%d bytes", added, removed)
}
