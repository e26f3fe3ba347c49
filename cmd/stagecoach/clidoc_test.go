package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

// each calls f for every command but those that cobra brings along.
func each(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		if sub.Name() != "help" && sub.Name() != "completion" && !sub.Hidden {
			each(sub, f)
		}
	}
}

// Every command says what it does, has an example of itself, and shows its help.
func TestHelp(t *testing.T) {
	each(root(), func(c *cobra.Command) {
		out, _, err := run(t, append(strings.Fields(c.CommandPath())[1:], "--help")...)
		if err != nil || !strings.Contains(out, c.Short) && !strings.Contains(out, c.Long) {
			t.Errorf("%s --help: %v\n%s", c.CommandPath(), err, out)
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: its Short is %q", c.CommandPath(), c.Short)
		}
		if c.IsAdditionalHelpTopicCommand() {
			return
		}
		if !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s has no example of itself", c.CommandPath())
		}
		for _, line := range append(strings.Split(c.Long, "\n"), strings.Split(c.Example, "\n")...) {
			if len([]rune(line)) > 140 {
				t.Errorf("%s: a line of its help is too long: %s", c.CommandPath(), line)
			}
		}
		if usage := c.LocalFlags().FlagUsages(); strings.Contains(usage, "--up stagecoach up") {
			t.Errorf("%s: backquotes in a flag's usage name its value:\n%s", c.CommandPath(), usage)
		}
	})
}

// docs/cli.md is made of the commands' own help.
func TestDocIsWhatTheCommandsSay(t *testing.T) {
	file := filepath.Join("..", "..", "docs", "cli.md")
	want := reference(root())
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) == want {
		return
	}
	old, now := strings.Split(string(got), "\n"), strings.Split(want, "\n")
	for i := range max(len(old), len(now)) {
		if i >= len(old) || i >= len(now) || old[i] != now[i] {
			t.Fatalf("docs/cli.md is not what the commands say, from line %d on: write it anew with\n    go test ./cmd/stagecoach -run TestDoc -update", i+1)
		}
	}
}

const preface = `# The command line

<!-- Made of the commands' own help by the test TestDocIsWhatTheCommandsSay. Change the help, then:
     go test ./cmd/stagecoach -run TestDoc -update -->

` + "`stagecoach help COMMAND`" + ` tells all of this as well. Completion for a shell is made by ` + "`stagecoach completion bash`" + ` (or zsh, fish,
powershell); ids, rooms, routes and users are completed from the running Stagecoach, chains and stages from the configuration.

`

// reference is docs/cli.md.
func reference(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString(preface)
	each(root, func(c *cobra.Command) {
		if c != root && !c.IsAdditionalHelpTopicCommand() && c.Parent() == root {
			fmt.Fprintf(&b, "- [%s](#%s): %s\n", c.CommandPath(), strings.ReplaceAll(c.CommandPath(), " ", "-"), c.Short)
		}
	})
	each(root, func(c *cobra.Command) {
		if c.IsAdditionalHelpTopicCommand() {
			fmt.Fprintf(&b, "\n## %s\n\n```text\n%s\n```\n", c.Short, c.Long)
		}
	})
	each(root, func(c *cobra.Command) {
		if c == root || c.IsAdditionalHelpTopicCommand() {
			return
		}
		level := "##"
		if c.Parent() != root {
			level = "###"
		}
		fmt.Fprintf(&b, "\n%s %s\n\n%s.\n\n```text\n", level, c.CommandPath(), c.Short)
		if c.Long != "" {
			fmt.Fprintf(&b, "%s\n\n", c.Long)
		}
		fmt.Fprintf(&b, "Usage: %s\n\n%s\n", c.UseLine(), c.Example)
		if flags := c.NonInheritedFlags(); flags.HasAvailableFlags() {
			fmt.Fprintf(&b, "\n%s", flags.FlagUsages())
		}
		b.WriteString("```\n")
	})
	return b.String()
}
