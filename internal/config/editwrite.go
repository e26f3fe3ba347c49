package config

import (
	"iter"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/token"
)

// candidates are ways to write an edit, the best first. Not each of them is right; the caller tries them.
func (l *layout) candidates(t target) iter.Seq[[]byte] {
	write := map[EditKind]func(target) []string{
		EditInsert: l.insertLine, EditRemove: l.removeLines, EditMove: l.moveLines, EditReplace: l.replace,
	}
	if l.flow {
		write[EditInsert], write[EditRemove], write[EditMove] = l.insertBetween, l.removeBetween, l.moveBetween
	}
	return func(yield func([]byte) bool) {
		for _, s := range write[t.kind](t) {
			if !yield([]byte(s)) {
				return
			}
		}
	}
}

// splice is the file with text in the place of [from, to).
func (l *layout) splice(from, to int, text string) string {
	if from > to || to > len(l.data) {
		return ""
	}
	return l.data[:from] + text + l.data[to:]
}

// put is the file with a line before the one that begins at an offset.
func (l *layout) put(at int, line string) string {
	if at > 0 && l.data[at-1] != '\n' {
		return l.splice(at, at, l.end+line)
	}
	return l.splice(at, at, line+l.end)
}

func (l *layout) replace(t target) []string {
	n := t.list.items[t.from]
	if n.kind == kindMap {
		n = n.find("use")
	}
	i := slices.IndexFunc(l.tokens, func(k *token.Token) bool { return k.Position.Line == n.line && k.Position.Column == n.col })
	if i < 0 {
		return nil
	}
	from, to, ok := l.stretch(l.tokens[i])
	if !ok {
		return nil
	}
	return []string{l.splice(from, to, wordText(t.by))}
}

// Block style.

func (l *layout) insertLine(t target) []string {
	at := 0
	if t.to == 0 {
		at = l.starts[l.head(0)]
	} else {
		at = l.after(l.spans[t.to-1].last)
	}
	s := l.spans[0]
	return []string{l.put(at, l.data[l.starts[s.first]:s.from]+"- "+t.use.text())}
}

func (l *layout) removeLines(t target) []string {
	s := l.spans[t.from]
	from, to := l.starts[s.first], l.after(s.last)
	if len(l.spans) > 1 {
		return []string{l.splice(from, to, "")}
	}
	return []string{l.data[:l.colon] + " []" + l.data[l.colon:from] + l.data[to:]}
}

// moveLines takes along what is said of an item above it.
func (l *layout) moveLines(t target) []string {
	blocks := make([]string, len(l.spans))
	begin := l.starts[l.head(0)]
	at := begin
	for i, s := range l.spans {
		blocks[i] = l.data[at:l.after(s.last)]
		at = l.after(s.last)
	}
	return []string{l.data[:begin] + l.lines(moved(blocks, t)) + l.data[at:]}
}

// lines joins pieces that are whole lines; the one that ended the file may have had no end.
func (l *layout) lines(pieces []string) string {
	ended := true
	for i, p := range pieces {
		if !strings.HasSuffix(p, "\n") {
			pieces[i], ended = p+l.end, false
		}
	}
	s := strings.Join(pieces, "")
	if !ended {
		s = strings.TrimSuffix(s, l.end)
	}
	return s
}

func moved(list []string, t target) []string {
	item := list[t.from]
	list = slices.Delete(slices.Clone(list), t.from, t.from+1)
	return slices.Insert(list, t.landing(), item)
}

// Flow style.

func (l *layout) insertBetween(t target) []string {
	text, n := t.use.text(), len(l.spans)
	if n == 0 {
		out := []string{l.splice(l.open+1, l.open+1, text)}
		if strings.TrimSpace(l.data[l.open+1:l.close]) == "" {
			out = append([]string{l.splice(l.open+1, l.close, text)}, out...)
		}
		return out
	}
	if t.to < n {
		s := l.spans[t.to]
		inline := l.splice(s.from, s.from, text+", ")
		if !l.begins(t.to) {
			return []string{inline}
		}
		return []string{l.put(l.starts[l.head(t.to)], l.data[l.starts[s.first]:s.from]+text+","), inline}
	}
	s := l.spans[n-1]
	inline := l.splice(s.to, s.to, ", "+text)
	if !l.alone(n - 1) {
		return []string{inline}
	}
	line := l.data[l.starts[s.first]:s.from] + text
	at := l.after(s.last)
	if s.comma > 0 {
		return []string{l.put(at, line+","), inline}
	}
	return []string{l.data[:s.to] + "," + l.data[s.to:at] + line + l.end + l.data[at:], inline}
}

func (l *layout) removeBetween(t target) []string {
	i, s := t.from, l.spans[t.from]
	end := max(s.to, s.comma)
	var out []string
	if l.alone(i) {
		out = append(out, l.splice(l.starts[s.first], l.after(s.last), ""))
	}
	switch {
	case i+1 < len(l.spans) && l.spans[i+1].first == s.last:
		out = append(out, l.splice(s.from, l.spans[i+1].from, ""))
	case i > 0 && l.spans[i-1].last == s.first && i+1 == len(l.spans):
		out = append(out, l.splice(l.spans[i-1].to, s.to, ""))
	case i > 0 && l.spans[i-1].last == s.first:
		out = append(out, l.splice(l.spans[i-1].comma, end, ""))
	}
	return append(out, l.splice(s.from, end, ""), l.splice(s.from, s.to, ""))
}

func (l *layout) moveBetween(t target) []string {
	said := strings.Contains(l.data[l.open:l.close], "#")
	if !said {
		texts := make([]string, len(l.spans))
		for i, s := range l.spans {
			texts[i] = l.data[s.from:s.to]
		}
		texts = moved(texts, t)
		out, at := "", 0
		for i, s := range l.spans {
			out += l.data[at:s.from] + texts[i]
			at = s.to
		}
		return []string{out + l.data[at:]}
	}
	blocks := make([]string, len(l.spans))
	begin := l.starts[l.head(0)]
	at := begin
	for i, s := range l.spans {
		if !l.alone(i) {
			return nil
		}
		blocks[i] = l.data[at:l.after(s.last)]
		if s.comma == 0 {
			blocks[i] = l.data[at:s.to] + "," + l.data[s.to:l.after(s.last)]
		}
		at = l.after(s.last)
	}
	return []string{l.data[:begin] + l.lines(moved(blocks, t)) + l.data[at:]}
}
