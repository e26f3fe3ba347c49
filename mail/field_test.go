package mail

import (
	"mime"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPrependField(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"X-A", "b", "X-A: b\r\n"},
		{"X-A", "", "X-A:\r\n"},
		{"X-A", " \t b \t", "X-A: b\r\n"},
		{"X-A", strings.Repeat("word ", 30), "X-A: " + strings.TrimSpace(strings.Repeat("word ", 14)) + "\r\n " +
			strings.TrimSpace(strings.Repeat("word ", 15)) + "\r\n word\r\n"},
		{"X-A", strings.Repeat("x", 200) + "\ty", "X-A: " + strings.Repeat("x", 200) + "\r\n\ty\r\n"},
		{"X-A", strings.Repeat("x", 993), "X-A: " + strings.Repeat("x", 993) + "\r\n"},
	} {
		s, err := PrependField(c.name, c.value)
		if err != nil || s.Offset != 0 || s.Length != 0 || string(s.Insert) != c.want {
			t.Errorf("PrependField(%q, %q) = %q, %v", c.name, c.value, s.Insert, err)
		}
	}
}

func TestPrependFieldRefuses(t *testing.T) {
	for _, c := range []struct{ name, value string }{
		{"X-A", "b\r\nBcc: c@d"}, {"X-A", "b\nc"}, {"X-A", "b\rc"}, {"X-A", "b\x00c"}, {"X-A", "b\x1bc"}, {"X-A", "b\x7f"},
		{"X-A", "é"}, {"X-A", strings.Repeat("x", 994)}, {"X-A", "a " + strings.Repeat("x", 998)},
		{"", "b"}, {"X A", "b"}, {"X:A", "b"}, {"X\r\nA", "b"}, {"X\x00", "b"}, {"é", "b"}, {" X", "b"},
	} {
		if s, err := PrependField(c.name, c.value); err == nil {
			t.Errorf("PrependField(%q, %q) = %q", c.name, c.value, s.Insert)
		} else if strings.ContainsAny(err.Error(), "\r\n\x00\x1b") {
			t.Errorf("the error %q carries what was refused", err)
		}
	}
}

// Whatever is accepted is one field with the same words, in lines that are not too long.
func TestPrependFieldProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.StringOfN(rapid.RuneFrom([]rune("ab:\t  \r\n\x00é")), 0, 400, -1).Draw(t, "value")
		s, err := PrependField("X-Test", value)
		if err != nil {
			return
		}
		c, err := Apply(FromBytes([]byte("A: b\r\n\r\nbody")), []Splice{s})
		if err != nil {
			t.Fatal(err)
		}
		h := c.Header()
		if len(h.Fields) != 2 || h.Fields[0].Name != "X-Test" || h.Fields[1].Name != "A" {
			t.Fatalf("%q became %d fields", value, len(h.Fields))
		}
		if got := h.Fields[0].Value(); got != strings.Trim(value, " \t") {
			t.Fatalf("%q became %q", value, got)
		}
		for i, l := range strings.Split(strings.TrimSuffix(string(s.Insert), "\r\n"), "\r\n") {
			if len(l) > 78 && strings.ContainsAny(strings.TrimLeft(strings.TrimPrefix(l, "X-Test: "), " \t"), " \t") {
				t.Fatalf("line %d could be folded: %q", i, l)
			}
			if strings.Trim(l, " \t") == "" {
				t.Fatalf("line %d is blank", i)
			}
		}
		if err := checkRaw(s.Insert); err != nil {
			t.Fatalf("%q is not well-formed: %v", s.Insert, err)
		}
	})
}

func TestPrependRaw(t *testing.T) {
	for _, ok := range []string{
		"DKIM-Signature: a=b;\r\n\tc=d;\r\n\tb=\r\n", "X: é\r\n", "X:\r\n y\r\n", "X:" + strings.Repeat("y", 996) + "\r\n",
	} {
		if s, err := PrependRaw([]byte(ok)); err != nil || string(s.Insert) != ok {
			t.Errorf("PrependRaw(%q) = %q, %v", ok, s.Insert, err)
		}
	}
	for _, bad := range []string{
		"", "X", "X\r\n", "X: y", "X: y\n", "X: y\r", "X: y\r\n\r\n", "X: y\r\nZ: a\r\n", "X: y\r\n\r\n body\r\n", "X: y\nZ: a\r\n",
		"X: y\rz\r\n", "X: \x00\r\n", "X y: z\r\n", ": y\r\n", " X: y\r\n", "X: y\r\n \t\r\n", "X:" + strings.Repeat("y", 997) + "\r\n",
		"X: y\r\n" + " " + strings.Repeat("y", 998) + "\r\n",
	} {
		if _, err := PrependRaw([]byte(bad)); err == nil {
			t.Errorf("PrependRaw(%q) is accepted", bad)
		}
	}
	own := []byte("X: y\r\n")
	s, err := PrependRaw(own)
	if err != nil {
		t.Fatal(err)
	}
	own[0] = 'Z'
	if s.Insert[0] != 'X' {
		t.Error("the splice shares the caller's bytes")
	}
}

func TestReplaceAndRemoveField(t *testing.T) {
	in := "A: 1\r\nsubject: old\r\n folded\r\nB: 2\r\n\r\nbody"
	c := FromBytes([]byte(in))
	f := c.Header().Find("Subject")[0]
	s, err := ReplaceField(f, "new")
	if err != nil {
		t.Fatal(err)
	}
	for want, splice := range map[string]Splice{
		"A: 1\r\nsubject: new\r\nB: 2\r\n\r\nbody": s,
		"A: 1\r\nB: 2\r\n\r\nbody":                 RemoveField(f),
	} {
		d, err := Apply(c, []Splice{splice})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := ReadAll(d); string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if _, err := ReplaceField(f, "a\r\nB: c"); err == nil {
		t.Error("a value with a line end is accepted")
	}
}

func TestEncodeWords(t *testing.T) {
	for _, s := range []string{"plain", "Größe", "日本語 and more", strings.Repeat("ü", 100), "broken \xff"} {
		e := EncodeWords(s)
		if _, err := PrependField("Subject", e); err != nil {
			t.Errorf("%q: %v", s, err)
		}
		back, err := new(mime.WordDecoder).DecodeHeader(e)
		if err != nil || back != strings.ToValidUTF8(s, "\uFFFD") {
			t.Errorf("%q became %q, %v", s, back, err)
		}
	}
	if got := EncodeWords("a\r\nb\x00\x7fc"); got != "a  b  c" {
		t.Errorf("%q", got)
	}
}
