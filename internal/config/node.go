package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// The bounds of a file.
const (
	maxFile  = 256 << 10 // bytes; the YAML library takes quadratic time on some malformed input
	maxDepth = 32
)

type kind int

const (
	kindBad kind = iota // reported already; whoever meets it says nothing more
	kindNull
	kindBool
	kindNumber
	kindText
	kindMap
	kindList
)

func (k kind) String() string {
	return [...]string{"unreadable", "nothing", "a boolean", "a number", "text", "a mapping", "a list"}[k]
}

// node is a value of the file with its place. The YAML library's tree is left behind at once: what we take of the
// language (no anchors, tags, merges) fits into this.
type node struct {
	spot
	kind    kind
	text    string // of a scalar, as it means; of a number, as written
	entries []entry
	items   []*node
}

type entry struct {
	key   *node
	value *node
}

// find gives the value of a key, or nil.
func (n *node) find(key string) *node {
	for _, e := range n.entries {
		if e.key.text == key {
			return e.value
		}
	}
	return nil
}

// plain gives the value as encoding/json would.
func (n *node) plain() any {
	switch n.kind {
	case kindBool:
		return n.text == "true"
	case kindNumber:
		f, _ := strconv.ParseFloat(n.text, 64)
		return f
	case kindText:
		return n.text
	case kindMap:
		m := make(map[string]any, len(n.entries))
		for _, e := range n.entries {
			m[e.key.text] = e.value.plain()
		}
		return m
	case kindList:
		l := make([]any, len(n.items))
		for i, v := range n.items {
			l[i] = v.plain()
		}
		return l
	}
	return nil
}

// readTree reads the one document of a file. It reports to p and gives nil where nothing can be made of it.
func readTree(p *problems, data []byte) *node {
	if len(data) > maxFile {
		p.add(spot{1, 1}, "", "the file has %d bytes; %d are the limit", len(data), maxFile)
		return nil
	}
	text := strings.ReplaceAll(strings.TrimPrefix(string(data), "\ufeff"), "\r\n", "\n")
	p.lines = strings.Split(text, "\n")
	if !checkCharacters(p, text) {
		return nil
	}
	file := parse(p, text)
	if file == nil {
		return nil
	}
	var root *node
	r := reader{p: p}
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		at := place(doc.Body)
		if root != nil {
			p.add(at, "", "a second YAML document; the file is one")
			break
		}
		root = r.node(doc.Body, at, "", 0)
	}
	if root == nil {
		p.add(spot{1, 1}, "", "the file is empty")
	}
	return root
}

// checkCharacters lets through what YAML calls printable (YAML 1.2.2, section 5.1), and LF alone as a line end.
func checkCharacters(p *problems, text string) bool {
	line, col := 1, 1
	for _, r := range text {
		switch {
		case r == utf8.RuneError:
			p.add(spot{line, col}, "", "not UTF-8")
			return false
		case r == '\n':
			line, col = line+1, 1
			continue
		case r == '\t', r == '\u0085':
		case r < ' ', r >= 0x7f && r < 0xa0, r == '\ufeff':
			p.add(spot{line, col}, "", "control character %U", r)
			return false
		}
		col++
	}
	return true
}

// parse refuses, before the recursive parser sees it, what we do not take and what would run deep.
func parse(p *problems, text string) (file *ast.File) {
	defer func() {
		if v := recover(); v != nil { // the library's own fault on input that it should have refused
			p.add(spot{1, 1}, "", "not YAML that can be read: %v", v)
			file = nil
		}
	}()
	tokens := lexer.Tokenize(text)
	if !checkTokens(p, tokens) {
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err == nil {
		return file
	}
	var at spot
	msg := err.Error()
	if e, ok := err.(interface {
		GetToken() *token.Token
		GetMessage() string
	}); ok {
		msg = e.GetMessage()
		if t := e.GetToken(); t != nil && t.Position != nil {
			at = spot{t.Position.Line, t.Position.Column}
		}
	}
	p.add(at, "", "not YAML: %s", strings.ReplaceAll(msg, "'\t'", "tab"))
	return nil
}

func checkTokens(p *problems, tokens token.Tokens) bool {
	good, depth, line, compact := true, 0, 0, 0
	for _, t := range tokens {
		at := spot{t.Position.Line, t.Position.Column}
		refused := ""
		switch t.Type {
		case token.AnchorType, token.AliasType:
			refused = "anchors and aliases (& and *) are not taken: write it out, or put quotes around it if it is text"
		case token.MergeKeyType:
			refused = "merge keys (<<) are not taken: write it out"
		case token.TagType:
			refused = "tags (!) are not taken: put quotes around it if it is text"
		case token.DirectiveType:
			refused = "directives (%) are not taken"
		case token.MappingKeyType:
			refused = "complex keys (?) are not taken"
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			depth--
		case token.SequenceEntryType:
			if at.line != line {
				line, compact = at.line, 0
			}
			compact++
		}
		if refused != "" {
			p.add(at, "", "%s", refused)
			good = false
		}
		if depth > maxDepth || compact > maxDepth {
			p.add(at, "", "nested deeper than %d", maxDepth)
			return false
		}
	}
	return good
}

// reader makes nodes of the library's tree.
type reader struct{ p *problems }

// decimal is what we take as a number; other forms (octal, hexadecimal, 1_000) mean different things to different
// readers of YAML.
var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?$`)

// maxExact is the largest integer that JSON carries exactly (RFC 8785, section 3.2.2.3).
const maxExact = 1<<53 - 1

func (r *reader) node(n ast.Node, at spot, path string, depth int) *node {
	if n == nil {
		return &node{spot: at, kind: kindNull}
	}
	at = place(n)
	bad := &node{spot: at}
	if depth > maxDepth {
		r.p.add(at, path, "nested deeper than %d", maxDepth)
		return bad
	}
	switch n := n.(type) {
	case *ast.NullNode:
		return &node{spot: at, kind: kindNull}
	case *ast.BoolNode:
		return &node{spot: at, kind: kindBool, text: strconv.FormatBool(n.Value)}
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		text := n.GetToken().Value
		f, err := strconv.ParseFloat(text, 64)
		whole := !strings.ContainsAny(text, ".eE")
		if !decimal.MatchString(text) || err != nil || (whole && (f > maxExact || f < -maxExact)) {
			r.p.add(at, path, "%s is a number to YAML, but not one we take: write it in plain decimal, or in quotes if it is text", text)
			return bad
		}
		return &node{spot: at, kind: kindNumber, text: text}
	case *ast.StringNode:
		return &node{spot: at, kind: kindText, text: n.Value}
	case *ast.LiteralNode:
		return &node{spot: at, kind: kindText, text: n.Value.Value}
	case *ast.MappingNode:
		return r.mapping(n.Values, at, path, depth)
	case *ast.MappingValueNode:
		return r.mapping([]*ast.MappingValueNode{n}, at, path, depth)
	case *ast.SequenceNode:
		list := &node{spot: at, kind: kindList}
		for i, v := range n.Values {
			list.items = append(list.items, r.node(v, at, fmt.Sprintf("%s[%d]", path, i), depth+1))
		}
		return list
	}
	r.p.add(at, path, "this form of YAML (%s) is not taken", n.Type())
	return bad
}

func (r *reader) mapping(values []*ast.MappingValueNode, at spot, path string, depth int) *node {
	m := &node{spot: at, kind: kindMap}
	seen := map[string]spot{}
	for _, v := range values {
		key := r.node(v.Key, at, path, depth+1)
		if key.kind == kindBad {
			continue
		}
		below := join(path, key.text)
		if key.kind != kindText {
			r.p.add(key.spot, below, "a key is text: put quotes around it")
			continue
		}
		if first, ok := seen[key.text]; ok {
			r.p.add(key.spot, below, "stands here a second time; the first is at line %d", first.line)
			continue
		}
		seen[key.text] = key.spot
		m.entries = append(m.entries, entry{key, r.node(v.Value, key.spot, below, depth+1)})
	}
	return m
}

// place is where a node begins. The library names a block mapping after its first colon.
func place(n ast.Node) spot {
	switch v := n.(type) {
	case *ast.MappingNode:
		if !v.IsFlowStyle && len(v.Values) > 0 {
			return place(v.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return place(v.Key)
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return spot{t.Position.Line, t.Position.Column}
	}
	return spot{1, 1}
}

var simpleKey = regexp.MustCompile(`^[\pL\pN_-][\pL\pN_.-]*$`)

// join makes the key path of a key below path.
func join(path, key string) string {
	if !simpleKey.MatchString(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
