package disclaimer

import (
	"strings"
	"unicode/utf8"
)

// maxLine bounds a line of the addition in octets of UTF-8: a line of a message has at most 998 (RFC 5322, section
// 2.1.1), and no charset needs more octets than that leaves.
const maxLine = 900

// The widths of format=flowed (RFC 3676, section 4.2): lines longer than flowAbove are broken at flowAt.
const (
	flowAbove = 78
	flowAt    = 72
)

// payload is what is put at the place of f: the addition with the line ends that keep it apart from the text. A text
// that ends with a line end still does afterwards.
func (f *finding) payload(rendered string, root bool) string {
	lines := strings.Split(rendered, "\n")
	if f.html() {
		return f.htmlPayload(wrap(lines))
	}
	lead := ""
	switch {
	case f.empty():
	case f.newlines == 0:
		lead = "\r\n\r\n"
	case f.newlines == 1:
		lead = "\r\n"
	}
	if f.flowed() {
		if f.flowing {
			lead += "\r\n" // the first line end only ends the paragraph
		}
		lines = flow(lines, strings.EqualFold(f.part.Params["delsp"], "yes"))
	}
	s := lead + wrap(lines)
	if f.newlines > 0 || f.empty() && root {
		s += "\r\n"
	}
	return s
}

func (f *finding) flowed() bool {
	return !f.html() && strings.EqualFold(f.part.Params["format"], "flowed")
}

func (f *finding) htmlPayload(s string) string {
	if !f.empty() && (!f.atEnd() || f.newlines == 0) {
		s = "\r\n" + s
	}
	if !f.atEnd() || f.newlines > 0 {
		s += "\r\n"
	}
	return s
}

// flow breaks long lines softly, and stuffs those that would be taken for something else (RFC 3676, sections 4.2, 4.4).
func flow(lines []string, delSp bool) []string {
	var out []string
	soft := " "
	if delSp {
		soft = "  "
	}
	for _, l := range lines {
		for utf8.RuneCountInString(l) > flowAbove {
			i := breakAt(l, flowAt)
			if i <= 0 {
				break
			}
			out = append(out, stuff(l[:i]+soft))
			l = l[i+1:]
		}
		out = append(out, stuff(l))
	}
	return out
}

// breakAt gives the last space within the first n characters, or, if there is none, the first one behind; -1 if there is
// no space to break at.
func breakAt(l string, n int) int {
	limit := len(l)
	for i := range l {
		if n == 0 {
			limit = i
			break
		}
		n--
	}
	if i := strings.LastIndexByte(l[:limit], ' '); i > 0 {
		return i
	}
	return strings.IndexByte(l, ' ')
}

func stuff(l string) string {
	if strings.HasPrefix(l, " ") || strings.HasPrefix(l, ">") || strings.HasPrefix(l, "From ") {
		return " " + l
	}
	return l
}

// wrap joins lines with CRLF and breaks those that are too long for a message: at a space if there is one, else behind a
// character reference, else between two characters.
func wrap(lines []string) string {
	var b strings.Builder
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		for len(l) > maxLine {
			n := strings.LastIndexByte(l[:maxLine], ' ') + 1
			if n == 0 {
				n = strings.LastIndexByte(l[:maxLine], ';') + 1
			}
			if n == 0 {
				for n = maxLine; !utf8.RuneStart(l[n]); n-- {
				}
			}
			b.WriteString(strings.TrimRight(l[:n], " "))
			b.WriteString("\r\n")
			l = l[n:]
		}
		b.WriteString(l)
	}
	return b.String()
}
