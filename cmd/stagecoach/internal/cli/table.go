package cli

import (
	"strings"
	"unicode"
)

// table is a list for the eyes, and lines with tabs for a program.
type table struct {
	head []string
	// flexible columns are cut where the terminal is too narrow.
	flexible []int
	rows     [][]span
}

func (t *table) add(cells ...span) { t.rows = append(t.rows, cells) }

// narrowest is what a flexible column is cut to at most.
const narrowest = 12

// table prints t: aligned and with a head on a terminal, else one line per row, tab between cells, no head.
func (o *output) table(indent int, t *table) {
	rows := make([][]span, len(t.rows))
	for i, r := range t.rows {
		rows[i] = make([]span, len(r))
		for j, c := range r {
			rows[i][j] = span{c.style, clean(c.text)}
		}
	}
	if !o.terminal {
		for _, r := range rows {
			cells := make([]string, len(r))
			for i, c := range r {
				cells[i] = c.text
			}
			o.put(strings.Join(cells, "\t") + "\n")
		}
		return
	}
	if len(t.head) > 0 {
		head := make([]span, len(t.head))
		for i, h := range t.head {
			head[i] = span{faint, h}
		}
		rows = append([][]span{head}, rows...)
	}
	widths := o.widths(indent, t, rows)
	for _, r := range rows {
		var b strings.Builder
		b.WriteString(strings.Repeat(" ", indent))
		for i, c := range r {
			cell := cut(c.text, widths[i])
			b.WriteString(o.paint(c.style, cell))
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-columns(cell)+2))
			}
		}
		o.put(strings.TrimRight(b.String(), " ") + "\n")
	}
}

func (o *output) widths(indent int, t *table, rows [][]span) []int {
	var widths []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], columns(c.text))
		}
	}
	total := indent - 2
	for _, w := range widths {
		total += w + 2
	}
	for o.width > 0 && total > o.width {
		widest := -1
		for _, i := range t.flexible {
			if i < len(widths) && widths[i] > narrowest && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
		total--
	}
	return widths
}

// cut shortens s to so many columns.
func cut(s string, width int) string {
	if columns(s) <= width {
		return s
	}
	n := 0
	for i, r := range s {
		if n+runeColumns(r) > width-1 {
			return s[:i] + "…"
		}
		n += runeColumns(r)
	}
	return s
}

// columns is how wide s is on a terminal, as far as that can be said without asking it.
func columns(s string) int {
	n := 0
	for _, r := range s {
		n += runeColumns(r)
	}
	return n
}

// wide are the blocks whose characters take two columns.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{{Lo: 0x1100, Hi: 0x115F, Stride: 1}, {Lo: 0x2E80, Hi: 0xA4CF, Stride: 1}, {Lo: 0xAC00, Hi: 0xD7A3, Stride: 1},
		{Lo: 0xF900, Hi: 0xFAFF, Stride: 1}, {Lo: 0xFE30, Hi: 0xFE6F, Stride: 1}, {Lo: 0xFF00, Hi: 0xFF60, Stride: 1}, {Lo: 0xFFE0, Hi: 0xFFE6, Stride: 1}},
	R32: []unicode.Range32{{Lo: 0x1F300, Hi: 0x1FAFF, Stride: 1}, {Lo: 0x20000, Hi: 0x3FFFD, Stride: 1}},
}

func runeColumns(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}
