package antivirus

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/stagecoachmail/stagecoach/mail"
)

// A file name hides behind its encoding, its quoting, and what the desktop drops from it. Every form that a client
// may save the file under is judged.

// partNames gives the file names in the header of a part, in every reading, and why there may be others: "" if there
// are none.
func partNames(p *mail.Part) (names []string, strange string) {
	var raw []string
	odd := func(format string, args ...any) {
		if strange == "" {
			strange = fmt.Sprintf(format, args...)
		}
	}
	for _, field := range p.Header.Fields {
		if !strings.EqualFold(field.Name, "Content-Type") && !strings.EqualFold(field.Name, "Content-Disposition") {
			continue
		}
		value := field.Value()
		found, all := fieldNames(value)
		if raw = append(raw, found...); !all {
			odd("too many file names")
		}
		for _, q := range splitParams(value, isNameKey) {
			if cs := extCharset(strings.Trim(q.value, `"`)); strings.Contains(q.key, "*") && opaque(cs) {
				odd("a file name in the character set %s, which hides it", quote(cs))
			}
		}
	}
	for _, n := range [...]string{p.Params["name"], p.DispositionParams["filename"], p.DispositionParams["name"]} {
		if n != "" {
			raw = append(raw, n)
		}
	}
	seen := make(map[string]bool)
	for _, n := range raw {
		if len(n) > maxName {
			odd("a file name of %d bytes", len(n))
			continue
		}
		decoded, cs := decodeWords(n)
		if cs != "" {
			odd("a file name in the character set %s, which hides it", quote(cs))
		}
		for _, form := range [...]string{n, decoded, percentDecode(decoded)} {
			if form != "" && !seen[form] {
				seen[form] = true
				names = append(names, form)
			}
		}
	}
	return names, strange
}

// maxName bounds a file name as it is written, in bytes: no file system takes one of more than 255 characters.
const maxName = 8 << 10

// encodedWord is RFC 2047's, with what clients read besides: white space in it, no need of white space around it.
var encodedWord = regexp.MustCompile(`=\?([^?\s]{1,60})\?([bBqQ])\?([^?]*)\?=`)

// betweenWords is the white space that does not count between two encoded words.
var betweenWords = regexp.MustCompile(`\?=\s+=\?`)

// decodeWords decodes encoded words. What is not UTF-8 comes out with its bytes taken for letters: nearly every
// charset has ASCII in its place, and patterns are ASCII. It names a charset that has not.
func decodeWords(s string) (decoded, strange string) {
	if !strings.Contains(s, "=?") {
		return s, ""
	}
	s = betweenWords.ReplaceAllString(s, "?==?")
	decoded = encodedWord.ReplaceAllStringFunc(s, func(w string) string {
		m := encodedWord.FindStringSubmatch(w)
		cs, _, _ := strings.Cut(m[1], "*") // RFC 2231 puts the language there
		if opaque(cs) && strange == "" {
			strange = cs
		}
		if strings.EqualFold(m[2], "b") {
			return base64Word(m[3])
		}
		return hexDecode(strings.ReplaceAll(m[3], "_", " "), '=')
	})
	return decoded, strange
}

// base64Word decodes what can be decoded.
func base64Word(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && strings.ContainsRune("+/", r) || r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return -1
	}, s)
	if len(s)%4 == 1 {
		s = s[:len(s)-1]
	}
	b, _ := base64.RawStdEncoding.DecodeString(s)
	return string(b)
}

// opaque says that a charset does not write ASCII letters as ASCII bytes, so that a pattern cannot be looked for.
// Nobody writes file names in them who has nothing to hide.
func opaque(charset string) bool {
	cs := strings.ToLower(charset)
	for _, hidden := range [...]string{"utf-7", "utf7", "utf-16", "utf16", "utf-32", "utf32", "ucs", "10646", "ebcdic", "scsu", "bocu"} {
		if strings.Contains(cs, hidden) {
			return true
		}
	}
	for _, prefix := range [...]string{"ibm0", "cp0", "ibm1", "cp10", "ibm2", "ibm3", "ibm5", "cp5", "ibm-"} {
		if strings.HasPrefix(cs, prefix) {
			return true
		}
	}
	return false
}

// Characters that turn the direction of what follows: "invoice<202E>fdp.exe" is shown as "invoiceexe.pdf".
const (
	rightToLeftOverride = '\u202e'
	leftToRightOverride = '\u202d'
)

// disguised says that a name is shown otherwise than it is.
func disguised(name string) bool {
	return strings.ContainsRune(name, rightToLeftOverride) || strings.ContainsRune(name, leftToRightOverride)
}

// nameForms gives the names under which a file may come to lie on a disk.
func nameForms(name string) []string {
	forms := []string{name}
	add := func(s string) {
		if s != "" && s != forms[len(forms)-1] {
			forms = append(forms, s)
		}
	}
	clean := strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Variation_Selector, r):
			return -1
		}
		return r
	}, name)
	add(clean)
	before, _, _ := strings.Cut(name, "\x00")
	for _, s := range [...]string{clean, before} {
		if i := strings.LastIndexAny(s, `/\`); i >= 0 {
			s = s[i+1:]
		}
		s = trimName(s)
		add(s)
		// "x.exe:stream" and "x.exe::$DATA" are x.exe on NTFS.
		if file, _, ok := strings.Cut(s, ":"); ok {
			add(trimName(file))
		}
	}
	return forms
}

// trimName takes off what Windows takes off the end, and quotes that somebody left there.
func trimName(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return r == '.' || r == '"' || r == '\'' || unicode.IsSpace(r) })
}
