package config

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// around is a file with stages in its first chain.
func around(stages string) string {
	return "# head\nstages: # all\n  a: {config: {}} # ü\n  b: {}\n  c: {}\n  new: {}\n  \"12\": {}\nchains:\n  # the first\n  - name: out\n    match: {direction: outbound}\n    stages:" + stages +
		"    deliver: outbox # there\n  - {name: in, stages: [a], deliver: inbox}\n\n# foot\n"
}

func TestEditChain(t *testing.T) {
	insert := func(e ChainEdit) ChainEdit { e.Kind, e.Stage = EditInsert, "new"; return e }
	remove := func(s string) ChainEdit { return ChainEdit{Kind: EditRemove, Stage: s} }
	move := func(s string, e ChainEdit) ChainEdit { e.Kind, e.Stage = EditMove, s; return e }
	replace := func(s, by string) ChainEdit { return ChainEdit{Kind: EditReplace, Stage: s, By: by} }
	const (
		lines = "\n      # about a\n      - a # one\n      # about b\n      - use: b # two\n        # within\n        on_error: skip\n        # below b\n\n      - {use: c, inline: true}\n"
		tall  = " [\n      # about a\n      a, # one\n      {use: b, on_error: skip}, # two\n      c # three\n    ]\n"
	)
	for name, one := range map[string]struct {
		before string
		edit   ChainEdit
		after  string
	}{
		"flow: insert last":            {" [a, b]\n", insert(ChainEdit{Last: true}), " [a, b, new]\n"},
		"flow: insert first":           {" [ a, b ]\n", insert(ChainEdit{First: true}), " [ new, a, b ]\n"},
		"flow: insert before":          {" [a, {use: b}] # c\n", insert(ChainEdit{Before: "b"}), " [a, new, {use: b}] # c\n"},
		"flow: insert after":           {" [a, b]\n", insert(ChainEdit{After: "a", OnError: "skip", Inline: true, Shadow: true}), " [a, {use: new, on_error: skip, inline: true, shadow: true}, b]\n"},
		"flow: insert into nothing":    {" [ ] # none\n", insert(ChainEdit{First: true}), " [new] # none\n"},
		"flow: behind a last comma":    {" [a, b,]\n", insert(ChainEdit{Last: true}), " [a, b, new,]\n"},
		"flow: a quoted name":          {" [\"a\", 'b']\n", insert(ChainEdit{After: "a"}), " [\"a\", new, 'b']\n"},
		"flow: over two lines":         {" [a,\n      b]\n", insert(ChainEdit{Last: true}), " [a,\n      b, new]\n"},
		"flow: remove first":           {" [a, b, c]\n", remove("a"), " [b, c]\n"},
		"flow: remove middle":          {" [a, {use: b, shadow: true}, c]\n", remove("b"), " [a, c]\n"},
		"flow: remove last":            {" [a, b, c]\n", remove("c"), " [a, b]\n"},
		"flow: remove the only one":    {" [a]\n", remove("a"), " []\n"},
		"flow: move":                   {" [a, {use: b, shadow: true},  c]\n", move("c", ChainEdit{First: true}), " [c, a,  {use: b, shadow: true}]\n"},
		"flow: move behind":            {" [a, b, c]\n", move("a", ChainEdit{After: "b"}), " [b, a, c]\n"},
		"flow: move to where it is":    {" [a, b, c]\n", move("a", ChainEdit{Before: "b"}), " [a, b, c]\n"},
		"flow: replace":                {" [a, {use: b, shadow: true}]\n", replace("b", "12"), " [a, {use: \"12\", shadow: true}]\n"},
		"flow: replace a text":         {" [a, 'b']\n", replace("b", "new"), " [a, new]\n"},
		"tall: insert first":           {tall, insert(ChainEdit{First: true}), strings.Replace(tall, "      # about a", "      new,\n      # about a", 1)},
		"tall: insert middle":          {tall, insert(ChainEdit{After: "a"}), strings.Replace(tall, "# one\n", "# one\n      new,\n", 1)},
		"tall: insert last":            {tall, insert(ChainEdit{Last: true}), strings.Replace(tall, "c # three\n", "c, # three\n      new\n", 1)},
		"tall: behind a last comma":    {strings.Replace(tall, "c #", "c, #", 1), insert(ChainEdit{Last: true}), strings.Replace(tall, "c # three\n", "c, # three\n      new,\n", 1)},
		"tall: remove":                 {tall, remove("b"), strings.Replace(tall, "      {use: b, on_error: skip}, # two\n", "", 1)},
		"tall: remove last":            {tall, remove("c"), strings.Replace(tall, "      c # three\n", "", 1)},
		"tall: move":                   {tall, move("a", ChainEdit{Last: true}), " [\n      {use: b, on_error: skip}, # two\n      c, # three\n      # about a\n      a, # one\n    ]\n"},
		"block: insert first":          {lines, insert(ChainEdit{First: true}), strings.Replace(lines, "      # about a", "      - new\n      # about a", 1)},
		"block: insert middle":         {lines, insert(ChainEdit{Before: "b", OnError: "skip"}), strings.Replace(lines, "# one\n", "# one\n      - {use: new, on_error: skip}\n", 1)},
		"block: insert after":          {lines, insert(ChainEdit{After: "b"}), strings.Replace(lines, "# below b\n", "# below b\n      - new\n", 1)},
		"block: insert last":           {lines, insert(ChainEdit{Last: true}), lines + "      - new\n"},
		"block: without an indent":     {"\n    - a\n    - b\n", insert(ChainEdit{Last: true}), "\n    - a\n    - b\n    - new\n"},
		"block: remove":                {lines, remove("b"), "\n      # about a\n      - a # one\n      # about b\n\n      - {use: c, inline: true}\n"},
		"block: remove the only one":   {" # here\n      # about a\n      - a # one\n", remove("a"), " [] # here\n      # about a\n"},
		"block: move":                  {lines, move("a", ChainEdit{After: "b"}), "\n      # about b\n      - use: b # two\n        # within\n        on_error: skip\n        # below b\n      # about a\n      - a # one\n\n      - {use: c, inline: true}\n"},
		"block: replace":               {lines, replace("b", "new"), strings.Replace(lines, "use: b #", "use: new #", 1)},
		"block: replace by the same":   {lines, replace("b", "b"), lines},
		"block: nested list in braces": {"\n      - {use: a}\n      -   b\n", move("b", ChainEdit{First: true}), "\n      -   b\n      - {use: a}\n"},
	} {
		one.edit.Chain = "out"
		t.Run(name, func(t *testing.T) {
			for _, f := range []func(string) string{
				func(s string) string { return s },
				func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
				func(s string) string { return "\ufeff" + s },
			} {
				got, err := EditChain("x.yaml", []byte(f(around(one.before))), one.edit)
				if want := f(around(one.after)); err != nil || string(got) != want {
					t.Errorf("%v\ngot  %q\nwant %q", err, got, want)
				}
			}
		})
	}
}

// A list that ends a file without a last line end.
func TestEditAtTheEnd(t *testing.T) {
	const file = "stages: {a: {}, b: {}, c: {}}\nchains:\n- name: out\n  stages:\n  - a\n  - b"
	for _, c := range []struct {
		edit ChainEdit
		want string
	}{
		{ChainEdit{Kind: EditInsert, Stage: "c", Last: true}, file + "\n  - c"},
		{ChainEdit{Kind: EditMove, Stage: "a", Last: true}, strings.Replace(file, "  - a\n  - b", "  - b\n  - a", 1)},
		{ChainEdit{Kind: EditRemove, Stage: "b"}, strings.TrimSuffix(file, "  - b")},
	} {
		c.edit.Chain = "out"
		if got, err := EditChain("x.yaml", []byte(file), c.edit); err != nil || strings.TrimSuffix(string(got), "\n") != strings.TrimSuffix(c.want, "\n") {
			t.Errorf("%+v: %q, %v", c.edit, got, err)
		}
	}
}

func TestEditRefused(t *testing.T) {
	for _, c := range []struct {
		stages string
		edit   ChainEdit
		says   string
	}{
		{" [a, b]\n", ChainEdit{Chain: "outt", Kind: EditRemove, Stage: "a"}, `there is no chain "outt"; did you mean out?`},
		{" [a, b]\n", ChainEdit{Kind: EditInsert, Stage: "neww", Last: true}, `x.yaml:12:13: chains[0].stages: there is no stage "neww"; did you mean new?`},
		{" [a, b]\n", ChainEdit{Kind: EditInsert, Stage: "b", Last: true}, `x.yaml:12:17: chains[0].stages[1]: chain out uses stage b already`},
		{" [a, b]\n", ChainEdit{Kind: EditInsert, Stage: "new", After: "c"}, `chain out does not use a stage "c"`},
		{" [a, b]\n", ChainEdit{Kind: EditInsert, Stage: "new"}, `say where`},
		{" [a, b]\n", ChainEdit{Kind: EditInsert, Stage: "new", First: true, Last: true}, `say where`},
		{" [a, b]\n", ChainEdit{Kind: EditInsert, Stage: "new", Last: true, OnError: "skipp"}, `did you mean skip?`},
		{" [a, b]\n", ChainEdit{Kind: EditRemove, Stage: "c"}, `does not use a stage "c"`},
		{" [a, b]\n", ChainEdit{Kind: EditMove, Stage: "a", Before: "a"}, `beside itself`},
		{" [a, b]\n", ChainEdit{Kind: EditReplace, Stage: "a", By: "b"}, `uses stage b already`},
		{" [a, b]\n", ChainEdit{Stage: "a"}, `no edit`},
		{"\n", ChainEdit{Kind: EditInsert, Stage: "new", Last: true}, `write stages: [] first`},
		{" [a, b\n", ChainEdit{Kind: EditRemove, Stage: "a"}, `not YAML`},
	} {
		if c.edit.Chain == "" {
			c.edit.Chain = "out"
		}
		got, err := EditChain("x.yaml", []byte(around(c.stages)), c.edit)
		if got != nil || err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %q, %v", c.edit, got, err)
		}
		if _, ok := errors.AsType[Errors](err); !ok {
			t.Errorf("%+v: %T", c.edit, err)
		}
	}
	// What stands within a stage on one line with others would be lost.
	got, err := EditChain("x.yaml", []byte(around(" [a, {use: b, # inner\n      on_error: skip}]\n")), ChainEdit{Chain: "out", Kind: EditRemove, Stage: "b"})
	if got != nil || !errors.Is(err, ErrForm) {
		t.Errorf("%q, %v", got, err)
	}
	// What is said of two stages on one line would come to stand at a third.
	got, err = EditChain("x.yaml", []byte(around(" [a, b, # both\n      c]\n")), ChainEdit{Chain: "out", Kind: EditMove, Stage: "c", First: true})
	if got != nil || !errors.Is(err, ErrForm) || !strings.Contains(err.Error(), "x.yaml:12") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestChainTexts(t *testing.T) {
	got, err := ChainTexts("x", []byte(around(" [a, {use: b, on_error: skip, shadow: true}]\n")))
	want := []ChainText{{"out", "outbox", []UseText{{Stage: "a"}, {Stage: "b", OnError: "skip", Shadow: true}}}, {"in", "inbox", []UseText{{Stage: "a"}}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

// FuzzEditChain: whatever the file looks like, an edit changes what was asked for and no more, or refuses. No comment is
// lost but by removing the stage that it stands at.
func FuzzEditChain(f *testing.F) {
	for _, s := range []string{" [a, b] # x\n", "\n      # y\n      - a # x\n      - use: b\n        on_error: skip\n", " [\n      a, # x\n      'b',\n    ]\n", "\n    - a\n    - \"b\"\n", " [{use: a}, {use: \"b\", shadow: true}]\n", " []\n",
		"\n      - a\n\n      # z\n\n      -\n        use: b\n", " # k\n      [ a\n      , b ]\n", "\n      - >-\n        a\n      - b\n", "\n      - {use: a,\n         on_error: skip} # x\n      - b\n"} {
		for kind := range 4 {
			f.Add([]byte(around(s)), kind, kind)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, kind, at int) {
		p := &problems{}
		root := readTree(p, data)
		if p.err() != nil {
			return
		}
		e := ChainEdit{Chain: "out", Kind: EditKind(1 + abs(kind)%4), Stage: "a", By: "new"}
		if e.Kind == EditInsert {
			e.Stage = "new"
		}
		switch at % 4 {
		case 0:
			e.First = true
		case 1:
			e.Last = true
		case 2:
			e.Before = "b"
		default:
			e.After = "b"
		}
		after, err := EditChain("x", data, e)
		if err != nil {
			return
		}
		q := &problems{}
		edited := readTree(q, after)
		if q.err() != nil {
			t.Fatalf("%q became %q: %v", data, after, q.err())
		}
		_, i := e.resolve(&problems{}, root)
		if !sameElsewhere(root, edited, i) {
			t.Fatalf("%+v: %q became %q", e, data, after)
		}
		before, now := ourUses(root, i), ourUses(edited, i)
		if !slices.Equal(expected(before, e), now) {
			t.Fatalf("%+v: %v became %v", e, before, now)
		}
		lost := strings.Count(string(data), "#") - strings.Count(string(after), "#")
		if lost != 0 && e.Kind != EditRemove {
			t.Fatalf("%q became %q: a comment is lost", data, after)
		}
	})
}

func abs(n int) int { return max(n, -(n + 1)) }

// sameElsewhere says that two files differ in the stages of one chain at most.
func sameElsewhere(a, b *node, chain int) bool {
	x, y := a.plain().(map[string]any), b.plain().(map[string]any)
	for _, m := range []map[string]any{x, y} {
		m["chains"].([]any)[chain].(map[string]any)["stages"] = nil
	}
	return reflect.DeepEqual(x, y)
}

func ourUses(root *node, chain int) []UseText {
	var out []UseText
	for _, u := range items(root.find("chains").items[chain].find("stages")) {
		out = append(out, useText(u))
	}
	return out
}

// expected does an edit the simple way.
func expected(list []UseText, e ChainEdit) []UseText {
	list = slices.Clone(list)
	find := func(s string) int { return slices.IndexFunc(list, func(u UseText) bool { return u.Stage == s }) }
	u := UseText{e.Stage, e.OnError, e.Inline, e.Shadow}
	switch i := find(e.Stage); e.Kind {
	case EditReplace:
		list[i].Stage = e.By
		return list
	case EditRemove:
		return slices.Delete(list, i, i+1)
	case EditMove:
		u = list[i]
		list = slices.Delete(list, i, i+1)
	}
	at := 0
	switch {
	case e.Last:
		at = len(list)
	case e.Before != "":
		at = find(e.Before)
	case e.After != "":
		at = find(e.After) + 1
	}
	return slices.Insert(list, at, u)
}
