package mail

import (
	"slices"
	"strconv"
	"strings"
)

// maxParams bounds the parameters of one field.
const maxParams = 100

// fieldValue is a structured value with parameters (RFC 2045, section 5.1), read tolerantly.
type fieldValue struct {
	value    string              // what stands before the parameters, without comments
	params   map[string]string   // decoded; an RFC 2231 form comes before a plain one
	others   map[string][]string // what other readers may take for the value
	extended map[string]bool     // parameters in an RFC 2231 form
	defects  []DefectKind
}

// all gives every form in which a parameter is there.
func (v *fieldValue) all(name string) []string {
	var a []string
	if s, ok := v.params[name]; ok {
		a = append(a, s)
	}
	return append(a, v.others[name]...)
}

// segment is a part of a parameter that RFC 2231, section 3 has split.
type segment struct {
	index   int
	encoded bool
	text    string
}

func parseValue(s string) fieldValue {
	v := fieldValue{params: map[string]string{}, others: map[string][]string{}, extended: map[string]bool{}}
	sc := scanner{s: s}
	v.value = strings.Trim(sc.until(";"), " \t")
	segments := map[string][]segment{}
	for n := 0; sc.next(); n++ {
		if n == maxParams {
			sc.bad = true
			break
		}
		name := strings.ToLower(strings.Trim(sc.until("=;"), " \t"))
		if !sc.take('=') {
			sc.bad = sc.bad || name != ""
			continue
		}
		text, first := sc.paramValue()
		if !isToken(name) {
			sc.bad = true
			continue
		}
		base, seg, ext := splitExtended(name)
		if !ext {
			if had, twice := v.params[name]; twice {
				v.repeat(name, had, text)
				continue
			}
			v.params[name] = text
			if first != text {
				v.others[name] = append(v.others[name], first)
			}
			continue
		}
		seg.text = text
		segments[base] = append(segments[base], seg)
	}
	for name, list := range segments {
		text, ok, repeated := joinSegments(list)
		if repeated {
			v.repeat(name, "", text)
		}
		if !ok {
			sc.bad = true
		}
		if p, both := v.params[name]; both {
			v.others[name] = append(v.others[name], p)
		}
		v.params[name], v.extended[name] = text, true
	}
	if sc.bad {
		v.defects = append(v.defects, DefectParam)
	}
	return v
}

// repeat notes a parameter that is there again. Only where readers could see another part or another name does it
// matter that they differ in which one they take.
func (v *fieldValue) repeat(name, had, again string) {
	v.others[name] = append(v.others[name], again)
	switch name {
	case "boundary", "name", "filename":
		if had != again {
			v.defects = append(v.defects, DefectParamRepeat)
			return
		}
	}
	v.defects = append(v.defects, DefectParam)
}

// splitExtended takes the name of a parameter in an RFC 2231 form apart: "name*", "name*0", "name*0*".
func splitExtended(name string) (base string, seg segment, ok bool) {
	base, rest, ok := strings.Cut(name, "*")
	if !ok || base == "" {
		return name, segment{}, false
	}
	if rest == "" {
		return base, segment{index: -1, encoded: true}, true
	}
	rest, seg.encoded = strings.CutSuffix(rest, "*")
	i, err := strconv.ParseUint(rest, 10, 16)
	if err != nil {
		return name, segment{}, false
	}
	seg.index = int(i)
	return base, seg, true
}

// joinSegments puts a split parameter together again. A form without number comes before one with numbers.
func joinSegments(list []segment) (text string, ok, repeated bool) {
	slices.SortStableFunc(list, func(a, b segment) int { return a.index - b.index })
	ok = true
	var b strings.Builder
	charset := ""
	for i, s := range list {
		if i > 0 && s.index == list[i-1].index {
			repeated = true
			continue
		}
		if list[0].index == -1 && i > 0 {
			repeated = true
			break
		}
		if s.index > 0 && (i == 0 || list[i-1].index != s.index-1) {
			ok = false
		}
		t := s.text
		if s.encoded {
			if i == 0 {
				if parts := strings.SplitN(t, "'", 3); len(parts) == 3 {
					charset, t = parts[0], parts[2]
				} else {
					ok = false
				}
			}
			t = percentDecode(t)
		}
		b.WriteString(t)
	}
	return toUTF8(charset, b.String()), ok, repeated
}

func percentDecode(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// isToken: RFC 2045, section 5.1.
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte(`()<>@,;:\"/[]?=`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// scanner goes through a structured value.
type scanner struct {
	s   string
	bad bool
}

// next skips what separates parameters, and says whether there is one more.
func (sc *scanner) next() bool {
	sc.s = strings.TrimLeft(sc.s, "; \t")
	return sc.s != ""
}

func (sc *scanner) take(c byte) bool {
	if sc.s == "" || sc.s[0] != c {
		return false
	}
	sc.s = sc.s[1:]
	return true
}

// until gives what stands before the first of the stop characters, without comments (RFC 5322, section 3.2.2).
func (sc *scanner) until(stop string) string {
	if strings.IndexByte(sc.s, '(') < 0 {
		i := strings.IndexAny(sc.s, stop)
		if i < 0 {
			i = len(sc.s)
		}
		t := sc.s[:i]
		sc.s = sc.s[i:]
		return t
	}
	var b strings.Builder
	depth, i := 0, 0
	for ; i < len(sc.s); i++ {
		c := sc.s[i]
		switch {
		case c == '(':
			depth++
		case depth > 0 && c == ')':
			depth--
			b.WriteByte(' ')
		case depth > 0 && c == '\\':
			i++
		case depth > 0:
		case strings.IndexByte(stop, c) >= 0:
			t := b.String()
			sc.s = sc.s[i:]
			return t
		default:
			b.WriteByte(c)
		}
	}
	sc.bad = sc.bad || depth > 0
	sc.s = ""
	return b.String()
}

// paramValue takes the value of a parameter, quoted or not, up to the next semicolon. If it has spaces and no quotes,
// first is what a reader takes that stops at the first one.
func (sc *scanner) paramValue() (text, first string) {
	sc.s = strings.TrimLeft(sc.s, " \t")
	if !sc.take('"') {
		before := sc.s
		t := strings.Trim(sc.until(";"), " \t")
		if isToken(t) {
			return t, t
		}
		// Many write file names with spaces and parentheses without quotes.
		sc.bad = true
		t = strings.Trim(before[:len(before)-len(sc.s)], " \t")
		first, _, _ = strings.Cut(t, " ")
		return t, first
	}
	var b strings.Builder
	for i := 0; i < len(sc.s); i++ {
		switch c := sc.s[i]; {
		case c == '"':
			sc.s = sc.s[i+1:]
			if strings.Trim(sc.until(";"), " \t") != "" {
				sc.bad = true
			}
			return b.String(), b.String()
		case c == '\\' && i+1 < len(sc.s):
			i++
			b.WriteByte(sc.s[i])
		default:
			b.WriteByte(c)
		}
	}
	sc.bad = true
	sc.s = ""
	return b.String(), b.String()
}
