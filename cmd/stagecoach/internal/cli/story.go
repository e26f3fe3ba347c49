package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
)

// fewRecipients is how many recipients are named in a line of a story.
const fewRecipients = 5

// story tells the way of a message, in order.
func (o *output) story(t *adminv1.Trace, diff bool) {
	e := t.GetEnvelope()
	s := &teller{o: o, to: addressesOf(e), diff: diff, several: chainsOf(t) > 1, states: map[string]span{}}
	o.line(0, in(bold, "%s", t.GetId()))
	facts := []fact{
		{"subject", text("%s", t.GetSubject())},
		{"message-id", text("%s", t.GetMessageId())},
	}
	if e != nil {
		var all []string
		for _, r := range e.GetRecipients() {
			all = append(all, r.GetAddress())
		}
		facts = append(facts, fact{"from", text("%s", path(e.GetReversePath()))}, fact{"to", text("%s", some(all, 20))})
	}
	if t.GetSize() > 0 {
		facts = append(facts, fact{"size", text("%s", bytesText(t.GetSize()))})
	}
	facts = append(facts, fact{"accepted", text("%s", o.moment(t.GetReceived()))})
	facts = append(facts, originFacts(e)...)
	if t.GetReports() != "" {
		facts = append(facts, fact{"report", text("about the message %s: `stagecoach trace %s`", t.GetReports(), t.GetReports())})
	}
	o.facts(2, facts...)
	if !t.GetAccepted() {
		o.line(2, in(yellow, "its acceptance is not in the trail: any more, or not yet"))
	}
	o.blank()
	if t.GetReceived() != nil {
		s.at(t.GetReceived(), "accepted", text("with a 250"))
	}
	if diff {
		for _, l := range lines(t.GetPrepended()) {
			o.diffLine(storyIndent+2, cutLine(diffLine{added, l}))
		}
	}
	for i, event := range t.GetEvents() {
		if i == 0 || !toldBy(t.GetEvents()[i-1], event) {
			s.event(event)
		}
	}
	s.end(t)
}

// teller keeps what a story has told so far.
type teller struct {
	o    *output
	to   addresses
	diff bool
	// several: the message went along more than one chain, so that each has to be named.
	several bool
	day     string
	states  map[string]span // by recipient, what is known last
}

func chainsOf(t *adminv1.Trace) int {
	seen := map[string]bool{}
	for _, e := range t.GetEvents() {
		if e.GetChain() != "" {
			seen[e.GetChain()] = true
		}
	}
	return len(seen)
}

// at tells one thing at its time; a new day is told before.
func (s *teller) at(at *timestamppb.Timestamp, what string, spans ...span) {
	clock := strings.Repeat(" ", len("15:04:05.000"))
	if at != nil {
		t := at.AsTime()
		if s.o.terminal && !s.o.utc {
			t = t.In(s.o.location)
		}
		if d := t.Format(time.DateOnly); d != s.day {
			s.day = d
			zone := t.Format(" MST")
			s.o.line(0, in(faint, "%s%s", d, zone))
		}
		clock = t.Format("15:04:05.000")
	}
	s.o.line(0, append([]span{in(faint, "%s  ", clock), text("%-12s  ", what)}, spans...)...)
}

const storyIndent = len("15:04:05.000") + 2

// toldBy: a person's action that the wait before it has as its reason.
func toldBy(before, e *adminv1.TraceEvent) bool {
	return e.GetActor() != "" && len(e.GetHops())+len(e.GetFates())+len(e.GetEnds())+len(e.GetWaits()) == 0 &&
		slices.ContainsFunc(before.GetWaits(), func(w *adminv1.TraceWait) bool { return !awake(before, w) && w.GetLast().GetReason() == e.GetText() })
}

// awake: a wait that ended where it began, since a person let the message go on.
func awake(e *adminv1.TraceEvent, w *adminv1.TraceWait) bool {
	return w.GetRoom() == "retry" && w.GetNext() != nil && e.GetAt() != nil && !w.GetNext().AsTime().After(e.GetAt().AsTime())
}

func (s *teller) event(e *adminv1.TraceEvent) {
	switch {
	case e.GetActor() != "" && strings.Contains(e.GetText(), "by "+e.GetActor()):
		s.at(e.GetAt(), "person", in(bold, "%s", e.GetText()))
	case e.GetActor() != "" && e.GetText() != "":
		s.at(e.GetAt(), "person", in(bold, "%s", e.GetActor()), text(": %s", e.GetText()))
	case e.GetActor() != "":
		s.at(e.GetAt(), "person", in(bold, "%s", e.GetActor()))
	case e.GetText() != "":
		s.at(e.GetAt(), "note", text("%s", e.GetText()))
	}
	if len(e.GetKept()) > 0 {
		s.at(e.GetAt(), "goes on", text("after %s, which %s not run again", strings.Join(e.GetKept(), ", "), isAre(len(e.GetKept()))))
	}
	for _, h := range e.GetHops() {
		at := h.GetAt()
		if at == nil {
			at = e.GetAt()
		}
		s.hop(at, e.GetChain(), h)
	}
	told := s.fates(e.GetAt(), e.GetFates())
	for _, end := range e.GetEnds() {
		s.ended(e.GetAt(), end, told)
	}
	for _, w := range e.GetWaits() {
		if awake(e, w) {
			for _, r := range w.GetRecipients() {
				delete(s.states, r)
			}
			continue
		}
		s.waits(e.GetAt(), w, told)
	}
}

// hop tells what a stage said, how long it took, and what it changed.
func (s *teller) hop(at *timestamppb.Timestamp, chain string, h *adminv1.HopStep) {
	r := h.GetReport()
	spans := []span{hopText(r), tookSpan(r)}
	if h.GetShadow() || r.GetShadow() {
		spans = append(spans, in(faint, "  in shadow: without effect"))
	}
	if s.several && chain != "" {
		spans = append(spans, in(faint, "  chain %s", chain))
	}
	if len(s.to) > 1 && len(r.GetRecipients()) < len(s.to) {
		spans = append(spans, in(faint, "  for %s", s.to.list(r.GetRecipients(), fewRecipients)))
	}
	s.at(at, r.GetInstance(), spans...)
	for _, n := range r.GetNotes() {
		s.o.line(storyIndent+2, in(faint, "%s: ", n.GetKey()), text("%s", n.GetValue()))
	}
	switch {
	case h.GetDiff() == nil:
	case s.diff:
		s.o.diff(storyIndent+2, h.GetDiff(), s.to)
	case changes(h.GetDiff()) > 0:
		s.o.line(storyIndent+2, in(faint, "changed it in %s", count(changes(h.GetDiff()), "place")))
	}
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func tookSpan(r *relayv1.HopReport) span {
	if r.GetTook() == nil {
		return span{}
	}
	return in(faint, "  %s", took(r.GetTook()))
}

func changes(d *adminv1.Diff) int {
	n := len(d.GetHunks()) + len(d.GetRewrites())
	if d.ReversePath != nil {
		n++
	}
	return n
}

// fates tells each outcome once, with all recipients that had it, and gives the recipients that were told of.
func (s *teller) fates(at *timestamppb.Timestamp, fates []*relayv1.Fate) map[string]relayv1.FateKind {
	told := map[string]relayv1.FateKind{}
	for i, f := range fates {
		if _, ok := told[f.GetRecipient()]; ok {
			continue
		}
		var who []string
		for _, g := range fates[i:] {
			if sameFate(f, g) {
				who = append(who, g.GetRecipient())
				told[g.GetRecipient()] = g.GetKind()
			}
		}
		s.at(at, "attempt", text("%s: ", s.to.list(who, fewRecipients)), in(fateStyle(f), "%s", fateText(f)))
	}
	return told
}

func sameFate(a, b *relayv1.Fate) bool {
	c := proto.Clone(b).(*relayv1.Fate)
	c.Recipient = a.GetRecipient()
	return proto.Equal(a, c)
}

// endText says how recipients ended.
func endText(e *adminv1.TraceEnd) (what string, style style) {
	what = e.GetKind()
	if e.GetFate() != nil && (what == "delivered" || what == "discarded") {
		what = fateText(e.GetFate())
	} else if e.GetReason() != "" {
		what += ": " + e.GetReason()
	}
	switch e.GetKind() {
	case "delivered":
		style = green
	case "reported":
		style = red
	}
	return what, style
}

func (s *teller) ended(at *timestamppb.Timestamp, e *adminv1.TraceEnd, told map[string]relayv1.FateKind) {
	what, style := endText(e)
	for _, r := range e.GetRecipients() {
		s.states[r] = in(style, "%s", what)
	}
	// That an attempt delivered it was told just now.
	plain := e.GetKind() == "delivered" || e.GetKind() == "discarded"
	if !plain || slices.ContainsFunc(e.GetRecipients(), func(r string) bool { _, ok := told[r]; return !ok }) {
		s.at(at, "end", text("%s: ", s.to.list(e.GetRecipients(), fewRecipients)), in(style, "%s", what))
	}
}

func (s *teller) waits(at *timestamppb.Timestamp, w *adminv1.TraceWait, told map[string]relayv1.FateKind) {
	how := "in " + w.GetRoom()
	if w.GetNext() != nil {
		how += ", next " + s.o.moment(w.GetNext())
	}
	for _, r := range w.GetRecipients() {
		s.states[r] = in(yellow, "waits %s", how)
	}
	if w.GetAttempts() > 0 {
		how += fmt.Sprintf(", after %s", count(int(w.GetAttempts()), "attempt"))
	}
	if w.GetLast() != nil && slices.ContainsFunc(w.GetRecipients(), func(r string) bool { _, ok := told[r]; return !ok }) {
		how += ": " + fateText(w.GetLast())
	}
	s.at(at, "waits", text("%s: ", s.to.list(w.GetRecipients(), fewRecipients)), in(yellow, "%s", how))
}

// end tells how it is now, for each recipient.
func (s *teller) end(t *adminv1.Trace) {
	if len(t.GetEnvelope().GetRecipients()) == 0 {
		return
	}
	s.o.blank()
	var facts []fact
	for _, r := range t.GetEnvelope().GetRecipients() {
		state, ok := s.states[r.GetId()]
		if !ok {
			state = in(yellow, "under way")
		}
		facts = append(facts, fact{r.GetAddress(), state})
	}
	s.o.facts(0, facts...)
}
