package cli

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// contextLines is how many lines are shown above and below a change.
	contextLines = 2
	// longestLine is how many bytes of a line are shown.
	longestLine = 998
	// base64Run is from how many lines on a block of base64 is shortened, base64Shown how many are shown of it.
	base64Run, base64Shown = 8, 2
)

// mark is what a line of a diff is.
type mark byte

const (
	around  mark = ' '
	removed mark = '-'
	added   mark = '+'
	// remark is said by us, and no line of the message.
	remark mark = '~'
)

type diffLine struct {
	mark mark
	text string
}

// diff shows what a stage changed.
func (o *output) diff(indent int, d *adminv1.Diff, to addresses) {
	if d.ReversePath != nil {
		o.diffLine(indent, diffLine{remark, "the reverse-path becomes " + path(d.GetReversePath())})
	}
	for _, r := range d.GetRewrites() {
		o.diffLine(indent, diffLine{remark, fmt.Sprintf("the recipient %s becomes %s", to.of(r.GetRecipient()), r.GetAddress())})
	}
	for _, h := range d.GetHunks() {
		o.line(indent, in(faint, "@@ %s", place(h)))
		for _, l := range shorten(hunkLines(h)) {
			o.diffLine(indent, l)
		}
	}
	if d.GetCut() {
		o.diffLine(indent, diffLine{remark, "some of this change was too large to be kept, and is not shown"})
	}
}

func (o *output) diffLine(indent int, l diffLine) {
	switch l.mark {
	case added:
		o.line(indent, in(green, "%s", "+"+l.text))
	case removed:
		o.line(indent, in(red, "%s", "-"+l.text))
	case remark:
		o.line(indent, in(faint, "%s", "~ "+l.text))
	default:
		o.line(indent, text("%s", " "+l.text))
	}
}

func place(h *adminv1.Hunk) string {
	where := fmt.Sprintf("at byte %d", h.GetOffset())
	if h.GetOffset() == 0 {
		where = "at the top"
	}
	switch {
	case h.GetLength() == 0:
		return fmt.Sprintf("%s: %d bytes more", where, len(h.GetInserted()))
	case len(h.GetInserted()) == 0:
		return fmt.Sprintf("%s: %d bytes less", where, h.GetLength())
	}
	return fmt.Sprintf("%s: %d bytes for %d", where, len(h.GetInserted()), h.GetLength())
}

// hunkLines turns a change of bytes into one of lines: where it begins or ends within a line, that line is shown whole,
// as it was and as it is. What lines of both have in common at the ends is context.
func hunkLines(h *adminv1.Hunk) []diffLine {
	above, head := splitLast(trimStart(h.GetBefore()))
	tail, below := trimEnd(h.GetAfter()), []byte(nil)
	if ends(concat(head, h.GetRemoved())) && ends(concat(head, h.GetInserted())) {
		tail, below = nil, tail
	} else {
		tail, below = splitFirst(tail)
	}
	old := lines(concat(head, h.GetRemoved(), tail))
	now := lines(concat(head, h.GetInserted(), tail))

	first := 0
	for first < len(old) && first < len(now) && old[first] == now[first] {
		first++
	}
	last := 0
	for last < len(old)-first && last < len(now)-first && old[len(old)-1-last] == now[len(now)-1-last] {
		last++
	}
	aboveLines := append(lines(above), old[:first]...)
	belowLines := append(append([]string{}, old[len(old)-last:]...), lines(below)...)

	var out []diffLine
	for _, l := range aboveLines[max(0, len(aboveLines)-contextLines):] {
		out = append(out, diffLine{around, l})
	}
	for _, l := range old[first : len(old)-last] {
		out = append(out, diffLine{removed, l})
	}
	for _, l := range now[first : len(now)-last] {
		out = append(out, diffLine{added, l})
	}
	if first+last == len(old) && len(old) == len(now) && !bytes.Equal(h.GetRemoved(), h.GetInserted()) {
		out = append(out, diffLine{remark, "only the end of the line differs"})
	}
	for _, l := range belowLines[:min(len(belowLines), contextLines)] {
		out = append(out, diffLine{around, l})
	}
	return out
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// trimStart and trimEnd drop a character whose other bytes are beyond the cut of the context.
func trimStart(b []byte) []byte {
	for i := range min(utf8.UTFMax-1, len(b)) {
		if utf8.RuneStart(b[i]) {
			return b[i:]
		}
	}
	return b
}

func trimEnd(b []byte) []byte {
	for i := range min(utf8.UTFMax, len(b)) {
		if at := len(b) - 1 - i; utf8.RuneStart(b[at]) {
			if !utf8.FullRune(b[at:]) {
				return b[:at]
			}
			return b
		}
	}
	return b
}

// splitLast splits before the last, unfinished line.
func splitLast(b []byte) (whole, begun []byte) {
	i := bytes.LastIndexByte(b, '\n') + 1
	return b[:i], b[i:]
}

// splitFirst splits after the first line.
func splitFirst(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n') + 1
	if i == 0 {
		return b, nil
	}
	return b[:i], b[i:]
}

// ends says that b ends where a line does.
func ends(b []byte) bool { return len(b) == 0 || b[len(b)-1] == '\n' }

// lines splits without the line ends, as far as they are those of mail: a bare LF is shown.
func lines(b []byte) []string {
	var out []string
	for len(b) > 0 {
		line, rest, found := bytes.Cut(b, []byte("\n"))
		s := string(line)
		if found {
			if t, ok := strings.CutSuffix(s, "\r"); ok {
				s = t
			} else {
				s += "\n"
			}
		}
		out = append(out, s)
		b = rest
	}
	return out
}

// shorten leaves out what nobody reads: the middle of long blocks of base64, and the ends of endless lines.
func shorten(in []diffLine) []diffLine {
	var out []diffLine
	for i := 0; i < len(in); {
		run := i
		for run < len(in) && in[run].mark == in[i].mark && isBase64(in[run].text) {
			run++
		}
		if run-i < base64Run {
			out = append(out, cutLine(in[i]))
			i++
			continue
		}
		n := 0
		for _, l := range in[i+base64Shown : run] {
			n += len(l.text)
		}
		out = append(out, in[i:i+base64Shown]...)
		out = append(out, diffLine{remark, fmt.Sprintf("%d more lines of base64, %s", run-i-base64Shown, bytesText(uint64(n)))})
		i = run
	}
	return out
}

func cutLine(l diffLine) diffLine {
	if len(l.text) <= longestLine {
		return l
	}
	kept := trimEnd([]byte(l.text[:longestLine]))
	return diffLine{l.mark, fmt.Sprintf("%s… (%d bytes more)", kept, len(l.text)-len(kept))}
}

// isBase64 says whether a line is one of many of an encoded block.
func isBase64(s string) bool {
	s = strings.TrimLeft(s, " \t")
	if len(s) < 40 || len(s) > 80 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/' || c == '=') {
			return false
		}
	}
	return true
}
