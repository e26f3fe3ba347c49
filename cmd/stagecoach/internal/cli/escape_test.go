package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain, äöü, 日本, 🙂":      "plain, äöü, 日本, 🙂",
		"a\x1b[31mb":             `a\x1b[31mb`,
		"a\r\nb\tc":              `a\r\nb\tc`,
		"\u202eexe.pdf\u2066":    `\u202eexe.pdf\u2066`,
		"\u0085\u009b2J\u2028":   `\u0085\u009b2J\u2028`,
		"\xff\xfe\x00\x7f":       `\xff\xfe\x00\x7f`,
		"\ufeff\u00ad\U000e0041": `\ufeff\u00ad\U000e0041`,
		"नमस्\u200dते":           "नमस्\u200dते",
		"a\ufffdb":               "a\ufffdb",
		"":                       "",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q is shown as %q, not as %q", in, got, want)
		}
	}
	if got := escape("a\tb\n", true); got != "a\tb\\n" {
		t.Errorf("with tabs: %q", got)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[31m\u202e\xff")
	f.Add("\U000e0041\t\r\n\u0085")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if !utf8.ValidString(got) {
			t.Fatalf("%q is shown as %q, which is no UTF-8", s, got)
		}
		for _, r := range got {
			if r < ' ' || r >= 0x7F && r < 0xA0 || r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x2069 || r == 0x2028 || r == 0x2029 || r == 0x200E || r == 0x200F {
				t.Fatalf("%q is shown as %q, with %U in it", s, got, r)
			}
		}
		if again := clean(got); again != got {
			t.Fatalf("%q is shown as %q, and that as %q", s, got, again)
		}
		if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !harmless(r) }) < 0 && got != s {
			t.Fatalf("%q is harmless, and shown as %q", s, got)
		}
	})
}

// The escapes of a document are safe to show, and mean the same.
func FuzzEscapeJSON(f *testing.F) {
	f.Add("a\x1b[31m\u202e\U000e0041\u2028\x7f")
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "?")
		doc, err := json.Marshal(map[string]string{s: s})
		if err != nil {
			t.Fatal(err)
		}
		safe := string(escapeJSON(doc))
		if clean(safe) != safe {
			t.Fatalf("%q is written as %q", s, safe)
		}
		var back map[string]string
		if err := json.Unmarshal([]byte(safe), &back); err != nil || back[s] != s || len(back) != 1 {
			t.Fatalf("%q is written as %q, and read as %q (%v)", s, safe, back, err)
		}
	})
}
