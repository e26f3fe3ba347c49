package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/services/signer"
)

var (
	yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")
	namedFile = regexp.MustCompile(`(?:password_file|recipients: \{file): ([^,}\s]+)`)
)

// Every configuration of the recipes is one that runs: its files are put there, and it has no errors.
func TestRecipes(t *testing.T) {
	recipes, err := filepath.Glob("../../docs/recipes/*.md")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, recipe := range recipes {
		text, err := os.ReadFile(recipe)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
			tried++
			t.Run(filepath.Base(recipe), func(t *testing.T) { tryRecipe(t, block[1]) })
		}
	}
	if tried < 5 {
		t.Errorf("only %d recipes were tried", tried)
	}
}

func tryRecipe(t *testing.T, text string) {
	dir := t.TempDir()
	put := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range namedFile.FindAllStringSubmatch(text, -1) {
		put(m[1], "postmaster@example.com\n")
	}
	if strings.Contains(text, "users_file") {
		put("users.yaml", "users: {}\n")
	}
	if strings.Contains(text, "key_dir") {
		if _, err := signer.WriteKeys(filepath.Join(dir, "keys"), "example.com", "s1"); err != nil {
			t.Fatal(err)
		}
	}
	put("tls/fullchain.pem", "x")
	put("tls/key.pem", "x")
	cfg, err := config.Options{Mode: config.ModeUp, Factories: factories()}.Parse(filepath.Join(dir, "stagecoach.yaml"), dir, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range cfg.Warnings {
		t.Errorf("a recipe that warns: %v", w)
	}
}
