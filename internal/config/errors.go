package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Error is one thing that is wrong with a configuration file.
type Error struct {
	// File as it was named to Load or Parse.
	File string
	// Line and Column count from 1; Column counts characters, not bytes.
	Line, Column int
	// KeyPath names the key, "chains[0].deliver"; empty where there is none (a syntax error).
	KeyPath string
	Message string
	// Snippet is the offending line and, below it, a caret under the offending column. What stands behind the name of
	// a secret is left out.
	Snippet string
}

// Error gives file:line:column: key.path: message, and the snippet on lines of its own.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: ", e.File, e.Line, e.Column)
	if e.KeyPath != "" {
		b.WriteString(e.KeyPath + ": ")
	}
	b.WriteString(e.Message)
	if e.Snippet != "" {
		for line := range strings.SplitSeq(e.Snippet, "\n") {
			b.WriteString("\n    | " + line)
		}
	}
	return b.String()
}

// Errors are all that is wrong with a file, in its order. As an error it is never empty.
type Errors []*Error

// Error gives every error, one below the other.
func (e Errors) Error() string {
	s := make([]string, len(e))
	for i, one := range e {
		s[i] = one.Error()
	}
	return strings.Join(s, "\n")
}

// Unwrap gives the single errors to errors.As.
func (e Errors) Unwrap() []error {
	s := make([]error, len(e))
	for i, one := range e {
		s[i] = one
	}
	return s
}

// spot is a place in the file.
type spot struct{ line, col int }

// problems collects what is wrong; the reading goes on.
type problems struct {
	file     string
	lines    []string
	errors   Errors
	warnings Errors
	count    int // of all errors, those too that are not kept
}

// maxErrors is where a list of errors ends; who has read so many reads the rest after the next try.
const maxErrors = 200

func (p *problems) add(at spot, path, format string, args ...any) {
	if p.count++; p.count > maxErrors {
		return
	}
	p.errors = append(p.errors, p.make(at, path, format, args...))
}

func (p *problems) warn(at spot, path, format string, args ...any) {
	p.warnings = append(p.warnings, p.make(at, path, format, args...))
}

func (p *problems) make(at spot, path, format string, args ...any) *Error {
	at.line = min(max(at.line, 1), max(len(p.lines), 1))
	line := ""
	if at.line <= len(p.lines) {
		line = p.lines[at.line-1]
	}
	at.col = min(max(at.col, 1), len([]rune(line))+1)
	return &Error{File: p.file, Line: at.line, Column: at.col, KeyPath: clip(path),
		Message: clip(printable(fmt.Sprintf(format, args...))), Snippet: snippet(line, at.col)}
}

// clip keeps a file that is one endless word from filling the log.
func clip(s string) string {
	const most = 500
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// err is nil or all errors, sorted; what two checks say in the same words about the same place stands once.
func (p *problems) err() error {
	if len(p.errors) == 0 {
		return nil
	}
	if p.count > maxErrors {
		last := *p.errors[len(p.errors)-1]
		last.KeyPath, last.Message, last.Snippet = "", fmt.Sprintf("and %d more errors", p.count-maxErrors), ""
		return append(sorted(p.errors), &last)
	}
	return sorted(p.errors)
}

func sorted(e Errors) Errors {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.CompactFunc(e, func(a, b *Error) bool { return *a == *b })
}

// secretKey finds a key whose value must not be shown, even where the file should not have had it.
var (
	secretKey = regexp.MustCompile(`(?i)((?:password|passwd|passphrase|secret|token|private_key|api_key)["']?\s*:)\s*[^\s].*`)
	userInfo  = regexp.MustCompile(`://[^@/\s"']*@`)
)

const snippetWidth = 100

// snippet shows a window of the line around the column, col counted from 1.
func snippet(line string, col int) string {
	if strings.TrimSpace(line) == "" {
		return ""
	}
	line = secretKey.ReplaceAllString(line, "$1 ...")
	line = userInfo.ReplaceAllString(line, "://...@")
	r := []rune(printable(line))
	from := 0
	if col > snippetWidth {
		from = min(col-snippetWidth/2, max(len(r)-snippetWidth/2, 0))
	}
	to := min(from+snippetWidth, len(r))
	return string(r[from:to]) + "\n" + strings.Repeat(" ", max(col-1-from, 0)) + "^"
}

// printable keeps what a terminal or a log would act upon out of what we print.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}
