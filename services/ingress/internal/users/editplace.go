package users

import (
	"iter"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// layout is a users file in lines, with the places where its users stand.
type layout struct {
	lines []string // without their ends
	ends  []string // "\n", "\r\n", or "" for the last one
	end   string   // of new lines

	users *span // the value of the key "users"; nil: there is no such key
	root  place // of that key
	flow  bool  // the value is in braces
	found []located
	last  int // the line behind the document
}

// place is a position: line and column from 0, the column in runes.
type place struct{ line, col int }

// span is from the first character up to and with the last one.
type span struct{ from, to place }

// located is a user in the file.
type located struct {
	name     string
	whole    span
	password *span // the value, where it is one token on one line
}

// locate finds the users in a file that is known to be valid.
func locate(data []byte) (*layout, error) {
	l := &layout{end: "\n"}
	for line := range strings.Lines(string(data)) {
		body := strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		l.lines, l.ends = append(l.lines, body), append(l.ends, line[len(body):])
	}
	if len(l.ends) > 0 && l.ends[0] == "\r\n" {
		l.end = "\r\n"
	}
	l.last = len(l.lines)
	// The parser counts lines that end with CRLF twice.
	file, err := parser.ParseBytes([]byte(strings.Join(l.lines, "\n")), 0)
	if err != nil {
		return nil, ErrForm // it could be decoded, and cannot be parsed
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return l, nil
	}
	if end := file.Docs[0].End; end != nil {
		l.last = end.Position.Line - 1
	}
	m, ok := file.Docs[0].Body.(*ast.MappingNode)
	if !ok || m.IsFlowStyle || len(m.Values) != 1 || len(file.Docs) > 1 {
		return nil, ErrForm
	}
	l.root = at(m.Values[0].Key.GetToken())
	switch v := m.Values[0].Value.(type) {
	case *ast.NullNode:
		end := place{l.root.line, len([]rune(l.lines[l.root.line])) - 1}
		l.users = &span{end, end}
	case *ast.MappingNode:
		l.flow = v.IsFlowStyle
		l.users = &spanOf(v).span
		for _, one := range v.Values {
			l.found = append(l.found, locatedOf(one))
		}
	default:
		return nil, ErrForm
	}
	return l, nil
}

func at(t *token.Token) place { return place{t.Position.Line - 1, t.Position.Column - 1} }

// written is a token as it stands in the file, without what is around it.
func written(t *token.Token) string { return strings.Trim(t.Origin, " \t\r\n") }

func locatedOf(v *ast.MappingValueNode) located {
	out := located{whole: span{at(v.Key.GetToken()), spanOf(v.Value).to}}
	if k, ok := v.Key.(*ast.StringNode); ok {
		out.name = k.Value
	} else {
		out.name = v.Key.GetToken().Value
	}
	m, ok := v.Value.(*ast.MappingNode)
	if !ok || len(m.Values) != 1 {
		return out
	}
	if s, ok := m.Values[0].Value.(*ast.StringNode); ok && !strings.Contains(written(s.Token), "\n") {
		p := spanOf(s)
		out.password = &p.span
	}
	return out
}

// spanOf is where a node stands. What it says of values over several lines is a guess, which is tried out.
func spanOf(n ast.Node) *spanning {
	s := &spanning{}
	ast.Walk(s, n)
	return s
}

// spanning gathers the span of a node and what is below it.
type spanning struct {
	span
	any bool
}

// Visit implements ast.Visitor.
func (s *spanning) Visit(n ast.Node) ast.Visitor {
	t := n.GetToken()
	if t == nil {
		return s
	}
	from := at(t)
	to := place{from.line, from.col + len([]rune(written(t))) - 1}
	if m, ok := n.(*ast.MappingNode); ok && m.IsFlowStyle && m.End != nil {
		to = at(m.End)
	}
	if !s.any || from.before(s.from) {
		s.from = from
	}
	if !s.any || s.to.before(to) {
		s.to = to
	}
	s.any = true
	return s
}

func (p place) before(q place) bool { return p.line < q.line || p.line == q.line && p.col < q.col }

// candidates are ways to write a change, the best first. Not each of them is right; the caller tries them.
func (l *layout) candidates(c change, known bool) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		switch {
		case !known:
			l.additions(c, yield)
		case c.hash == "":
			l.deletions(c, yield)
		default:
			for _, one := range l.found {
				if one.name == c.name && one.password != nil {
					yield(l.with(*one.password, `"`+c.hash+`"`))
				}
			}
		}
	}
}

func (l *layout) additions(c change, yield func([]byte) bool) {
	switch {
	case l.users == nil:
		yield(l.insert(l.last, "users:", "  "+entry(c)))
	case l.flow && len(l.found) == 0 && l.users.from.line == l.users.to.line:
		// "users: {}" becomes a list of lines.
		line := l.users.from.line
		cut := l.cut(l.users.from, l.users.to)
		cut.lines[line] = strings.TrimRight(cut.lines[line], " \t")
		yield(cut.insert(line+1, "  "+entry(c)))
	case l.flow:
		end := l.users.to
		_ = yield(l.put(end, ", "+entry(c))) && yield(l.put(end, " "+entry(c)))
	case len(l.found) == 0:
		yield(l.insert(l.root.line+1, "  "+entry(c)))
	default:
		// Behind the last user, before the comments that end the file.
		line := l.found[len(l.found)-1].whole.to.line
		for n := line; n < l.last; n++ {
			if s := strings.TrimSpace(l.lines[n]); s != "" && s[0] != '#' {
				line = n
			}
		}
		indent := strings.Repeat(" ", l.found[0].whole.from.col)
		yield(l.insert(line+1, indent+entry(c)))
	}
}

func (l *layout) deletions(c change, yield func([]byte) bool) {
	i := slices.IndexFunc(l.found, func(one located) bool { return one.name == c.name })
	if i < 0 {
		return
	}
	one := l.found[i].whole
	if !l.flow {
		end := l.last
		if i+1 < len(l.found) {
			end = l.found[i+1].whole.from.line
		}
		// What is said between this user and the next one is about the next one.
		for end > one.from.line+1 {
			if s := strings.TrimSpace(l.lines[end-1]); s != "" && s[0] != '#' {
				break
			}
			end--
		}
		out := l.clone()
		out.lines = slices.Delete(out.lines, one.from.line, end)
		out.ends = slices.Delete(out.ends, one.from.line, end)
		yield(out.bytes())
		return
	}
	// In braces a comma goes with it: the one behind, or for the last one the one before.
	if i+1 < len(l.found) {
		next := l.found[i+1].whole.from
		yield(l.cut(one.from, place{next.line, next.col - 1}).bytes())
		return
	}
	if i > 0 {
		before := l.found[i-1].whole.to
		if !yield(l.cut(place{before.line, before.col + 1}, one.to).bytes()) {
			return
		}
	}
	yield(l.cut(one.from, one.to).bytes())
}

func (l *layout) clone() *layout {
	out := *l
	out.lines, out.ends = slices.Clone(l.lines), slices.Clone(l.ends)
	return &out
}

func (l *layout) bytes() []byte {
	var b strings.Builder
	for i, line := range l.lines {
		b.WriteString(line + l.ends[i])
	}
	return []byte(b.String())
}

// cut removes what stands from a place up to and with another.
func (l *layout) cut(from, to place) *layout {
	out := l.clone()
	if from.line >= len(out.lines) || to.line >= len(out.lines) || to.before(from) {
		return out
	}
	head, _ := split(out.lines[from.line], from.col)
	_, tail := split(out.lines[to.line], to.col+1)
	out.lines[to.line] = head + tail
	out.lines = slices.Delete(out.lines, from.line, to.line)
	out.ends = slices.Delete(out.ends, from.line, to.line)
	return out
}

// split cuts a line before a column.
func split(line string, col int) (before, after string) {
	r := []rune(line)
	col = min(max(col, 0), len(r))
	return string(r[:col]), string(r[col:])
}

// with is the file with other text in the place of s.
func (l *layout) with(s span, text string) []byte {
	return l.cut(s.from, s.to).put(s.from, text)
}

// put is the file with text before a place.
func (l *layout) put(at place, text string) []byte {
	out := l.clone()
	if at.line < len(out.lines) {
		head, tail := split(out.lines[at.line], at.col)
		out.lines[at.line] = head + text + tail
	}
	return out.bytes()
}

// insert is the file with more lines before one of its lines.
func (l *layout) insert(line int, more ...string) []byte {
	out := l.clone()
	line = min(line, len(out.lines))
	if line > 0 && out.ends[line-1] == "" {
		out.ends[line-1] = out.end
	}
	ends := slices.Repeat([]string{out.end}, len(more))
	out.lines, out.ends = slices.Insert(out.lines, line, more...), slices.Insert(out.ends, line, ends...)
	return out.bytes()
}
