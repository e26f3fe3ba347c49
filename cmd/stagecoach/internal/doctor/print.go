package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// marks stand for the levels on a terminal.
var marks = map[Level]string{OK: "✓", Info: "·", Warning: "!", Error: "✗"}

// Print writes a line for each finding, the remedy indented below it; to a terminal with marks, else with words, one
// finding for each line that does not begin with a space.
func Print(w io.Writer, findings []Finding, terminal bool) error {
	for _, f := range findings {
		begin := fmt.Sprintf("%-7s  %s: ", f.Level, f.Check)
		indent := "         "
		if terminal {
			begin = marks[f.Level] + " " + f.Check + ": "
			indent = "    "
		}
		if f.Subject != "" {
			begin += clean(f.Subject) + ": "
		}
		if _, err := fmt.Fprintln(w, begin+clean(f.Text)); err != nil {
			return err
		}
		if f.Remedy != "" {
			if _, err := fmt.Fprintln(w, indent+clean(f.Remedy)); err != nil {
				return err
			}
		}
	}
	return nil
}

// PrintJSON writes the findings as one array.
func PrintJSON(w io.Writer, findings []Finding) error {
	if findings == nil {
		findings = []Finding{}
	}
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(findings)
}

// clean keeps what servers and the DNS said from acting on a terminal, and on one line.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}
