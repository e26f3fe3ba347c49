package mail

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func TestHeader(t *testing.T) {
	for _, c := range []struct {
		name, in string
		fields   []string // name=value
		size     int64    // -1: all
		end      HeaderEnd
	}{
		{"plain", "A: b\r\nC:d\r\n\r\nbody", []string{"A=b", "C=d"}, 13, EndEmptyLine},
		{"line feeds", "A: b\nC: d\n\nbody", []string{"A=b", "C=d"}, 11, EndEmptyLine},
		{"mixed line ends", "A: b\nC: d\r\n\nbody", []string{"A=b", "C=d"}, 12, EndEmptyLine},
		{"folded", "A: b\r\n c\r\n\td\r\nE: f\r\n\r\n", []string{"A=b c\td", "E=f"}, -1, EndEmptyLine},
		{"obsolete fold", "A: b\r\n \t \r\n c\r\n\r\n", []string{"A=b \t  c"}, -1, EndEmptyLine},
		{"space before the colon", "A \t: b\r\n\r\n", []string{"A=b"}, -1, EndEmptyLine},
		{"empty value", "A:\r\nB: \r\n\r\n", []string{"A=", "B="}, -1, EndEmptyLine},
		{"empty name", ": x\r\n\r\n", []string{"=x"}, -1, EndEmptyLine},
		{"no body", "A: b\r\n", []string{"A=b"}, -1, EndOfMessage},
		{"no line end", "A: b", []string{"A=b"}, -1, EndOfMessage},
		{"nothing", "", nil, 0, EndOfMessage},
		{"empty line only", "\r\n", nil, 2, EndEmptyLine},
		{"no header", "Hello\r\nA: b\r\n\r\n", nil, 0, EndNoField},
		{"line without colon", "A: b\r\nHello\r\nC: d\r\n\r\n", []string{"A=b"}, 6, EndNoField},
		{"fold before a field", " A: b\r\n\r\n", nil, 0, EndNoField},
		{"mailbox line", "From me Sat 12:00\r\nA: b\r\n\r\n", []string{"From me Sat 12=00", "A=b"}, -1, EndEmptyLine},
		{"CR is no line end", "A: b\r\rC: d\n\n", []string{"A=b\r\rC: d"}, -1, EndEmptyLine},
		{"CR at the end", "A: b\r\n\r", []string{"A=b"}, 6, EndNoField},
		{"late colon", "A: b\n" + strings.Repeat("x", 998) + ":\n\n", []string{"A=b"}, 5, EndNoField},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, content := range []Content{FromBytes([]byte(c.in)), pieced(t, []byte(c.in), 3)} {
				h := content.Header()
				size := c.size
				if size < 0 {
					size = int64(len(c.in))
				}
				if h.Size != size || h.End != c.end || h.Err != nil {
					t.Errorf("size %d, end %v, %v; want %d, %v", h.Size, h.End, h.Err, size, c.end)
				}
				var fields []string
				for _, f := range h.Fields {
					fields = append(fields, f.Name+"="+f.Value())
				}
				if fmt.Sprintf("%q", fields) != fmt.Sprintf("%q", c.fields) {
					t.Errorf("fields %q, want %q", fields, c.fields)
				}
				checkHeader(t, h, []byte(c.in), 0)
			}
		})
	}
}

// checkHeader: the fields stand where they say, one after the other.
func checkHeader(t testing.TB, h *Header, b []byte, at int64) {
	t.Helper()
	end := at + h.Size
	for i, f := range h.Fields {
		if f.Offset != at || !bytes.Equal(b[at:at+int64(len(f.Raw))], f.Raw) || len(f.Raw) == 0 {
			t.Fatalf("field %d %q is not at %d", i, f.Raw, f.Offset)
		}
		at += int64(len(f.Raw))
	}
	rest := string(b[at:end])
	if h.End == EndEmptyLine && rest != "\n" && rest != "\r\n" || h.End != EndEmptyLine && rest != "" {
		t.Fatalf("after the fields stands %q", rest)
	}
}

func TestHeaderLookup(t *testing.T) {
	h := FromBytes([]byte("Received: a\r\nSubject: =?utf-8?q?x?=\r\nrEceived: b\r\n\r\n")).Header()
	if got := h.Get("RECEIVED"); got != "a" {
		t.Errorf("Get: %q", got)
	}
	if got := h.Get("Missing"); got != "" {
		t.Errorf("Get of what is not there: %q", got)
	}
	if got := h.Values("received"); len(got) != 2 || got[1] != "b" {
		t.Errorf("Values: %q", got)
	}
	if got := h.Find("received"); len(got) != 2 || got[1].Name != "rEceived" {
		t.Errorf("Find: %v", got)
	}
	if got := h.Get("Subject"); got != "=?utf-8?q?x?=" {
		t.Errorf("encoded words are decoded: %q", got)
	}
}

func TestHeaderLimits(t *testing.T) {
	many := []byte(strings.Repeat("A:\n", MaxHeaderFields+1) + "\nbody")
	long := []byte("A: b\r\nB: " + strings.Repeat("x", MaxHeaderSize) + "\r\n\r\n")
	folded := []byte("A: b\r\nB: c\r\n" + strings.Repeat(" x\r\n", MaxHeaderSize/4+1) + "\r\n")
	fits := []byte("A: b\r\nB: " + strings.Repeat("x", MaxHeaderSize-11) + "\r\n\r\n")
	for name, c := range map[string]struct {
		in     []byte
		fields int
		size   int
		end    HeaderEnd
	}{
		"fields": {many, MaxHeaderFields, 3 * MaxHeaderFields, EndLimit},
		"line":   {long, 1, 6, EndLimit},
		"folded": {folded, 1, 6, EndLimit},
		"fits":   {fits, 2, len(fits), EndEmptyLine},
	} {
		for _, content := range []Content{FromBytes(c.in), build(t, c.in)} {
			h := content.Header()
			if len(h.Fields) != c.fields || h.Size != int64(c.size) || h.End != c.end {
				t.Errorf("%s of a %T: %d fields, size %d, end %v", name, content, len(h.Fields), h.Size, h.End)
			}
			content.Release()
		}
	}
}

func FuzzHeader(f *testing.F) {
	for _, s := range []string{"A: b\r\n c\r\n\r\nx", "A: b\nx\n", " x", "\r\n", "A:b\r", "A: b\r\n \r\n\r\n", ":\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h := FromBytes(b).Header()
		checkHeader(t, h, b, 0)
		for _, f := range h.Fields {
			if strings.Contains(f.Value(), "\n") {
				t.Fatalf("value %q is not unfolded", f.Value())
			}
		}
		g := pieced(t, b, 7).Header()
		if g.Size != h.Size || g.End != h.End || len(g.Fields) != len(h.Fields) {
			t.Fatalf("in pieces: %+v, in one: %+v", g, h)
		}
		// What is not whole yet is either undecided or decided the same.
		for n := range min(len(b), 200) {
			if p := parseHeader(b[:n], 0, wholeHeader, false); p != nil && (p.Size != h.Size || p.End != h.End) {
				t.Fatalf("of %d bytes: %+v, of all: %+v", n, p, h)
			}
		}
	})
}
