package admin

import (
	"fmt"
	"strings"
)

const (
	// diffContext is how many lines are shown around a change.
	diffContext = 3
	// maxCompare bounds the table in which two texts are compared; what is larger is shown as replaced.
	maxCompare = 4 << 20
)

// unified shows two texts as diff -u does; empty: they are the same.
func unified(name, old, now string) string {
	if old == now {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "--- %s\n+++ %s\n", name, name)
	steps := compare(textLines(old), textLines(now))
	for i := 0; i < len(steps); {
		if steps[i].sign == ' ' {
			i++
			continue
		}
		from, to := max(i-diffContext, 0), i
		for quiet := 0; to < len(steps) && quiet <= 2*diffContext; to++ {
			if quiet++; steps[to].sign != ' ' {
				quiet = 0
				i = to + 1
			}
		}
		to = min(i+diffContext, len(steps))
		hunk(&b, steps, from, to)
		i = to
	}
	return b.String()
}

// step is a line of a diff; a and b count the lines of both texts before it.
type step struct {
	sign byte
	text string
	a, b int
}

func hunk(b *strings.Builder, steps []step, from, to int) {
	olds, nows := 0, 0
	for _, s := range steps[from:to] {
		if s.sign != '+' {
			olds++
		}
		if s.sign != '-' {
			nows++
		}
	}
	fmt.Fprintf(b, "@@ -%s +%s @@\n", lineRange(steps[from].a, olds), lineRange(steps[from].b, nows))
	for _, s := range steps[from:to] {
		fmt.Fprintf(b, "%c%s", s.sign, s.text)
		if !strings.HasSuffix(s.text, "\n") {
			b.WriteString("\n\\ No newline at end of file\n")
		}
	}
}

// lineRange counts from 1; one without lines is named after the line before it.
func lineRange(before, count int) string {
	if count == 0 {
		return fmt.Sprintf("%d,0", before)
	}
	return fmt.Sprintf("%d,%d", before+1, count)
}

func textLines(s string) []string {
	var out []string
	for line := range strings.Lines(s) {
		out = append(out, line)
	}
	return out
}

// compare finds the longest common lines of two texts.
func compare(a, b []string) []step {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	x, y := a[head:len(a)-tail], b[head:len(b)-tail]
	common := table(x, y)
	var out []step
	add := func(sign byte, text string) {
		s := step{sign: sign, text: text}
		if n := len(out); n > 0 {
			s.a, s.b = out[n-1].a, out[n-1].b
			if out[n-1].sign != '+' {
				s.a++
			}
			if out[n-1].sign != '-' {
				s.b++
			}
		}
		out = append(out, s)
	}
	for _, l := range a[:head] {
		add(' ', l)
	}
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		switch {
		case i < len(x) && j < len(y) && common != nil && x[i] == y[j]:
			add(' ', x[i])
			i, j = i+1, j+1
		case i < len(x) && (j == len(y) || common == nil || common[i+1][j] >= common[i][j+1]):
			add('-', x[i])
			i++
		default:
			add('+', y[j])
			j++
		}
	}
	for _, l := range a[len(a)-tail:] {
		add(' ', l)
	}
	return out
}

// table has, for the rests of x and y, how many lines they have in common in order; nil: too large.
func table(x, y []string) [][]int32 {
	if (len(x)+1)*(len(y)+1) > maxCompare {
		return nil
	}
	t := make([][]int32, len(x)+1)
	for i := range t {
		t[i] = make([]int32, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				t[i][j] = t[i+1][j+1] + 1
			} else {
				t[i][j] = max(t[i+1][j], t[i][j+1])
			}
		}
	}
	return t
}
