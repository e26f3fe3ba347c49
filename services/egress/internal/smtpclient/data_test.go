package smtpclient

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// pieces is a message that comes in blocks of n bytes.
type pieces struct {
	data string
	n    int
}

func (p pieces) WriteTo(w io.Writer) (int64, error) {
	var sent int64
	for s := p.data; s != ""; {
		k := min(p.n, len(s))
		m, err := io.WriteString(w, s[:k])
		sent += int64(m)
		if err != nil {
			return sent, err
		}
		s = s[k:]
	}
	return sent, nil
}

func stuff(message io.WriterTo) (string, error) {
	var out bytes.Buffer
	d := &dotWriter{out: &out, progress: func(int64) {}}
	if _, err := message.WriteTo(d); err != nil {
		return out.String(), err
	}
	err := d.finish()
	return out.String(), err
}

func TestDotStuffing(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		"a\r\n":                  "a\r\n",
		"a":                      "a\r\n",
		".":                      "..\r\n",
		".\r\n":                  "..\r\n",
		"..\r\n":                 "...\r\n",
		"a\r\n.\r\nb\r\n":        "a\r\n..\r\nb\r\n",
		"a.\r\n.b.c\r\n":         "a.\r\n..b.c\r\n",
		"\r\n.\r\n\r\n.":         "\r\n..\r\n\r\n..\r\n",
		"8bit \xff\xfe\r\n.\xff": "8bit \xff\xfe\r\n..\xff\r\n",
	} {
		for n := 1; n <= len(in)+1; n++ {
			got, err := stuff(pieces{in, n})
			if err != nil || got != want {
				t.Errorf("%q in pieces of %d: got %q, %v; want %q", in, n, got, err, want)
			}
		}
	}
}

func TestBareControls(t *testing.T) {
	for _, in := range []string{"\n", "\r", "a\nb", "a\rb\r\n", "a\r\r\n", "a\r\n\n", "a\n\r\n", "a\x00b\r\n", "a\r", "\r\n.\n\r\n", "\r\n.\r", "x\r\n\r.\r\n"} {
		for n := 1; n <= len(in); n++ {
			if _, err := Inspect(pieces{in, n}); !errors.Is(err, ErrBareControl) {
				t.Errorf("Inspect(%q) in pieces of %d: %v", in, n, err)
			}
			if out, err := stuff(pieces{in, n}); !errors.Is(err, ErrBareControl) {
				t.Errorf("%q in pieces of %d was sent as %q: %v", in, n, out, err)
			}
		}
	}
}

func TestInspectEightBit(t *testing.T) {
	for in, want := range map[string]bool{"": false, "abc\r\n": false, "a\x80\r\n": true, "\x7f\r\n": false, "\r\n\xff": true} {
		if got, err := Inspect(pieces{in, 2}); err != nil || got.EightBit != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}

// Whatever is sent ends lines in CRLF only, contains no line of a lone dot, and gives back exactly the message.
func FuzzDotStuffing(f *testing.F) {
	f.Add("a\r\n.\r\nb", 3)
	f.Add(".\r\n", 1)
	f.Add("\r\n.\r\r\n", 2)
	f.Fuzz(func(t *testing.T, in string, n int) {
		if n < 1 {
			return
		}
		_, known := Inspect(pieces{in, n})
		out, err := stuff(pieces{in, n})
		if (known == nil) != (err == nil) {
			t.Fatalf("Inspect says %v, the writer %v", known, err)
		}
		if err != nil {
			return
		}
		if in == "" && out == "" {
			return
		}
		if !strings.HasSuffix(out, "\r\n") {
			t.Fatalf("ends in %q", out)
		}
		var back strings.Builder
		for l := range strings.SplitSeq(strings.TrimSuffix(out, "\r\n"), "\r\n") {
			if l == "." || strings.ContainsAny(l, "\r\n\x00") {
				t.Fatalf("line %q", l)
			}
			back.WriteString(strings.TrimPrefix(l, ".") + "\r\n")
		}
		if back.String() != in && back.String() != in+"\r\n" {
			t.Fatalf("%q became %q", in, back.String())
		}
	})
}
