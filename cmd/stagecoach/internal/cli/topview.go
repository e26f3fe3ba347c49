package cli

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// top prints what happened in a span, and how it is at its end.
func (o *output) top(s topSpan, status *adminv1.GetStatusResponse) {
	well := map[int]span{ExitDone: in(green, "well"), ExitPartly: in(yellow, "warnings"), ExitFailed: in(red, "critical")}[health(status)]
	at := s.to.GetAt().AsTime().In(o.location).Format(time.TimeOnly)
	o.fitting(in(bold, "%s", status.GetHostname()), text(": "), well, in(faint, "   %s, rates of the last %s, configuration %.12s", at, seconds(s.seconds), status.GetRevision()))
	r := s.rates()
	o.fitting(text("accepted %s   delivered %s   came to wait %s   refused %s   in %s/s   under way %d", perSecond(r.Accepted), perSecond(r.Delivered), perSecond(r.Waited),
		perSecond(r.Refused), bytesText(uint64(r.Bytes)), s.to.GetRunning()))
	mean, p95 := latencies(s.from.GetLatency(), s.to.GetLatency())
	o.fitting(text("from the 250 to delivery: mean %s, 95%% within %s", mean, p95))
	o.topProblems(status.GetProblems())
	o.topRooms(status)
	o.topChains(s)
	o.topStages(s, status.GetBarriers())
	o.topRoutes(s, status.GetBarriers())
	o.topListeners(s)
}

// fitting prints a line that is cut where the terminal ends.
func (o *output) fitting(spans ...span) {
	left := o.width
	for i := range spans {
		spans[i].text = clean(spans[i].text)
		if o.width > 0 {
			spans[i].text = cut(spans[i].text, max(left, 0))
			left -= columns(spans[i].text)
		}
	}
	o.line(0, spans...)
}

// mostProblems is how many are shown: the worst come first.
const mostProblems = 4

func (o *output) topProblems(list []*adminv1.Problem) {
	if len(list) == 0 {
		return
	}
	o.section("Problems")
	for i, p := range list {
		if i == mostProblems {
			o.line(2, in(faint, "%d more: stagecoach status", len(list)-i))
			return
		}
		s := red
		if p.GetSeverity() == adminv1.Severity_SEVERITY_WARNING {
			s = yellow
		}
		o.fitting(text("  "), in(s, "%s", p.GetText()))
	}
}

func (o *output) topRooms(status *adminv1.GetStatusResponse) {
	t := &table{head: []string{"ROOM", "MESSAGES", "RECIPIENTS", "SIZE", "OLDEST"}}
	for _, r := range status.GetRooms() {
		if r.GetMessages() == 0 {
			continue
		}
		oldest := ""
		if r.GetOldest() != nil {
			oldest = o.past(r.GetOldest())
		}
		t.add(in(roomStyle(r.GetName()), "%s", r.GetName()), text("%d", r.GetMessages()), text("%d", r.GetRecipients()), text("%s", bytesText(r.GetBytes())), text("%s", oldest))
	}
	o.topTable(t)
}

// topTable prints a table with a line before it, if it has rows.
func (o *output) topTable(t *table) {
	if len(t.rows) > 0 {
		o.blank()
		o.sectionTable(t)
	}
}

func (o *output) topChains(s topSpan) {
	t := &table{head: []string{"CHAIN", "ACCEPTED/S", "DELIVERED/S", "WAITED/S", "DISCARDED", "REPORTED", "HELD"}, flexible: []int{0}}
	for _, c := range s.to.GetChains() {
		was := named(s.from.GetChains(), c.GetName())
		t.add(text("%s", c.GetName()), text("%s", number(s.rate(was.GetAccepted(), c.GetAccepted()))), text("%s", number(s.rate(was.GetDelivered(), c.GetDelivered()))),
			alarm(yellow, s.rate(was.GetWaits(), c.GetWaits())), text("%d", c.GetDiscarded()), text("%d", c.GetReported()), text("%d", c.GetHeld()))
	}
	o.topTable(t)
}

func (o *output) topStages(s topSpan, barriers []*adminv1.Barrier) {
	t := &table{head: []string{"STAGE", "STATE", "RATE/S", "MEAN", "95%", "FAILED/S", "STOPPED/S", "EDITED/S"}, flexible: []int{0}}
	for _, c := range s.to.GetStages() {
		was := named(s.from.GetStages(), c.GetName())
		mean, p95 := latencies(was.GetLatency(), c.GetLatency())
		t.add(text("%s", c.GetName()), stateOf(barriers, "hop", c.GetName()), text("%s", number(s.rate(was.GetLatency().GetCount(), c.GetLatency().GetCount()))), text("%s", mean), text("%s", p95),
			alarm(red, s.rate(was.GetFailed()+was.GetSkipped(), c.GetFailed()+c.GetSkipped())), alarm(yellow, s.rate(stopped(was), stopped(c))), text("%s", number(s.rate(was.GetEdited(), c.GetEdited()))))
	}
	o.topTable(t)
}

// stopped are the verdicts that let nothing go on.
func stopped(s *adminv1.StageStatistics) uint64 {
	return s.GetRejected() + s.GetDeferred() + s.GetQuarantined() + s.GetDiscarded()
}

func (o *output) topRoutes(s topSpan, barriers []*adminv1.Barrier) {
	t := &table{head: []string{"ROUTE", "STATE", "DELIVERED/S", "DEFERRED/S", "REJECTED/S", "UNKNOWN/S"}, flexible: []int{0}}
	seen := map[string]bool{}
	for _, r := range s.to.GetRoutes() {
		seen[r.GetName()] = true
		was := named(s.from.GetRoutes(), r.GetName())
		t.add(text("%s", r.GetName()), stateOf(barriers, "route", r.GetName()), text("%s", number(s.rate(was.GetDelivered(), r.GetDelivered()))), alarm(yellow, s.rate(was.GetDeferred(), r.GetDeferred())),
			alarm(yellow, s.rate(was.GetRejected(), r.GetRejected())), alarm(red, s.rate(was.GetUnknown(), r.GetUnknown())))
	}
	for _, b := range barriers { // one that nothing went to since the start
		if b.GetKind() == "route" && !seen[b.GetName()] {
			seen[b.GetName()] = true
			t.add(text("%s", b.GetName()), stateOf(barriers, "route", b.GetName()))
		}
	}
	o.topTable(t)
}

// stateOf says whether a stage or a route is well.
func stateOf(barriers []*adminv1.Barrier, kind, name string) span {
	for _, b := range barriers {
		switch {
		case b.GetKind() != kind || b.GetName() != name:
		case b.GetBy() != "":
			return in(yellow, "paused, %d waiting", b.GetWaiting())
		default:
			return in(red, "down, %d waiting", b.GetWaiting())
		}
	}
	return in(green, "up")
}

func (o *output) topListeners(s topSpan) {
	t := &table{head: []string{"LISTENER", "SESSIONS", "NEW/S", "FAILED LOGINS"}, flexible: []int{0}}
	for _, l := range s.to.GetListeners() {
		was := named(s.from.GetListeners(), l.GetName())
		t.add(text("%s", l.GetName()), text("%d", l.GetOpen()), text("%s", number(s.rate(was.GetSessions(), l.GetSessions()))), text("%d", l.GetFailedLogins()))
	}
	o.topTable(t)
}

// alarm is a rate in a colour, if there is any.
func alarm(s style, rate float64) span {
	if rate == 0 {
		s = normal
	}
	return in(s, "%s", number(rate))
}

func number(rate float64) string {
	switch {
	case rate == 0:
		return "0"
	case rate < 10:
		return fmt.Sprintf("%.2f", rate)
	case rate < 100:
		return fmt.Sprintf("%.1f", rate)
	}
	return fmt.Sprintf("%.0f", rate)
}

func perSecond(rate float64) string { return number(rate) + "/s" }

func seconds(n float64) string { return fmt.Sprintf("%.3g s", n) }

// latencies are the mean and the 95th percentile, as texts.
func latencies(from, to *adminv1.Latency) (mean, p95 string) {
	m, p, ok := latencyBetween(from, to)
	if !ok {
		return "–", "–"
	}
	return took(durationpb.New(m)), took(durationpb.New(p))
}
