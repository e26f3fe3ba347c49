package cli

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// clean makes s safe to be shown in one line of a terminal: control characters, line ends, what turns the direction of
// writing or cannot be seen, and bytes that are no UTF-8 are shown as \n, \x1b, \u202e.
func clean(s string) string { return escape(s, false) }

// escape is clean, with tabs left as they are where asked for: in lines of messages they do no harm.
func escape(s string, tabs bool) string {
	ok := func(r rune, n int) bool { return r == '\t' && tabs || harmless(r) && !(r == utf8.RuneError && n == 1) }
	i := 0
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		if !ok(r, n) {
			break
		}
		i += n
	}
	if i == len(s) {
		return s
	}
	var b strings.Builder
	b.WriteString(s[:i])
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case ok(r, n):
			b.WriteRune(r)
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 1<<16:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += n
	}
	return b.String()
}

// harmless: visible characters and spaces, and the two joiners that some scripts need. Not: control characters (C0, C1),
// format characters (the overrides of direction among them), separators of lines, private and unassigned ones.
func harmless(r rune) bool {
	if r < utf8.RuneSelf {
		return r >= ' ' && r != 0x7F
	}
	return unicode.IsGraphic(r) || r == 0x200C || r == 0x200D
}

// escapeJSON puts \u escapes for the same characters into the strings of a JSON document, which leaves its meaning as
// it is. JSON itself only demands it for those below U+0020.
func escapeJSON(doc []byte) []byte {
	var b strings.Builder
	b.Grow(len(doc))
	for i := 0; i < len(doc); {
		r, n := utf8.DecodeRune(doc[i:])
		switch {
		case r < ' ' || harmless(r):
			b.Write(doc[i : i+n])
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += n
	}
	return []byte(b.String())
}
