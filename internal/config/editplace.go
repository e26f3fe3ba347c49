package config

import (
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// layout is the text of a file with the places where the stages of one chain stand. Places are offsets in bytes; lines
// count from 0.
type layout struct {
	data   string
	starts []int // of lines
	end    string
	tokens token.Tokens

	flow        bool
	open, close int // flow: the brackets
	colon       int // behind the colon of the key "stages"
	spans       []span
}

// span is where an item stands, [from, to) without the hyphen; comma is behind the comma that follows, or 0.
type span struct {
	from, to, comma int
	first, last     int // lines; in block style with the hyphen, and what is said of it below it
}

// locate finds the n stages of a chain in a file that was read without errors.
func locate(data []byte, chain, n int) (*layout, error) {
	l := &layout{data: string(data), end: "\n"}
	text := strings.TrimPrefix(l.data, "\ufeff")
	l.starts = []int{len(l.data) - len(text)}
	for i := range l.data {
		if l.data[i] == '\n' {
			l.starts = append(l.starts, i+1)
		}
	}
	if i := strings.IndexByte(l.data, '\n'); i > 0 && l.data[i-1] == '\r' {
		l.end = "\r\n"
	}
	text = strings.ReplaceAll(text, "\r\n", "\n")
	l.tokens = lexer.Tokenize(text)
	file, err := parser.Parse(lexer.Tokenize(text), 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, ErrForm
	}
	var list *ast.SequenceNode
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		chains, _ := valueOf(doc.Body, "chains")
		all, ok := chains.(*ast.SequenceNode)
		if !ok || chain >= len(all.Values) {
			return nil, ErrForm
		}
		stages, colon := valueOf(all.Values[chain], "stages")
		if list, ok = stages.(*ast.SequenceNode); !ok || list.Start == nil || colon == nil {
			return nil, ErrForm
		}
		l.colon = l.offset(colon) + 1
		break
	}
	if list == nil {
		return nil, ErrForm
	}
	l.flow = list.IsFlowStyle
	at := slices.IndexFunc(l.tokens, func(t *token.Token) bool {
		return t.Position.Line == list.Start.Position.Line && t.Position.Column == list.Start.Position.Column
	})
	find := l.block
	if l.flow {
		find = l.brackets
	}
	if at < 0 || !find(l.tokens[at:]) || len(l.spans) != n {
		return nil, ErrForm
	}
	return l, nil
}

// valueOf gives the value of a key of a mapping, and the token of its colon.
func valueOf(n ast.Node, key string) (ast.Node, *token.Token) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	}
	for _, v := range values {
		if k, ok := v.Key.(*ast.StringNode); ok && k.Value == key {
			return v.Value, v.Start
		}
	}
	return nil, nil
}

// offset is where a token begins.
func (l *layout) offset(t *token.Token) int {
	line := t.Position.Line - 1
	if line < 0 || line >= len(l.starts) {
		return len(l.data)
	}
	at := l.starts[line]
	for range t.Position.Column - 1 {
		_, size := utf8.DecodeRuneInString(l.data[at:])
		at += size
	}
	return at
}

// stretch is where a token stands; it must be on one line, and there.
func (l *layout) stretch(t *token.Token) (from, to int, ok bool) {
	s := strings.Trim(t.Origin, " \t\r\n")
	from = l.offset(t)
	to = from + len(s)
	return from, to, to <= len(l.data) && l.data[from:to] == s
}

func (l *layout) line(offset int) int { return sort.SearchInts(l.starts, offset+1) - 1 }

// brackets finds the items between [ and ].
func (l *layout) brackets(tokens token.Tokens) bool {
	depth, begun := 0, false
	var s span
	done := func(comma int) {
		if begun {
			s.comma, s.first, s.last = comma, l.line(s.from), l.line(s.to-1)
			l.spans = append(l.spans, s)
		}
		s, begun = span{}, false
	}
	for _, t := range tokens {
		if t.Type == token.CommentType {
			continue
		}
		from, to, ok := l.stretch(t)
		if !ok {
			return false
		}
		closing := t.Type == token.SequenceEndType || t.Type == token.MappingEndType
		if closing {
			depth--
		}
		switch {
		case closing && depth == 0:
			done(0)
			l.close = from
			return true
		case depth == 0:
			l.open = from
		case depth == 1 && t.Type == token.CollectEntryType:
			done(to)
		default:
			if !begun {
				s.from, begun = from, true
			}
			s.to = to
		}
		if t.Type == token.SequenceStartType || t.Type == token.MappingStartType {
			depth++
		}
	}
	return false
}

// block finds the items behind hyphens.
func (l *layout) block(tokens token.Tokens) bool {
	column, depth, begun := tokens[0].Position.Column, 0, false
	for _, t := range tokens {
		if t.Type == token.CommentType {
			continue
		}
		if depth == 0 && t.Position.Column <= column && (t.Position.Column < column || t.Type != token.SequenceEntryType) {
			break
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		}
		from, to, ok := l.stretch(t)
		if !ok {
			return false
		}
		if depth == 0 && t.Position.Column == column {
			l.spans = append(l.spans, span{from: from, to: to, first: l.line(from)})
			begun = true
			if strings.TrimLeft(l.data[l.starts[l.line(from)]:from], " ") != "" {
				return false
			}
		}
		if !begun {
			return false
		}
		s := &l.spans[len(l.spans)-1]
		s.to, s.last = to, l.line(to-1)
	}
	for i := range l.spans {
		s := &l.spans[i]
		for s.last+1 < len(l.starts) && l.comment(s.last+1) && l.indent(s.last+1) >= column {
			s.last++
		}
	}
	return begun
}

// content is a line without its end.
func (l *layout) content(line int) string {
	s := l.data[l.starts[line]:l.after(line)]
	return strings.TrimRight(s, "\r\n")
}

// after is where the line after a line begins.
func (l *layout) after(line int) int {
	if line+1 < len(l.starts) {
		return l.starts[line+1]
	}
	return len(l.data)
}

// comment says that a line holds nothing else.
func (l *layout) comment(line int) bool {
	return strings.HasPrefix(strings.TrimLeft(l.content(line), " \t"), "#")
}

func (l *layout) indent(line int) int {
	s := l.content(line)
	return len(s) - len(strings.TrimLeft(s, " "))
}

// head is the first line of what is said above an item, or the item's.
func (l *layout) head(i int) int {
	line, stop := l.spans[i].first, l.line(max(l.colon-1, l.open))
	if i > 0 {
		stop = l.spans[i-1].last
	}
	for line-1 > stop && l.comment(line-1) {
		line--
	}
	return line
}

// comments are those of a text, sorted; leave says in which lines they do not count.
func comments(tokens token.Tokens, leave func(line int) bool) []string {
	var out []string
	for _, t := range tokens {
		if t.Type == token.CommentType && !leave(t.Position.Line-1) {
			out = append(out, strings.TrimRight(t.Value, " \t"))
		}
	}
	slices.Sort(out)
	return out
}

// keepsComments says that an edit of the file has all its comments, but for those on the lines of what is removed.
func (l *layout) keepsComments(edited []byte, t target) bool {
	text := strings.ReplaceAll(strings.TrimPrefix(string(edited), "\ufeff"), "\r\n", "\n")
	got := comments(lexer.Tokenize(text), func(int) bool { return false })
	all := comments(l.tokens, func(int) bool { return false })
	if slices.Equal(got, all) {
		return true
	}
	if t.kind != EditRemove || l.flow && !l.alone(t.from) {
		return false
	}
	gone := l.spans[t.from]
	return slices.Equal(got, comments(l.tokens, func(line int) bool { return line >= gone.first && line <= gone.last }))
}

// alone says that nothing but an item, its comma and a comment stands on the lines of an item in brackets.
func (l *layout) alone(i int) bool {
	s := l.spans[i]
	end := max(s.to, s.comma)
	rest := strings.TrimSpace(l.data[end:max(end, l.after(l.line(end-1)))])
	return l.begins(i) && l.line(end-1) == s.last && (rest == "" || rest[0] == '#')
}

// begins says that nothing stands before an item on its line.
func (l *layout) begins(i int) bool {
	s := l.spans[i]
	return strings.TrimSpace(l.data[l.starts[s.first]:s.from]) == ""
}
