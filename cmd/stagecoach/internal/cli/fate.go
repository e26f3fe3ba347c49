package cli

import (
	"fmt"
	"strings"

	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

// replyText is an SMTP reply in one line, with what only operators are told.
func replyText(r *stagev1.Reply) string {
	if r == nil {
		return ""
	}
	var parts []string
	if r.GetCode() != 0 {
		parts = append(parts, fmt.Sprint(r.GetCode()))
	}
	for _, s := range []string{r.GetEnhanced(), r.GetText()} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if p := r.GetPrivate(); p != "" && p != r.GetText() {
		parts = append(parts, "("+p+")")
	}
	return strings.Join(parts, " ")
}

// fateText says what became of a recipient, without the recipient.
func fateText(f *relayv1.Fate) string {
	about := concerned(f)
	switch f.GetKind() {
	case relayv1.FateKind_FATE_KIND_DELIVERED:
		return because(joined("delivered", "to", f.GetHost()), replyText(f.GetReply()))
	case relayv1.FateKind_FATE_KIND_DISCARDED:
		return joined("discarded", "by the rule", f.GetReason())
	case relayv1.FateKind_FATE_KIND_REJECTED:
		return because(joined("rejected", "by", about), reason(f))
	case relayv1.FateKind_FATE_KIND_DEFERRED:
		return because(joined("deferred", "by", about), reason(f))
	case relayv1.FateKind_FATE_KIND_QUARANTINED:
		if heldByPerson(f) {
			return f.GetReason()
		}
		if f.GetByError() {
			return because(joined("held", "since it could not be judged by", about), f.GetReason())
		}
		return because(joined("held", "by", about), f.GetReason())
	case relayv1.FateKind_FATE_KIND_REFUSED:
		return because(joined("not handed on", "to", about), reason(f))
	case relayv1.FateKind_FATE_KIND_UNKNOWN:
		return because(joined("outcome unknown", "at", about), reason(f))
	}
	return because("no outcome", reason(f))
}

// heldByPerson: a person held it, and the reason says who.
func heldByPerson(f *relayv1.Fate) bool {
	return f.GetKind() == relayv1.FateKind_FATE_KIND_QUARANTINED && f.GetByError() && f.GetConcern() != relayv1.Concern_CONCERN_HOP && f.GetReason() != ""
}

// fateStyle is green for a good end, red for a bad one.
func fateStyle(f *relayv1.Fate) style {
	switch f.GetKind() {
	case relayv1.FateKind_FATE_KIND_DELIVERED:
		return green
	case relayv1.FateKind_FATE_KIND_REJECTED:
		return red
	case relayv1.FateKind_FATE_KIND_DISCARDED:
		return normal
	}
	return yellow
}

func reason(f *relayv1.Fate) string {
	if r := replyText(f.GetReply()); r != "" {
		return r
	}
	return f.GetReason()
}

// concerned is who gave the fate: a host, a stage, a route.
func concerned(f *relayv1.Fate) string {
	if f.GetHost() != "" {
		return f.GetHost()
	}
	return waitedFor(f)
}

// waitedFor is what a fate is about: a stage, a route, a destination.
func waitedFor(f *relayv1.Fate) string {
	if f.GetAbout() == "" {
		return ""
	}
	switch f.GetConcern() {
	case relayv1.Concern_CONCERN_ROUTE:
		return "route " + f.GetAbout()
	case relayv1.Concern_CONCERN_HOP:
		return "stage " + f.GetAbout()
	}
	return f.GetAbout()
}

func joined(what, word, name string) string {
	if name == "" {
		return what
	}
	return what + " " + word + " " + name
}

func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// hopText says what a stage answered.
func hopText(r *relayv1.HopReport) span {
	switch r.GetOutcome() {
	case relayv1.Outcome_OUTCOME_SKIPPED:
		return text("%s", because("skipped", r.GetReason()))
	case relayv1.Outcome_OUTCOME_FAILED:
		return in(red, "%s", because("failed", r.GetReason()))
	}
	word, s := verdictWord(r.GetVerdict())
	return in(s, "%s", because(word, r.GetReason()))
}

func verdictWord(v stagev1.Verdict) (string, style) {
	switch v {
	case stagev1.Verdict_VERDICT_CONTINUE:
		return "continue", normal
	case stagev1.Verdict_VERDICT_REJECT:
		return "reject", red
	case stagev1.Verdict_VERDICT_DEFER:
		return "defer", yellow
	case stagev1.Verdict_VERDICT_QUARANTINE:
		return "quarantine", yellow
	case stagev1.Verdict_VERDICT_DISCARD:
		return "discard", yellow
	}
	return "no verdict", red
}

// path is a reverse-path as it is written: "<>" is the null one.
func path(address string) string {
	if address == "" {
		return "<>"
	}
	return address
}

// addresses finds the addresses of recipients by their ids.
type addresses map[string]string

func addressesOf(e *stagev1.Envelope) addresses {
	m := addresses{}
	for _, r := range e.GetRecipients() {
		m[r.GetId()] = r.GetAddress()
	}
	return m
}

func (m addresses) of(id string) string {
	if a, ok := m[id]; ok {
		return a
	}
	return id
}

// list names recipients, all of them if there are few.
func (m addresses) list(ids []string, most int) string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = m.of(id)
	}
	return some(names, most)
}

// few is list for a cell of a table.
func (m addresses) few(ids []string) string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = m.of(id)
	}
	return few(names)
}

// few names two, or one and how many more.
func few(names []string) string {
	if len(names) <= 2 {
		return some(names, 0)
	}
	return some(names, 1)
}

// some joins the first of many; most 0 is all.
func some(names []string, most int) string {
	if most == 0 || len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
