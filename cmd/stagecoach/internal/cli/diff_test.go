package cli

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

func TestHunkLines(t *testing.T) {
	hunk := func(before, removed, inserted, after string) *adminv1.Hunk {
		return &adminv1.Hunk{Length: uint64(len(removed)), Before: []byte(before), Removed: []byte(removed), Inserted: []byte(inserted), After: []byte(after)}
	}
	for _, c := range []struct {
		name string
		hunk *adminv1.Hunk
		want string
	}{
		{"field at the top", hunk("", "", "X-A: 1\r\n", "From: a\r\nTo: b\r\nDate: c\r\n"), "+X-A: 1| From: a| To: b"},
		{"field removed", hunk("From: a\r\n", "X-A: 1\r\n", "", "To: b\r\n"), " From: a|-X-A: 1| To: b"},
		{"within a line", hunk("Subject: ", "", "[x] ", "hello\r\n\r\n"), "-Subject: hello|+Subject: [x] hello| "},
		{"text after the last line, which has no end", hunk("a\r\nb", "", "\r\nfooter", ""), " a| b|+footer"},
		{"text before the end of a line", hunk("b", "", "\r\n\r\nfooter", "\r\n--x\r\n"), " b|+|+footer| --x"},
		{"a whole line, begun within one", hunk("Hel", "", "lo\r\n", "x\r\n"), "-Helx|+Hello|+x"},
		{"lines for lines", hunk("", "a\r\nb\r\nc\r\n", "a\r\nB\r\nc\r\n", ""), " a|-b|+B| c"},
		{"only the line end", hunk("", "", "\r\n", ""), "+"},
		{"a line gets its end", hunk("last", "", "\r\n", ""), " last|~only the end of the line differs"},
		{"bare LF is shown", hunk("", "a\n", "a\r\n", ""), "-a\n|+a"},
		{"8 bit of any charset", hunk("", "", "Gr\xfc\xdfe\r\n", ""), "+Gr\xfc\xdfe"},
		{"characters cut at the ends of the context", hunk("\xbc\xc3\xa4 before\r\n", "", "x\r\n", "after \xc3"), " ä before|+x| after "},
		{"much context", hunk("1\r\n2\r\n3\r\n", "", "x\r\n", "4\r\n5\r\n6\r\n"), " 2| 3|+x| 4| 5"},
		{"nothing around", hunk("", "", "", ""), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, l := range hunkLines(c.hunk) {
				got = append(got, string(l.mark)+l.text)
			}
			if g := strings.Join(got, "|"); g != c.want {
				t.Errorf("%q, not %q", g, c.want)
			}
		})
	}
}

// Whole lines that were put in are shown as they are, whatever stands around them; and a change within lines shows these
// lines whole, before and after.
func TestAddedLinesAreTheInserted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.StringMatching(`[ab\t .]{0,6}`)
		whole := func(name string, min int) string {
			var b strings.Builder
			for _, l := range rapid.SliceOfN(line, min, 4).Draw(t, name) {
				b.WriteString(l + "\r\n")
			}
			return b.String()
		}
		h := &adminv1.Hunk{Before: []byte(whole("before", 0)), Inserted: []byte(whole("inserted", 1)), After: []byte(whole("after", 0))}
		if got := shownAs(h, added); got != string(h.Inserted) {
			t.Fatalf("%q was inserted, and %q is shown", h.Inserted, got)
		}
		if got := shownAs(h, removed); got != "" {
			t.Fatalf("nothing was removed, and %q is shown", got)
		}

		// In any place, what is shown is the message around it, as it was and as it is.
		old := []byte(whole("old", 0))
		at := rapid.IntRange(0, len(old)).Draw(t, "at")
		to := rapid.IntRange(at, len(old)).Draw(t, "to")
		ins := []byte(strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "\r\n"}), 0, 6).Draw(t, "ins"), ""))
		if bytes.HasSuffix(old[:at], []byte("\r")) || bytes.HasSuffix(old[:to], []byte("\r")) {
			return
		}
		h = &adminv1.Hunk{Length: uint64(to - at), Before: old[:at], Removed: old[at:to], Inserted: ins, After: old[to:]}
		was, is := lines(old), lines(slices.Concat(old[:at], ins, old[to:]))
		if missing := leave(was, hunkLines(h), removed); missing != "" {
			t.Fatalf("%q with %q for [%d,%d): %s", old, ins, at, to, missing)
		}
		if missing := leave(is, hunkLines(h), added); missing != "" {
			t.Fatalf("%q with %q for [%d,%d): %s", old, ins, at, to, missing)
		}
	})
}

func shownAs(h *adminv1.Hunk, m mark) string {
	var b strings.Builder
	for _, l := range hunkLines(h) {
		if l.mark == m {
			b.WriteString(l.text + "\r\n")
		}
	}
	return b.String()
}

// leave looks for the lines of a diff that are of one side, one after the other, in that side of the message.
func leave(message []string, diff []diffLine, side mark) string {
	var want []string
	for _, l := range diff {
		if l.mark == side || l.mark == around {
			want = append(want, l.text)
		}
	}
	for i := 0; i+len(want) <= len(message); i++ {
		if slices.Equal(message[i:i+len(want)], want) {
			return ""
		}
	}
	return "the lines " + strings.Join(want, "|") + " do not stand in it"
}

func TestShorten(t *testing.T) {
	block := strings.Repeat("QUJD", 19)
	var in []diffLine
	for range 20 {
		in = append(in, diffLine{added, block})
	}
	in = append(in, diffLine{added, strings.Repeat("ä", 600)}, diffLine{removed, block}, diffLine{removed, block})
	got := shorten(in)
	if len(got) != 6 || got[2].text != "18 more lines of base64, 1.4 kB" || got[2].mark != remark || got[4].text != block {
		t.Errorf("%q", got)
	}
	if long := got[3].text; !strings.HasSuffix(long, "… (202 bytes more)") || len(long) > longestLine+30 {
		t.Errorf("a long line: %q", long)
	}
}
