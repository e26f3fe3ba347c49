package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// PlanAction is what a change does to a thing.
type PlanAction string

// The actions.
const (
	PlanAdded   PlanAction = "added"
	PlanRemoved PlanAction = "removed"
	PlanChanged PlanAction = "changed"
	PlanMoved   PlanAction = "moved"
)

// PlanItem is one thing that two configurations have different.
type PlanItem struct {
	// Kind is listener, domain, relay, stage, chain or route, with a Name; else the key of the file, whose list has a
	// Name for each entry (admin.people).
	Kind, Name string
	Action     PlanAction
	// From and To say for people, in a line of at most 500 characters each, what it is and what it becomes; empty where
	// there is none. Secrets do not stand there.
	From, To string
	// Restart names the service that takes it up at its next start only; empty: it is taken up live.
	Restart string
}

// Plan says what differs in what two configurations mean: no more than that when only layout, comments, or the order of
// what has none differ. It is empty if, and only if, they are the same but for Revision, Warnings and what a factory made
// of a stage's config, for which the hash stands.
func Plan(old, now *Config) []PlanItem {
	p := &planner{old: old, now: now, up: now.Ingress.Address == "" && now.Egress.Address == ""}
	p.installation()
	p.list("listener", listenerLines(old), listenerLines(now), "")
	p.list("domain", domainLines(old), domainLines(now), "")
	p.sequence("relay", relayLines(old), relayLines(now))
	p.stages()
	p.chains()
	p.list("route", routeLines(old), routeLines(now), "")
	p.list("admin.people", peopleLines(old), peopleLines(now), "")
	return p.items
}

// What is started again by these names is more than one service.
const (
	everyService  = "every service"
	wholeProcess  = "stagecoach up"
	stagesProcess = "egress and the stages"
)

type planner struct {
	old, now *Config
	// up: everything is one process.
	up    bool
	items []PlanItem
}

func (p *planner) add(i PlanItem) {
	i.From, i.To = clip(printable(i.From)), clip(printable(i.To))
	p.items = append(p.items, i)
}

// restart is the service that must be started again, which under `up` is everything.
func (p *planner) restart(service string) string {
	if p.up && service != "" {
		return wholeProcess
	}
	return service
}

// key compares the values of a key.
func (p *planner) key(kind, from, to, restart string) {
	if from == to {
		return
	}
	action := PlanChanged
	switch "" {
	case from:
		action = PlanAdded
	case to:
		action = PlanRemoved
	}
	p.add(PlanItem{Kind: kind, Action: action, From: from, To: to, Restart: p.restart(restart)})
}

// planLine is an entry of a list: its name, and all else that it means. told is what a person is told of that, if not
// all of it; unsaid, how two differ that are told in the same words.
type planLine struct{ name, means, told, unsaid string }

func (l planLine) text() string { return cmp.Or(l.told, l.means) }

func indexed(list []planLine) map[string]planLine {
	m := make(map[string]planLine, len(list))
	for _, l := range list {
		m[l.name] = l
	}
	return m
}

// list compares entries whose order has no meaning.
func (p *planner) list(kind string, old, now []planLine, restart string) {
	was, is := indexed(old), indexed(now)
	for _, l := range old {
		if _, ok := is[l.name]; !ok {
			p.add(PlanItem{Kind: kind, Name: l.name, Action: PlanRemoved, From: l.text(), Restart: p.restart(restart)})
		}
	}
	for _, l := range now {
		switch before, ok := was[l.name]; {
		case !ok:
			p.add(PlanItem{Kind: kind, Name: l.name, Action: PlanAdded, To: l.text(), Restart: p.restart(restart)})
		case before.means != l.means:
			p.changed(kind, before, l, restart)
		}
	}
}

// changed tells two texts apart for the person, too.
func (p *planner) changed(kind string, was, is planLine, restart string) {
	from, to := was.text(), is.text()
	if clip(from) == clip(to) {
		to = cmp.Or(is.unsaid, "differs behind what is shown") + ": " + to
	}
	p.add(PlanItem{Kind: kind, Name: is.name, Action: PlanChanged, From: from, To: to, Restart: p.restart(restart)})
}

// sequence compares entries of which the first that fits wins.
func (p *planner) sequence(kind string, old, now []planLine) {
	p.list(kind, old, now, "")
	p.moves(lineNames(old), lineNames(now), func(name, from, to string) {
		p.add(PlanItem{Kind: kind, Name: name, Action: PlanMoved, From: from, To: to})
	})
}

func lineNames(list []planLine) []string {
	names := make([]string, len(list))
	for i, l := range list {
		names[i] = l.name
	}
	return names
}

// moves tells which names stand elsewhere among those that are in both lists; as few as can be.
func (p *planner) moves(old, now []string, tell func(name, from, to string)) {
	is := positions(now)
	old = slices.DeleteFunc(slices.Clone(old), func(n string) bool { _, ok := is[n]; return !ok })
	was := positions(old)
	common := slices.DeleteFunc(slices.Clone(now), func(n string) bool { _, ok := was[n]; return !ok })
	var order []int
	for _, n := range common {
		order = append(order, was[n])
	}
	stays := rising(order)
	for i, n := range common {
		if !stays[i] {
			tell(n, after(old, was[n]), after(now, is[n]))
		}
	}
}

func positions(names []string) map[string]int {
	m := make(map[string]int, len(names))
	for i, n := range names {
		m[n] = i
	}
	return m
}

// after says where the entry of that number stands.
func after(names []string, i int) string {
	if i == 0 {
		return "first"
	}
	return "after " + names[i-1]
}

// rising marks the longest rising subsequence of numbers that are all different.
func rising(list []int) []bool {
	var tails []int // of each length: where the one with the least last number ends
	before := make([]int, len(list))
	for i, n := range list {
		at, _ := slices.BinarySearchFunc(tails, n, func(t, n int) int { return cmp.Compare(list[t], n) })
		before[i] = -1
		if at > 0 {
			before[i] = tails[at-1]
		}
		tails = append(tails[:at], append([]int{i}, tails[min(at+1, len(tails)):]...)...)
	}
	marks := make([]bool, len(list))
	if len(tails) > 0 {
		for i := tails[len(tails)-1]; i >= 0; i = before[i] {
			marks[i] = true
		}
	}
	return marks
}

// stages have no order; the address of one that runs does not change.
func (p *planner) stages() {
	was, is := stageLines(p.old), stageLines(p.now)
	p.list("stage", was, is, "")
	for i := range p.items {
		item := &p.items[i]
		if item.Kind != "stage" || item.Action != PlanChanged {
			continue
		}
		before, after := p.old.Stages[item.Name], p.now.Stages[item.Name]
		if before.Address != after.Address && before.Type == after.Type && !p.up {
			item.Restart = after.Type
		}
	}
}

func (p *planner) chains() {
	was := map[string]*Chain{}
	for _, c := range p.old.Chains {
		was[c.Name] = c
	}
	p.sequence("chain", chainLines(p.old), chainLines(p.now))
	for _, c := range p.now.Chains {
		if before := was[c.Name]; before != nil {
			p.chain(before, c)
		}
	}
}

// chainLines are the chains as they come or go; how one changes is told use by use.
func chainLines(c *Config) []planLine {
	out := make([]planLine, len(c.Chains))
	for i, ch := range c.Chains {
		var uses []string
		for _, u := range ch.Stages {
			uses = append(uses, strings.TrimSpace(u.Stage.Name+" "+useSettings(u)))
		}
		out[i] = planLine{name: ch.Name, told: fmt.Sprintf("%s; stages: %s; deliver: %s", matchLine(&ch.Match), cmp.Or(strings.Join(uses, ", "), "none"), ch.Deliver)}
	}
	return out
}

// chain compares two chains of one name.
func (p *planner) chain(old, now *Chain) {
	tell := func(from, to string) {
		p.add(PlanItem{Kind: "chain", Name: now.Name, Action: PlanChanged, From: from, To: to})
	}
	if from, to := matchLine(&old.Match), matchLine(&now.Match); from != to {
		tell(from, to)
	}
	p.uses(old.Stages, now.Stages, tell)
	if old.Deliver != now.Deliver {
		tell("deliver: "+old.Deliver, "deliver: "+now.Deliver)
	}
}

// uses compares the stages of a chain. One that took the place of another is told as one change.
func (p *planner) uses(old, now []Use, tell func(from, to string)) {
	oldNames, nowNames := useNames(old), useNames(now)
	was, is := positions(oldNames), positions(nowNames)
	gone := map[string]string{} // what was removed, by its place
	var goneAt []string
	for i, u := range old {
		if _, ok := is[u.Stage.Name]; !ok {
			at := after(oldNames, i)
			gone[at] = useLine(u, at)
			goneAt = append(goneAt, at)
		}
	}
	type came struct{ place, text string }
	var arrivals []came
	for i, u := range now {
		j, ok := was[u.Stage.Name]
		if !ok {
			at := after(nowNames, i)
			arrivals = append(arrivals, came{at, useLine(u, at)})
			continue
		}
		if from, to := useSettings(old[j]), useSettings(u); from != to {
			tell("stage "+u.Stage.Name+" "+cmp.Or(from, "(plain)"), "stage "+u.Stage.Name+" "+cmp.Or(to, "(plain)"))
		}
	}
	replaced := map[string]string{}
	for _, a := range arrivals {
		if _, ok := gone[a.place]; ok {
			replaced[a.place] = a.text
		}
	}
	for _, at := range goneAt {
		tell(gone[at], replaced[at])
	}
	for _, a := range arrivals {
		if replaced[a.place] != a.text {
			tell("", a.text)
		}
	}
	p.moves(oldNames, nowNames, func(name, from, to string) { tell("stage "+name+" "+from, "stage "+name+" "+to) })
}

func useNames(uses []Use) []string {
	names := make([]string, len(uses))
	for i, u := range uses {
		names[i] = u.Stage.Name
	}
	return names
}

func useLine(u Use, place string) string {
	s := "stage " + u.Stage.Name
	if settings := useSettings(u); settings != "" {
		s += " " + settings
	}
	return s + ", " + place
}

// useSettings is empty for what is the default.
func useSettings(u Use) string {
	var parts []string
	if u.OnError != "" && u.OnError != "defer" {
		parts = append(parts, "on_error: "+u.OnError)
	}
	if u.Inline {
		parts = append(parts, "inline")
	}
	if u.Shadow {
		parts = append(parts, "shadow")
	}
	if len(parts) == 0 {
		return ""
	}
	return "(" + strings.Join(parts, ", ") + ")"
}

func matchLine(m *Match) string {
	var directions []string
	for _, d := range m.Direction {
		directions = append(directions, string(d))
	}
	var parts []string
	for _, c := range []struct {
		key  string
		list []string
	}{{"direction", directions}, {"listener", m.Listener}, {"relay", m.Relay}, {"senders", m.Senders}, {"recipients", m.Recipients}} {
		if len(c.list) > 0 {
			parts = append(parts, c.key+" "+anyOf(c.list))
		}
	}
	return "match: " + cmp.Or(strings.Join(parts, "; "), "everything")
}

// anyOf is a list of which one holds: in one order, each once.
func anyOf(list []string) string {
	out := slices.Compact(slices.Sorted(slices.Values(list)))
	for i, s := range out {
		if strings.ContainsAny(s, ", \"") {
			out[i] = strconv.Quote(s)
		}
	}
	return strings.Join(out, ", ")
}

func yes(b bool, s string) string {
	if b {
		return s
	}
	return ""
}

// said joins what there is to say.
func said(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}

func labelled(label, value string) string {
	if value == "" {
		return ""
	}
	return label + " " + value
}

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func number(n int) string { return strconv.Itoa(n) }
