package disclaimer

import (
	"errors"
	"fmt"
	"html"
	htmltemplate "html/template"
	"reflect"
	"strings"
	texttemplate "text/template"
	"text/template/parse"
	"unicode/utf8"
)

// A template is text with variables, "{{.Sender}}", and nothing else of what Go's templates can do: no conditions, no
// functions. The names are the fields of Variables.

// textTemplate renders the text for text/plain parts.
type textTemplate struct{ t *texttemplate.Template }

// htmlTemplate renders the fragment for text/html parts. Values are escaped for the place they stand in: element,
// attribute, URL.
type htmlTemplate struct{ t *htmltemplate.Template }

func parseText(source string) (*textTemplate, error) {
	source, err := checkSource(source)
	if err != nil {
		return nil, err
	}
	t, err := texttemplate.New("text").Option("missingkey=error").Parse(source)
	if err != nil {
		return nil, explain(err)
	}
	if err := checkTree(t.Tree); err != nil {
		return nil, err
	}
	tt := &textTemplate{t}
	rendered, err := tt.render(Variables{})
	if err != nil {
		return nil, err
	}
	// Without its variables the text must still be there: the stage recognizes its own work by it.
	if squeeze(rendered) == "" {
		return nil, errors.New("there is no text besides variables")
	}
	return tt, nil
}

// render gives the text with LF as line end, without white space at the ends of lines, and without empty lines
// around.
func (t *textTemplate) render(v Variables) (string, error) {
	var b strings.Builder
	if err := t.t.Execute(&b, v.clean()); err != nil {
		return "", fmt.Errorf("text template: %w", err)
	}
	return trimLines(b.String()), nil
}

func parseHTML(source string) (*htmlTemplate, error) {
	source, err := checkSource(source)
	if err != nil {
		return nil, err
	}
	t, err := htmltemplate.New("html").Option("missingkey=error").Parse(source)
	if err != nil {
		return nil, explain(err)
	}
	if err := checkTree(t.Tree); err != nil {
		return nil, err
	}
	ht := &htmlTemplate{t}
	// The first run decides how values are escaped, and finds markup that is cut off.
	rendered, err := ht.render(Variables{})
	if err != nil {
		return nil, err
	}
	for _, tag := range []string{"<html", "</html", "<body", "</body", "<head", "<!doctype", "<script", "<plaintext"} {
		if strings.Contains(strings.ToLower(rendered), tag) {
			return nil, fmt.Errorf("%s> does not belong into a fragment that is put at the end of a body", tag)
		}
	}
	return ht, nil
}

// render gives the fragment in ASCII alone, with LF as line end: what is not ASCII is a character reference, which is
// right in every charset and needs no 8-bit transport.
func (t *htmlTemplate) render(v Variables) (string, error) {
	var b strings.Builder
	if err := t.t.Execute(&b, v.clean()); err != nil {
		return "", fmt.Errorf("html template: %w", explain(err))
	}
	return referenced(trimLines(b.String())), nil
}

// htmlFromText makes an HTML template of a text template. Variables have no character that is escaped.
func htmlFromText(source string) string {
	lines := strings.Split(trimLines(strings.ReplaceAll(source, "\r\n", "\n")), "\n")
	for i, l := range lines {
		lines[i] = html.EscapeString(l)
	}
	return "<p>" + strings.Join(lines, "<br>\n") + "</p>"
}

func checkSource(source string) (string, error) {
	if len(source) > maxTemplate {
		return "", fmt.Errorf("%d bytes; at most %d are allowed", len(source), maxTemplate)
	}
	source = strings.TrimPrefix(source, "\ufeff")
	if !utf8.ValidString(source) {
		return "", errors.New("is not UTF-8")
	}
	source = strings.ReplaceAll(source, "\r\n", "\n")
	for _, r := range source {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return "", fmt.Errorf("holds the control character %U", r)
		}
	}
	return source, nil
}

// checkTree admits text and plain variables.
func checkTree(tree *parse.Tree) error {
	if tree == nil || tree.Root == nil {
		return errors.New("is empty")
	}
	for _, n := range tree.Root.Nodes {
		switch n := n.(type) {
		case *parse.TextNode, *parse.CommentNode:
		case *parse.ActionNode:
			name, ok := variable(n)
			if !ok {
				return fmt.Errorf("line %d: %s: only variables like {{.Sender}} are possible", n.Line, n)
			}
			if _, known := reflect.TypeFor[Variables]().FieldByName(name); !known {
				return fmt.Errorf("line %d: there is no variable .%s (there are %s)", n.Line, name, variableNames())
			}
		default:
			return fmt.Errorf("%s: only variables like {{.Sender}} are possible", n)
		}
	}
	return nil
}

func variable(n *parse.ActionNode) (string, bool) {
	if len(n.Pipe.Decl) > 0 || len(n.Pipe.Cmds) != 1 || len(n.Pipe.Cmds[0].Args) != 1 {
		return "", false
	}
	f, ok := n.Pipe.Cmds[0].Args[0].(*parse.FieldNode)
	if !ok || len(f.Ident) != 1 {
		return "", false
	}
	return f.Ident[0], true
}

// explain takes the library's name for the template off an error.
func explain(err error) error {
	s := err.Error()
	for _, prefix := range []string{"template: ", "html/template:", "text:", "html:"} {
		s = strings.TrimPrefix(s, prefix)
	}
	return errors.New("line " + s)
}

func trimLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		// "-- " is the separator before a signature (RFC 3676, section 4.3), its space a part of it.
		if l != "-- " {
			lines[i] = strings.TrimRight(l, " \t")
		}
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}

// referenced replaces what is not ASCII with numeric character references.
func referenced(s string) string {
	if isASCII(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "&#%d;", r)
		}
	}
	return b.String()
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
