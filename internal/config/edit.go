package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/stagecoachmail/stagecoach/internal/chain"
)

// ErrForm says that a file is valid, but written in a way that is not edited here.
var ErrForm = errors.New("the stages of this chain are written in a way that only a person can change: write them as [a, b], or one below the other after a hyphen")

// EditKind is what a ChainEdit does.
type EditKind int

// The edits.
const (
	EditInsert EditKind = iota + 1
	EditRemove
	EditMove
	EditReplace
)

// ChainEdit is a change of the stages of one chain.
type ChainEdit struct {
	Chain string
	Kind  EditKind
	// Stage is inserted, removed, moved, or replaced by another.
	Stage string
	// By: EditReplace puts this stage there. What else is written of the use stays.
	By string
	// Before and After name a stage of the chain, where EditInsert and EditMove put Stage; First and Last are its ends.
	// Exactly one of the four is set.
	Before, After string
	First, Last   bool
	// Of what EditInsert puts there.
	OnError        string
	Inline, Shadow bool
}

// ChainText is a chain as it is written.
type ChainText struct {
	Name, Deliver string
	Uses          []UseText
}

// UseText is the use of a stage as it is written. OnError is empty where nothing is.
type UseText struct {
	Stage, OnError string
	Inline, Shadow bool
}

// ChainTexts reads the chains of a file, as far as they can be made out; whether they are right is not looked at. The
// error is an Errors.
func ChainTexts(name string, data []byte) ([]ChainText, error) {
	p := &problems{file: name}
	root := readTree(p, data)
	if err := p.err(); err != nil {
		return nil, err
	}
	var out []ChainText
	for _, c := range items(root.find("chains")) {
		t := ChainText{Name: word(c.find("name")), Deliver: word(c.find("deliver"))}
		for _, u := range items(c.find("stages")) {
			t.Uses = append(t.Uses, useText(u))
		}
		out = append(out, t)
	}
	return out, nil
}

func items(n *node) []*node {
	if n == nil {
		return nil
	}
	return n.items
}

func word(n *node) string {
	if n == nil || n.kind != kindText {
		return ""
	}
	return n.text
}

func useText(n *node) UseText {
	if n.kind != kindMap {
		return UseText{Stage: word(n)}
	}
	yes := func(key string) bool {
		v := n.find(key)
		return v != nil && v.kind == kindBool && v.text == "true"
	}
	return UseText{word(n.find("use")), word(n.find("on_error")), yes("inline"), yes("shadow")}
}

// EditChain makes an edit in the text of a file: comments and layout of everything else stay byte for byte. name is the
// file's in errors. The text that it gives was read again and says what was meant, and no more; whether the
// configuration is right then is for Parse to say. The error is an Errors that says where, or wraps ErrForm.
func EditChain(name string, data []byte, e ChainEdit) ([]byte, error) {
	p := &problems{file: name}
	root := readTree(p, data)
	if err := p.err(); err != nil {
		return nil, err
	}
	t, at := e.resolve(p, root)
	if err := p.err(); err != nil {
		return nil, err
	}
	want := t.meant(root, at)
	l, err := locate(data, at, len(t.list.items))
	if err != nil {
		return nil, fmt.Errorf("%s:%d: %w", name, t.list.line, err)
	}
	for candidate := range l.candidates(t) {
		if is(candidate, want) && l.keepsComments(candidate, t) {
			return candidate, nil
		}
	}
	return nil, fmt.Errorf("%s:%d: %w", name, t.list.line, ErrForm)
}

// is says that a text means a tree.
func is(text []byte, want any) bool {
	p := &problems{}
	root := readTree(p, text)
	return p.err() == nil && reflect.DeepEqual(root.plain(), want)
}

// target is an edit with its names found: item from of the list goes away, or is put before item to of those that are
// there now; text is what is put.
type target struct {
	kind     EditKind
	list     *node
	from, to int
	by       string
	use      UseText
}

// resolve finds what the edit names, or says to p what cannot be found. at is the chain's number.
func (e ChainEdit) resolve(p *problems, root *node) (t target, at int) {
	chains := items(root.find("chains"))
	var names []string
	at = -1
	for i, c := range chains {
		n := word(c.find("name"))
		if names = append(names, n); n == e.Chain && at < 0 {
			at = i
		}
	}
	if at < 0 {
		where := root.spot
		if c := root.find("chains"); c != nil {
			where = c.spot
		}
		p.add(where, "chains", "there is no chain %q%s", e.Chain, suggest(e.Chain, names, "chains"))
		return t, 0
	}
	path := fmt.Sprintf("chains[%d].stages", at)
	list := chains[at].find("stages")
	if list == nil || list.kind != kindList {
		p.add(chains[at].spot, path, "is no list: write stages: [] first")
		return t, at
	}
	t = target{kind: e.Kind, list: list, by: e.By, use: UseText{e.Stage, e.OnError, e.Inline, e.Shadow}}
	f := finder{p: p, list: list, path: path, chain: e.Chain}
	for _, u := range list.items {
		f.uses = append(f.uses, useText(u).Stage)
	}
	if s := root.find("stages"); s != nil {
		for _, entry := range s.entries {
			f.stages = append(f.stages, entry.key.text)
		}
	}
	if e.Kind == EditInsert {
		f.unused(e.Stage)
		f.onError(e.OnError)
	} else {
		t.from = f.used(e.Stage)
	}
	switch e.Kind {
	case EditInsert, EditMove:
		t.to = f.place(e)
	case EditReplace:
		if e.By != e.Stage {
			f.unused(e.By)
		}
	case EditRemove:
	default:
		p.add(list.spot, path, "no edit is asked for")
	}
	return t, at
}

// finder looks names up in one chain.
type finder struct {
	p            *problems
	list         *node
	path, chain  string
	uses, stages []string
}

// used is the number of a stage in the chain.
func (f *finder) used(stage string) int {
	i := slices.Index(f.uses, stage)
	switch {
	case i >= 0:
		return i
	case stage == "":
		f.p.add(f.list.spot, f.path, "a stage must be named")
	default:
		f.p.add(f.list.spot, f.path, "chain %s does not use a stage %q%s", f.chain, stage, suggest(stage, f.uses, "stages of it"))
	}
	return 0
}

// unused says if a stage is not there, or is in the chain already.
func (f *finder) unused(stage string) {
	if i := slices.Index(f.uses, stage); i >= 0 {
		f.p.add(f.list.items[i].spot, fmt.Sprintf("%s[%d]", f.path, i), "chain %s uses stage %s already", f.chain, stage)
	} else if !slices.Contains(f.stages, stage) {
		f.p.add(f.list.spot, f.path, "there is no stage %q%s", stage, suggest(stage, f.stages, "stages"))
	}
}

func (f *finder) onError(s string) {
	words := []string{string(chain.OnErrorDefer), string(chain.OnErrorSkip), string(chain.OnErrorQuarantine)}
	if s != "" && !slices.Contains(words, s) {
		f.p.add(f.list.spot, f.path, "on_error %q is not known%s", s, suggest(s, words, "values"))
	}
}

// place is the number of the item before which the edit puts something.
func (f *finder) place(e ChainEdit) int {
	set := 0
	for _, b := range []bool{e.Before != "", e.After != "", e.First, e.Last} {
		if b {
			set++
		}
	}
	switch {
	case set != 1:
		f.p.add(f.list.spot, f.path, "say where: before a stage, after one, first, or last")
	case e.Kind == EditMove && (e.Before == e.Stage || e.After == e.Stage):
		f.p.add(f.list.spot, f.path, "%s cannot be put beside itself", e.Stage)
	case e.Before != "":
		return f.used(e.Before)
	case e.After != "":
		return f.used(e.After) + 1
	case e.Last:
		return len(f.list.items)
	}
	return 0
}

// meant is the whole file as it is to be.
func (t target) meant(root *node, at int) any {
	tree, ok := root.plain().(map[string]any)
	if !ok {
		return nil
	}
	c := tree["chains"].([]any)[at].(map[string]any)
	list := c["stages"].([]any)
	switch t.kind {
	case EditInsert:
		list = slices.Insert(list, t.to, t.use.plain())
	case EditRemove:
		list = slices.Delete(list, t.from, t.from+1)
	case EditMove:
		item := list[t.from]
		list = slices.Delete(list, t.from, t.from+1)
		list = slices.Insert(list, t.landing(), item)
	case EditReplace:
		if m, ok := list[t.from].(map[string]any); ok {
			m["use"] = t.by
		} else {
			list[t.from] = t.by
		}
	}
	c["stages"] = list
	return tree
}

// landing is the number that a moved item has in the end.
func (t target) landing() int {
	if t.to > t.from {
		return t.to - 1
	}
	return t.to
}

func (u UseText) plain() any {
	if u == (UseText{Stage: u.Stage}) {
		return u.Stage
	}
	m := map[string]any{"use": u.Stage}
	if u.OnError != "" {
		m["on_error"] = u.OnError
	}
	if u.Inline {
		m["inline"] = true
	}
	if u.Shadow {
		m["shadow"] = true
	}
	return m
}

// plainWord are the names that YAML reads as text without quotes.
var plainWord = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`)

func wordText(s string) string {
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
	default:
		if plainWord.MatchString(s) {
			return s
		}
	}
	return quote(s)
}

// text is a use as it is written on one line.
func (u UseText) text() string {
	if u == (UseText{Stage: u.Stage}) {
		return wordText(u.Stage)
	}
	s := "{use: " + wordText(u.Stage)
	if u.OnError != "" {
		s += ", on_error: " + u.OnError
	}
	if u.Inline {
		s += ", inline: true"
	}
	if u.Shadow {
		s += ", shadow: true"
	}
	return s + "}"
}
