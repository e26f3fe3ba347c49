package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Every event that the programs log above DEBUG stands in docs/log.md.
func TestLogIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/log.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, dir := range []string{"../../services", "../../internal", "../../stage/serve", "."} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			for _, msg := range logged(t, path) {
				found++
				if !strings.Contains(string(doc), "`"+msg) {
					t.Errorf("%s logs %q, which docs/log.md does not have", path, msg)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 50 {
		t.Errorf("only %d events were found", found)
	}
}

// logged are the messages of the calls that log in a file.
func logged(t *testing.T, path string) (msgs []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		f, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		at := -1
		switch f.Sel.Name {
		case "Info", "Warn", "Error":
			at = 0
		case "LogAttrs", "Log":
			at = 2
		}
		if at < 0 || len(call.Args) <= at {
			return true
		}
		if lit, ok := call.Args[at].(*ast.BasicLit); ok && lit.Kind == token.STRING {
			msg, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			msgs = append(msgs, strings.TrimSpace(strings.TrimSuffix(msg, ": ")))
		}
		return true
	})
	return msgs
}
