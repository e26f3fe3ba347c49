package config

import (
	"encoding/json"
	"math"
	"net/netip"
	"strings"
	"testing"
)

// TestNumbers has the numbers of RFC 8785, appendix B.
func TestNumbers(t *testing.T) {
	for bits, want := range map[uint64]string{
		0x0000000000000000: "0",
		0x8000000000000000: "0",
		0x0000000000000001: "5e-324",
		0x8000000000000001: "-5e-324",
		0x7fefffffffffffff: "1.7976931348623157e+308",
		0xffefffffffffffff: "-1.7976931348623157e+308",
		0x4340000000000000: "9007199254740992",
		0xc340000000000000: "-9007199254740992",
		0x4430000000000000: "295147905179352830000",
		0x44b52d02c7e14af5: "9.999999999999997e+22",
		0x44b52d02c7e14af6: "1e+23",
		0x44b52d02c7e14af7: "1.0000000000000001e+23",
		0x444b1ae4d6e2ef4e: "999999999999999700000",
		0x444b1ae4d6e2ef4f: "999999999999999900000",
		0x444b1ae4d6e2ef50: "1e+21",
		0x3eb0c6f7a0b5ed8c: "9.999999999999997e-7",
		0x3eb0c6f7a0b5ed8d: "0.000001",
		0x41b3de4355555553: "333333333.3333332",
		0x41b3de4355555554: "333333333.33333325",
		0x41b3de4355555555: "333333333.3333333",
		0x41b3de4355555556: "333333333.3333334",
		0x41b3de4355555557: "333333333.33333343",
		0xbecbf647612f3696: "-0.0000033333333333333333",
		0x43143ff3c1cb0959: "1424953923781206.2",
	} {
		got, err := Canonical(math.Float64frombits(bits))
		if err != nil || string(got) != want {
			t.Errorf("%016x: got %s, %v; want %s", bits, got, err, want)
		}
	}
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		if got, err := Canonical(f); err == nil {
			t.Errorf("%v gives %s", f, got)
		}
	}
}

// TestCanonical has the examples of RFC 8785, sections 3.2.2 to 3.2.4.
func TestCanonical(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{
			`{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
			  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
			  "literals": [null, true, false]}`,
			`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`,
		},
		{
			`{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One",
			  "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"}`,
			`{"\r":"Carriage Return","1":"One","` + "\u0080" + `":"Control","ö":"Latin Small Letter O With Diaeresis","€":"Euro Sign",` +
				`"😀":"Emoji: Grinning Face","` + "\ufb33" + `":"Hebrew Letter Dalet With Dagesh"}`,
		},
		{`"\b\t\n\f\r\u0001\u001f\u007f<>&\u2028"`, "\"\\b\\t\\n\\f\\r\\u0001\\u001f\u007f<>&\u2028\""},
		{`{}`, `{}`}, {`[]`, `[]`}, {`[[],{"a":{}}]`, `[[],{"a":{}}]`},
	} {
		var v any
		if err := json.Unmarshal([]byte(c.in), &v); err != nil {
			t.Fatal(err)
		}
		got, err := Canonical(v)
		if err != nil || string(got) != c.want {
			t.Errorf("got  %s, %v\nwant %s", got, err, c.want)
		}
	}
	for _, v := range []any{"\xff", map[string]any{"\xff": nil}, 1, []any{struct{}{}}} {
		if got, err := Canonical(v); err == nil {
			t.Errorf("%v gives %s", v, got)
		}
	}
}

// FuzzCanonical: what comes out reads back as what went in, and is stable.
func FuzzCanonical(f *testing.F) {
	f.Add(`{"b":[1.5e300,-0.0,"\u0000é"],"a":{"x":null}}`)
	f.Fuzz(func(t *testing.T, in string) {
		var v any
		if json.Unmarshal([]byte(in), &v) != nil {
			t.Skip()
		}
		once, err := Canonical(v)
		if err != nil {
			t.Fatal(err)
		}
		var w any
		if err := json.Unmarshal(once, &w); err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		twice, err := Canonical(w)
		if err != nil || string(twice) != string(once) {
			t.Fatalf("%s becomes %s, %v", once, twice, err)
		}
	})
}

func TestSize(t *testing.T) {
	for in, want := range map[string]int64{
		"50MB": 50_000_000, "64MiB": 64 << 20, "1 GB": 1_000_000_000, "0B": 0, "3KB": 3000, "3KiB": 3072, "1TiB": 1 << 40, "8000000TB": 8e18,
	} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err != nil || int64(s) != want {
			t.Errorf("%s: %d, %v", in, s, err)
		}
		var again Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%s prints as %s, which reads as %d, %v", in, s, again, err)
		}
	}
	for _, in := range []string{"", "50", "MB", "-1MB", "1.5GB", "50mb", "50 M", "9300000TB", "99999999999999999999B", "+5MB"} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q is %d", in, s)
		}
	}
}

func TestSuggest(t *testing.T) {
	for name, want := range map[string]string{
		"adress": "; did you mean address?", "sdress": "; did you mean address?", "xyzzy": "; the keys are address, tls", "tsl": "; did you mean tls?",
		strings.Repeat("a", 100): "; the keys are address, tls",
	} {
		if got := suggest(name, []string{"tls", "address"}, "keys"); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if d := editDistance("ca", "abc"); d != 3 {
		t.Errorf("distance %d", d)
	}
}

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, one := range s {
		out = append(out, netip.MustParseAddr(one))
	}
	return out
}

func TestSnippet(t *testing.T) {
	long := strings.Repeat("x", 300) + "Y" + strings.Repeat("z", 300)
	s := snippet(long, 301)
	line, caret, _ := strings.Cut(s, "\n")
	if len(line) > snippetWidth || line[len(caret)-1] != 'Y' {
		t.Errorf("%q", s)
	}
	if got := snippet("a: \x1b[31m", 4); strings.Contains(got, "\x1b") {
		t.Errorf("%q", got)
	}
	if got := snippet("tls: {x: 1, Password: \"a,b\", y: 2}", 3); strings.Contains(got, "a,b") {
		t.Errorf("%q", got)
	}
}
