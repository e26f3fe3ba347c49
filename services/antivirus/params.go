package antivirus

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// param is a "key=value" of a header field as one reader may see it; value is as it stands there, quotes included.
type param struct{ key, value string }

// splitParams cuts a field's value into its parameters in the two ways that are in use: a quoted string is one thing
// (RFC 2045, section 5.1), and a semicolon always separates. Keys that wanted does not want are left out.
func splitParams(value string, wanted func(key string) bool) []param {
	var out []param
	add := func(segment string) {
		key, val, ok := strings.Cut(segment, "=")
		if !ok {
			return
		}
		key = strings.ToLower(strings.TrimSpace(stripComments(key)))
		if wanted(key) {
			out = append(out, param{key, strings.TrimSpace(val)})
		}
	}
	start, quoted := 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ';' && !quoted:
			add(value[start:i])
			start = i + 1
		}
	}
	add(value[start:])
	if strings.Contains(value, `"`) {
		for segment := range strings.SplitSeq(value, ";") {
			add(segment)
		}
	}
	return out
}

// nameKey is a key that bears a file name: with RFC 2231's section number and asterisk.
var nameKey = regexp.MustCompile(`^(name|filename)(\*([0-9]{1,4}))?(\*)?$`)

func isNameKey(key string) bool { return nameKey.MatchString(key) }

// stripComments takes out RFC 5322 comments that are closed.
func stripComments(s string) string {
	if strings.IndexByte(s, ')') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	var open []int // where the comments begin that are open
	for i := range len(s) {
		out = append(out, s[i])
		switch n := len(open); {
		case s[i] == '(':
			open = append(open, len(out)-1)
		case s[i] == ')' && n > 0:
			out, open = out[:open[n-1]], open[:n-1]
		}
	}
	return string(out)
}

// readings are what the value of a parameter may be taken for.
func readings(value string) []string {
	out := []string{value, strings.Trim(value, `"' `), strings.ReplaceAll(value, `"`, "")}
	if rest, ok := strings.CutPrefix(value, `"`); ok {
		out = append(out, unquote(rest))
		if inner, _, ok := strings.Cut(rest, `"`); ok {
			out = append(out, inner)
		}
	} else if i := strings.IndexAny(value, " \t("); i > 0 {
		// Some take everything up to the semicolon, some the first word.
		out = append(out, value[:i], strings.TrimSpace(stripComments(value)))
	}
	return out
}

// unquote reads a quoted string after its first quote.
func unquote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String()
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// maxNames bounds the readings of the names in one field.
const maxNames = 2000

// fieldNames gives every file name that a reader may find in a Content-Type or Content-Disposition, still in its
// charset and with its encoded words. It says whether these are all.
func fieldNames(value string) (out []string, all bool) {
	type section struct {
		number int
		value  string
	}
	sections := make(map[string][]section)
	for _, p := range splitParams(value, isNameKey) {
		if len(out) > maxNames {
			return out, false
		}
		m := nameKey.FindStringSubmatch(p.key)
		for _, v := range readings(p.value) {
			out = append(out, v)
			if m[4] != "" || strings.Contains(v, "%") {
				out = append(out, percentDecode(extValue(v)), percentDecode(v))
			}
		}
		if m[3] != "" {
			n, _ := strconv.Atoi(m[3])
			v := strings.Trim(p.value, `"`)
			if strings.HasPrefix(p.value, `"`) {
				v = unquote(p.value[1:])
			}
			sections[m[1]] = append(sections[m[1]], section{n, v})
		}
	}
	// Continuations (RFC 2231, section 3), in the order of their numbers and in that of the message.
	for _, s := range sections {
		for range 2 {
			var b strings.Builder
			for _, x := range s {
				b.WriteString(x.value)
			}
			joined := b.String()
			out = append(out, joined, percentDecode(extValue(joined)), percentDecode(joined))
			slices.SortStableFunc(s, func(a, b section) int { return a.number - b.number })
		}
	}
	return out, true
}

// boundaries gives what readers may take for the boundary of a multipart.
func boundaries(value string) []string {
	var out []string
	isBoundary := func(key string) bool { return strings.TrimRight(key, "*0123456789") == "boundary" }
	for _, p := range splitParams(value, isBoundary) {
		if rest, ok := strings.CutPrefix(p.value, `"`); ok {
			inner, _, _ := strings.Cut(rest, `"`)
			out = append(out, unquote(rest), inner)
			continue
		}
		out = append(out, strings.TrimRight(p.value, `"`))
		if i := strings.IndexAny(p.value, " \t("); i >= 0 {
			out = append(out, p.value[:i])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// extValue takes charset and language off an RFC 2231 value.
func extValue(v string) string {
	if parts := strings.SplitN(v, "'", 3); len(parts) == 3 {
		return parts[2]
	}
	return v
}

// extCharset gives the charset of an RFC 2231 value, or "".
func extCharset(v string) string {
	if parts := strings.SplitN(v, "'", 3); len(parts) == 3 {
		return strings.Trim(parts[0], `" `)
	}
	return ""
}

// hexDecode decodes mark and two hexadecimal digits, as in "%41" and "=41"; what is none stays.
func hexDecode(s string, mark byte) string {
	if strings.IndexByte(s, mark) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == mark && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func percentDecode(s string) string { return hexDecode(s, '%') }
